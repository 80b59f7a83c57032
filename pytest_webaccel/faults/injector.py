"""What a fault injector is: say where it means anything, cause, observe, roll back.

The four steps are those of chaos experiments (Chaos Toolkit, Jepsen). An injector knows one fault;
what it breaks stands behind :class:`FaultTarget`.
"""

from __future__ import annotations

import abc
import asyncio
import logging
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pytest_webaccel.errors import BridgeError, DamagedLaneError, FaultError, LaneUnavailableError, WebAccelError
from pytest_webaccel.terms import Damage

if TYPE_CHECKING:
    import random
    from collections.abc import Coroutine, Mapping, Sequence

    from pytest_webaccel.bridge.toxics import Link
    from pytest_webaccel.browsers.driver import Driver
    from pytest_webaccel.terms import Fault, FaultPoint, ProbeResult, Symptom

__all__ = ["BaseInjector", "FaultTarget", "Injector", "first_of", "silent"]

_log = logging.getLogger(__name__)

#: Seconds between two words to a page that still answers.
_PAUSE_S = 0.05


class FaultTarget(Protocol):
    """A lane as an injector sees it."""

    @property
    def driver(self) -> Driver:
        """The driver of the lane's browser."""
        ...

    @property
    def probe(self) -> ProbeResult:
        """What the probe saw of the lane."""
        ...

    def abort_connection(self) -> None:
        """Abort the bridge's TCP connection at once, in mid-message, without a closing handshake.

        Raises BridgeError when no page is connected.
        """
        ...

    @property
    def link(self) -> Link:
        """The network path between the lane's page and the bridge, where toxics are laid."""
        ...

    async def harm(self, kind: str, arguments: Mapping[str, Any] | None = None, *, deadline: float) -> None:
        """Have the page harm itself (``page/harm.mjs``); returns once it is done, BridgeError where it is not."""
        ...

    def post_harm(self, kind: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Have the page harm itself in a way that it cannot answer to, such as a loop without end."""
        ...

    async def round_trip(self, *, deadline: float) -> float:
        """Return the milliseconds that a word to the page's JavaScript and back takes now.

        Raises TimeoutError, or a WebAccelError, where none comes within ``deadline`` seconds.
        """
        ...

    def others(self) -> Sequence[Driver]:
        """Every other running browser of this process: the lane's spare, other lanes and theirs."""
        ...

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on with ``work`` in the background until it ends or :meth:`roll_back_later` cancels it."""
        ...

    async def roll_back_later(self) -> None:
        """Cancel what :meth:`later` began and still runs; returns once it ended."""
        ...

    async def damage(self, symptoms: frozenset[Symptom], *, deadline: float) -> Damage:
        """Return the first damage with one of ``symptoms`` seen since the fault was caused.

        Damage seen before the call, but after the fault, counts. Waits at most ``deadline`` seconds,
        then raises TimeoutError.
        """
        ...


class Injector(Protocol):
    """One fault. What :meth:`drawn` returns serves one strike; before that the same injector serves every lane."""

    @property
    def fault(self) -> Fault:
        """Which fault this causes."""
        ...

    @property
    def symptoms(self) -> frozenset[Symptom]:
        """The damage as which the fault must be seen."""
        ...

    @property
    def variety(self) -> str:
        """Which of the fault's kinds it causes; empty where there are none, or one is still to be drawn."""
        ...

    @property
    def seen_by_request(self) -> bool:
        """Whether only the request itself can see the damage, so that nothing is to be observed before it goes on."""
        ...

    @property
    def degrades(self) -> bool:
        """Whether the lane goes on, only worse, so that the request may rightly be answered all the same."""
        ...

    def meaning(self, lane: ProbeResult) -> str | None:
        """Return None where the fault means something on ``lane``, else the reason why it does not."""
        ...

    def misfit(self, point: FaultPoint) -> str | None:
        """Return None where the fault can meet a request at ``point``, else the reason why it never does."""
        ...

    def drawn(self, chance: random.Random, lane: ProbeResult) -> Injector:
        """Return this injector for one strike on ``lane``, with what it leaves open (kinds, moments) drawn."""
        ...

    async def cause(self, target: FaultTarget, *, deadline: float) -> None:
        """Really cause the fault, within ``deadline`` seconds.

        Raises FaultError when it has no meaning on the lane or cannot be caused.
        """
        ...

    async def observe(self, target: FaultTarget, *, deadline: float) -> Damage:
        """Return the damage once it is seen, within ``deadline`` seconds.

        Raises FaultError when it never shows: a fault that did no harm is not a fault.
        """
        ...

    async def roll_back(self, target: FaultTarget, *, deadline: float) -> None:
        """Take away what causing the fault left in place, so that only the damage remains to be mended."""
        ...


class BaseInjector(abc.ABC):
    """What injectors share. A subclass names ``fault`` and ``symptoms`` and says how to break things.

    ``misfits`` are the points at which the fault can meet no request, each with the reason.
    """

    fault: Fault
    symptoms: frozenset[Symptom]
    seen_by_request: ClassVar[bool] = False
    misfits: ClassVar[Mapping[FaultPoint, str]] = {}

    @property
    def variety(self) -> str:
        """Empty: of most faults there is one kind."""
        return ""

    @property
    def degrades(self) -> bool:
        """Whether the lane goes on, only worse: not so for a blow."""
        return False

    def meaning(self, lane: ProbeResult) -> str | None:  # noqa: ARG002 - the Protocol's signature
        """Return None: the fault means something on every lane, unless a subclass knows better."""
        return None

    def misfit(self, point: FaultPoint) -> str | None:
        """Return why the fault never meets a request at ``point``; None where it does."""
        return self.misfits.get(point)

    def drawn(self, chance: random.Random, lane: ProbeResult) -> Injector:  # noqa: ARG002 - the Protocol's signature
        """Return this very injector: it leaves nothing open and keeps nothing."""
        return self

    async def cause(self, target: FaultTarget, *, deadline: float) -> None:
        """Cause the fault. Raises FaultError when it has no meaning on the lane or cannot be caused."""
        where = target.probe.lane
        if reason := self.meaning(target.probe):
            raise FaultError(f"{where}: fault {self.fault} has no meaning here: {reason}")
        try:
            await self._break(target, deadline)
        except FaultError:
            raise
        except DamagedLaneError as error:
            if error.damage.symptom not in self.symptoms:  # else the page was hurt before it could say that it is done
                raise FaultError(f"{where}: {self.fault} cannot be caused: {error}") from error
        except TimeoutError as error:
            why = f"it took more than {deadline:g} s"
            raise FaultError(f"{where}: {self.fault} cannot be caused: {why}") from error
        except WebAccelError as error:
            raise FaultError(f"{where}: {self.fault} cannot be caused: {error}") from error

    async def observe(self, target: FaultTarget, *, deadline: float) -> Damage:
        """Return the damage once it is seen. Raises FaultError when ``deadline`` seconds pass without."""
        try:
            async with asyncio.timeout(deadline):
                return await self._see(target, deadline)
        except TimeoutError as error:
            wanted = " or ".join(sorted(self.symptoms))
            raise FaultError(
                f"{target.probe.lane}: fault {self.fault} was caused but did no harm: no {wanted} was seen within "
                f"{deadline:g} s. Either the browser withstands it, or detection is blind to it; "
                f"python -m pytest_webaccel doctor shows what the lane can do"
            ) from error

    async def roll_back(self, target: FaultTarget, *, deadline: float) -> None:
        """Take away what the fault left in place; what was lost with page or browser is gone already."""
        try:
            await self._undo(target, deadline)
        except (LaneUnavailableError, DamagedLaneError, BridgeError) as error:
            _log.debug("%s: nothing left of %s to roll back: %s", target.probe.lane, self.fault, error)

    @abc.abstractmethod
    async def _break(self, target: FaultTarget, deadline: float) -> None:
        """Break what the fault breaks. What of ours it raises becomes a FaultError that says so."""

    async def _undo(self, target: FaultTarget, deadline: float) -> None:  # noqa: B027 - nothing by default
        """Do nothing: the fault is a blow, which leaves nothing in place."""

    async def _see(self, target: FaultTarget, deadline: float) -> Damage:
        """Return the damage once it is seen; TimeoutError where it is not."""
        return await target.damage(self.symptoms, deadline=deadline)


async def first_of(*works: Coroutine[Any, Any, Damage]) -> Damage:
    """Return what the first of ``works`` to succeed returns; raises what the last of them raised where none does."""
    left = {asyncio.ensure_future(work) for work in works}
    try:
        while True:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None or not left:
                    return task.result()
    finally:
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def silent(target: FaultTarget, symptom: Symptom, *, patience_s: float) -> Damage:
    """Return damage with ``symptom`` once the page left a word unanswered for ``patience_s`` seconds.

    This is the heartbeat asked for: a fault that silences a page need not wait until the next beat is missed, which
    takes long while a request is under way. Asks again as long as the page answers.
    """
    clock = asyncio.get_running_loop().time
    while True:
        asked = clock()
        try:
            async with asyncio.timeout(patience_s):
                await target.round_trip(deadline=patience_s)
        except (TimeoutError, WebAccelError):
            # A refusal at once, as without a connection, says nothing of silence.
            if clock() - asked >= 0.9 * patience_s:
                return Damage(symptom, f"the page left a word unanswered for {patience_s:g} s", clock())
        await asyncio.sleep(_PAUSE_S)
