"""Several faults as one: ``cascade``, ``multi_browser``, ``staggered``, and pairs. Built of the single ones."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, ClassVar

from pytest_webaccel.errors import BrowserError, FaultError, WebAccelError
from pytest_webaccel.faults.browser_crash import BrowserCrash
from pytest_webaccel.faults.connection_lost import ConnectionLost
from pytest_webaccel.faults.device_destroyed import DeviceDestroyed
from pytest_webaccel.faults.device_lost import DeviceLost
from pytest_webaccel.faults.injector import BaseInjector
from pytest_webaccel.faults.page_crash import PageCrash
from pytest_webaccel.faults.page_reload import PageReload
from pytest_webaccel.terms import Fault, FaultPoint, Symptom

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from pytest_webaccel.faults.injector import FaultTarget, Injector
    from pytest_webaccel.terms import Damage, ProbeResult

__all__ = ["Cascade", "MultiBrowser", "Pair", "Staggered"]

_log = logging.getLogger(__name__)


class _Composite(BaseInjector):
    """Parts in order. What one part's fault leaves in place is rolled back with the others'."""

    def __init__(self, parts: Sequence[Injector]) -> None:
        self.parts = tuple(parts)

    def meaning(self, lane: ProbeResult) -> str | None:
        """Return None where every part has a meaning, else the first one's reason."""
        reasons = ((part.fault, part.meaning(lane)) for part in self.parts)
        return next((f"its part {fault}: {reason}" for fault, reason in reasons if reason), None)

    def misfit(self, point: FaultPoint) -> str | None:
        """Return None where every part can meet a request at ``point``, else the first one's reason."""
        return next((reason for part in self.parts if (reason := part.misfit(point))), None)

    async def roll_back(self, target: FaultTarget, *, deadline: float) -> None:
        """Roll back every part, also where one of them cannot."""
        failed: WebAccelError | None = None
        for part in reversed(self.parts):
            try:
                await part.roll_back(target, deadline=deadline)
            except WebAccelError as error:
                failed = failed or error
        if failed is not None:
            raise failed


class Cascade(_Composite):
    """One fault leads to the next: as soon as the damage of one is seen, the following one is caused.

    By default the device is lost (where there is one; elsewhere the connection), then the page crashes (where it can
    alone), then the whole browser: what a dying graphics driver does to a browser. The damage is the last one's.
    """

    fault = Fault.CASCADE
    symptoms = frozenset({Symptom.BROWSER_EXITED})

    def __init__(self, parts: Sequence[Injector] = ()) -> None:
        super().__init__(parts)

    def drawn(self, chance: random.Random, lane: ProbeResult) -> Injector:
        """Return the injector of one strike, its parts drawn in turn."""
        return Cascade([part.drawn(chance, lane) for part in self._chain(lane)])

    async def _break(self, target: FaultTarget, deadline: float) -> None:
        chain = self._chain(target.probe)
        async with asyncio.timeout(deadline):
            for number, part in enumerate(chain):
                await part.cause(target, deadline=deadline)
                if number < len(chain) - 1:
                    await part.observe(target, deadline=deadline)

    async def _see(self, target: FaultTarget, deadline: float) -> Damage:
        return await self._chain(target.probe)[-1].observe(target, deadline=deadline)

    def _chain(self, lane: ProbeResult) -> Sequence[Injector]:
        if self.parts:
            return self.parts
        first: Injector = DeviceLost()
        chain = (ConnectionLost() if first.meaning(lane) else first, PageCrash(), BrowserCrash())
        return [part for part in chain if not part.meaning(lane)]


class MultiBrowser(BaseInjector):
    """Kills the lane's browser and every other running browser of this process at once, warm spares included."""

    fault = Fault.MULTI_BROWSER
    symptoms = frozenset({Symptom.BROWSER_EXITED})

    async def _break(self, target: FaultTarget, deadline: float) -> None:  # noqa: ARG002 - signals take no time
        if target.driver.pid is None:
            raise BrowserError("the lane's browser is not running")
        for driver in (target.driver, *target.others()):
            driver.kill()


class Staggered(_Composite):
    """Two or three blows, the first now, the others 20 to 400 ms apart: they strike while recovery is under way.

    Which ones and when is drawn for each strike. A later blow is dealt to whatever is in the lane's place by then;
    where that is nothing, because the lane is being replaced, it is left out, and ``left_out`` says why.
    """

    fault = Fault.STAGGERED
    symptoms = frozenset({Symptom.SOCKET_CLOSED, Symptom.PAGE_CRASHED, Symptom.PAGE_REPLACED, Symptom.BROWSER_EXITED})
    symptoms |= frozenset({Symptom.DEVICE_LOST})
    FIRST_MS: ClassVar[int] = 20
    LAST_MS: ClassVar[int] = 400
    _BLOWS: ClassVar[Sequence[Injector]] = (
        ConnectionLost(),
        PageCrash(),
        PageReload(),
        BrowserCrash(),
        DeviceLost(),
        DeviceDestroyed(),
    )

    def __init__(self, parts: Sequence[Injector] = (), delays_ms: Sequence[float] = ()) -> None:
        super().__init__(parts or (ConnectionLost(), BrowserCrash()))
        self.delays_ms = tuple(delays_ms) or (100.0,) * (len(self.parts) - 1)
        self.left_out: list[str] = []
        if len(self.delays_ms) != len(self.parts) - 1:
            raise FaultError(f"{self.fault}: {len(self.parts)} blows have one delay less than that between them")

    def drawn(self, chance: random.Random, lane: ProbeResult) -> Injector:
        """Return the injector of one strike, its blows and the times between them drawn."""
        fitting = [blow for blow in self._BLOWS if not blow.meaning(lane)]
        parts = [chance.choice(fitting).drawn(chance, lane) for _ in range(chance.choice((2, 3)))]
        return Staggered(parts, [chance.uniform(self.FIRST_MS, self.LAST_MS) for _ in parts[1:]])

    async def _break(self, target: FaultTarget, deadline: float) -> None:
        await self.parts[0].cause(target, deadline=deadline)
        target.later(self._others(target, deadline))

    async def _see(self, target: FaultTarget, deadline: float) -> Damage:
        return await self.parts[0].observe(target, deadline=deadline)

    async def _others(self, target: FaultTarget, deadline: float) -> None:
        for part, delay in zip(self.parts[1:], self.delays_ms, strict=True):
            await asyncio.sleep(delay / 1000)
            try:
                await part.cause(target, deadline=deadline)
            except WebAccelError as error:
                self.left_out.append(f"{part.fault}: {error}")
                _log.info("%s: %s of %s was left out: %s", target.probe.lane, part.fault, self.fault, error)


class Pair(_Composite):
    """Two faults back to back: the second is caused at once, without waiting until the first one's damage is seen.

    The damage is the second one's. ``fault`` is the word under which rows tell of it.
    """

    def __init__(self, first: Injector, second: Injector, fault: Fault = Fault.CASCADE) -> None:
        super().__init__((first, second))
        self.fault = fault
        self.symptoms = second.symptoms

    def drawn(self, chance: random.Random, lane: ProbeResult) -> Injector:
        """Return the pair of one strike, its parts drawn in turn."""
        first, second = (part.drawn(chance, lane) for part in self.parts)
        return Pair(first, second, self.fault)

    async def _break(self, target: FaultTarget, deadline: float) -> None:
        for part in self.parts:
            await part.cause(target, deadline=deadline)

    async def _see(self, target: FaultTarget, deadline: float) -> Damage:
        return await self.parts[-1].observe(target, deadline=deadline)
