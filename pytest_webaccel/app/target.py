"""The user's app as faults see it (:class:`~pytest_webaccel.faults.injector.FaultTarget`)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from pytest_webaccel.app import script
from pytest_webaccel.errors import BrowserError, DamagedLaneError, RemoteError, WebAccelError
from pytest_webaccel.faults.later import Later
from pytest_webaccel.terms import Damage, Symptom

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pytest_webaccel.app.network import AppNetwork
    from pytest_webaccel.bridge.toxics import Link
    from pytest_webaccel.browsers.attach import Attachable
    from pytest_webaccel.browsers.driver import Driver
    from pytest_webaccel.terms import ProbeResult

__all__ = ["AppTarget"]

#: Seconds that one look into the page may take before it is made anew.
_LOOK_S = 30.0
#: Seconds to make ready for a fault in the page.
_READY_S = 10.0
#: Damage of which page or device are dead, and the seconds within which it is told.
_DEATHS = frozenset({Symptom.PAGE_CRASHED, Symptom.BROWSER_EXITED, Symptom.DEVICE_LOST})
_TOLD_S = 0.5
#: Seconds between two looks into a page that cannot be looked into now, since it is being replaced.
_PAUSE_S = 0.02


class AppTarget(Later):
    """One fault's view of the app: breaks its browser, page, devices and connections, and hears what broke.

    Between :meth:`attend` and :meth:`leave` it collects every damage that is seen.
    """

    def __init__(self, driver: Attachable, probe: ProbeResult, network: AppNetwork) -> None:
        super().__init__()
        self._driver = driver
        self._probe = probe
        self._network = network
        self._seen: list[Damage] = []
        self._news = asyncio.Event()
        self._attending = False
        self._watcher: asyncio.Task[None] | None = None
        self._words = itertools.count()
        driver.on_damage(self._hear)

    @property
    def driver(self) -> Driver:
        """The driver of the app's browser."""
        return self._driver

    @property
    def probe(self) -> ProbeResult:
        """What the probe saw of the lane that the browser is of."""
        return self._probe

    @property
    def link(self) -> Link:
        """The network path between the app's page and its own server."""
        return self._network.link

    def now(self) -> float:
        """Return the moment, in seconds on the loop's clock."""
        return asyncio.get_running_loop().time()

    async def attend(self) -> bool:
        """Look out for damage from now on; return whether the app's page holds a WebGPU device.

        Raises BrowserError where the page cannot be looked into.
        """
        await self.leave()
        answer = await self._driver.evaluate(script.attend(), deadline=_READY_S)
        document, losses = _told(answer)
        self._attending = True
        self._watcher = asyncio.ensure_future(self._watch(document, losses))
        told = answer if isinstance(answer, dict) else {}
        self._driver.led_to(str(told.get("address")))
        return told.get("gpus") is True

    async def leave(self) -> None:
        """Look out no more, and forget what was seen."""
        self._attending = False
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        self._seen.clear()

    def abort_connection(self) -> None:
        """Reset every connection that the app has to its own server."""
        number = self._network.link.present()
        self._network.link.reset()
        words = f"connections of the app to its server that were reset: {number}"
        self._hear(Damage(Symptom.SOCKET_CLOSED, words, self.now()))

    async def harm(self, kind: str, arguments: Mapping[str, Any] | None = None, *, deadline: float) -> None:
        """Have the page harm itself; returns once it is done.

        Raises RemoteError where the page cannot, DamagedLaneError where it dies of it, BrowserError where it does
        not answer within ``deadline`` seconds.
        """
        args = arguments or {}
        if kind == "speak":  # no harm: the page says so many bytes to its server
            await self._driver.evaluate(script.probe(next(self._words), int(args["bytes"])), deadline=deadline)
            return
        try:
            answer = await self._driver.evaluate(script.harm(kind, args), deadline=deadline)
        except BrowserError as error:
            await self._raise_death(error)
            raise
        refused = answer.get("error") if isinstance(answer, dict) else None
        if isinstance(refused, dict):
            refusal = RemoteError(str(refused.get("kind"))[:64], str(refused.get("message"))[:500])
            if refusal.kind == "page":  # what no harm says of itself: something died under it
                await self._raise_death(refusal)
            raise refusal

    async def _raise_death(self, error: WebAccelError) -> None:
        """Raise DamagedLaneError where a death explains ``error``: it is told a moment sooner or later."""
        with contextlib.suppress(TimeoutError):
            damage = await self.damage(_DEATHS, deadline=_TOLD_S)
            raise DamagedLaneError(damage, str(self._probe.lane)) from error

    async def round_trip(self, *, deadline: float) -> float:
        """Return the milliseconds that a word takes to the page's script, to the app's server and all the way back."""
        begun = self.now()
        await self._driver.evaluate(script.probe(next(self._words)), deadline=deadline)
        return (self.now() - begun) * 1000

    def others(self) -> Sequence[Driver]:
        """Return nothing: no other browser belongs to the app."""
        return ()

    async def damage(self, symptoms: Collection[Symptom], *, deadline: float) -> Damage:
        """Return the first damage with one of ``symptoms`` since :meth:`attend`; TimeoutError past ``deadline``."""
        async with asyncio.timeout(deadline):
            while True:
                for damage in self._seen:
                    if damage.symptom in symptoms:
                        return damage
                self._news.clear()
                await self._news.wait()

    # -- inside ------------------------------------------------------------------------------

    def _hear(self, damage: Damage) -> None:
        if self._attends():
            self._seen.append(damage)
            self._news.set()

    def _attends(self) -> bool:
        return self._attending

    async def _watch(self, document: str, losses: int) -> None:
        """Hear what only the page knows: a device that was lost, a document that was replaced."""
        while self._attends():  # asked each time, since a cancellation that comes with an answer is lost
            try:
                answer = await self._driver.evaluate(script.next_loss(losses), deadline=_LOOK_S)
                present, total = _told(answer)
            except BrowserError:  # hung, crashed, or between two documents
                if not self._attends():
                    return
                await asyncio.sleep(_PAUSE_S)
                with contextlib.suppress(BrowserError):
                    present, losses = _told(await self._driver.evaluate(script.next_loss(-1), deadline=_LOOK_S))
                    if present != document:
                        document = present
                        self._hear(Damage(Symptom.PAGE_REPLACED, "another document is in the app's tab", self.now()))
                continue
            if present == document and total > losses:
                self._hear(Damage(Symptom.DEVICE_LOST, _words(answer), self.now()))
            losses = total


def _told(answer: object) -> tuple[str, int]:
    """Return the document and the number of losses in what a page told; BrowserError for anything else."""
    if isinstance(answer, dict):
        document, total = answer.get("id"), answer.get("total")
        if isinstance(document, str) and type(total) is int:
            return document, total
    raise BrowserError("the app's page does not answer as the script in it would: it shows no document of the app")


def _words(answer: object) -> str:
    losses = answer.get("losses") if isinstance(answer, dict) else None
    last = losses[-1] if isinstance(losses, list) and losses else {}
    told = last if isinstance(last, dict) else {}
    return f"a device of the app was lost: {str(told.get('reason'))[:32]}, {str(told.get('message'))[:200]}"
