"""A strike: one planned fault aimed at one request, at the point that the plan names.

It sends the request so that the fault meets it where it should, causes the fault, sees the damage, and
says what the request then met with: an answer all the same, or damage to recover from.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pytest_webaccel.errors import DamagedLaneError, FaultError
from pytest_webaccel.pool.target import LaneTarget
from pytest_webaccel.terms import Damage, FaultPoint, Symptom

if TYPE_CHECKING:
    import random

    from pytest_webaccel.faults.injector import Injector
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.request import Request
    from pytest_webaccel.pool.target import Place

__all__ = ["CAUSE_S", "OBSERVE_S", "Met", "Strike"]

T = TypeVar("T")

#: Seconds to cause a fault, to see its damage, and for the page to take a request up before that.
CAUSE_S = 10.0
OBSERVE_S = 15.0
_STARTED_S = 30.0
_ROLL_BACK_S = 5.0

#: Points at which an answer may rightly come all the same: the fault may strike after the work was done.
_LATE = frozenset({FaultPoint.MID_TRANSFER, FaultPoint.RANDOM, FaultPoint.AFTER})
#: Points at which the page holds the request until the fault has struck.
_HELD = frozenset({FaultPoint.MID_REQUEST, FaultPoint.MID_LOAD, FaultPoint.DURING_RECOVERY})


@dataclasses.dataclass(frozen=True, slots=True)
class Met(Generic[T]):
    """What a struck request met with: ``damage``, or an ``answer`` all the same; both where it broke after that.

    ``fault_at`` is loop time.
    """

    fault_at: float
    damage: Damage | None = None
    answer: T | None = None


class Strike:
    """One fault at one request of a lane.

    ``undisturbed_s`` is how long the request takes undisturbed, ``answer_bytes`` how much comes back;
    ``chance`` draws the moments that the plan leaves open.
    """

    def __init__(
        self,
        lane: LiveLane,
        target: LaneTarget,
        injector: Injector,
        point: FaultPoint,
        *,
        undisturbed_s: float,
        answer_bytes: int,
        chance: random.Random,
    ) -> None:
        self._lane = lane
        self._target = target
        self._injector = injector
        self._point = point
        self._undisturbed_s = undisturbed_s
        self._answer_bytes = answer_bytes
        self._chance = chance
        self._fault_at: float | None = None
        self._damage: Damage | None = None
        self._struck_again = False

    async def meet(self, request: Request[T]) -> Met[T]:
        """Send ``request`` and strike; return what it met with. :meth:`roll_back` must follow, whatever happens.

        Raises FaultError when the fault could not be caused, did no harm, or the request was answered
        although its page cannot have lived.
        """
        self._lane.here.damages.clear()
        try:
            if self._point is FaultPoint.BEFORE:
                await self._cause()
                if self._damage is not None and not self._injector.degrades:
                    return self._met()
            answer = await self._send(request)
        except DamagedLaneError as error:
            if self._fault_at is None:
                raise FaultError(f"{self._lane.name}: {self._injector.fault} was not caused: {error}") from error
            self._worse(error.damage)
            return self._met()
        if self._fault_at is None:
            raise FaultError(f"{self._lane.name}: {self._injector.fault} never struck")
        if self._injector.degrades:
            return Met(self._fault_at, answer=answer)
        if self._point not in _LATE:
            seen = f"seen as {self._damage.symptom}" if self._damage else "not seen"
            raise FaultError(
                f"{self._lane.name}: {self._injector.fault} was caused, {seen}, and yet the request was answered: it "
                "proves no recovery"
            )
        return Met(self._fault_at, self._damage, answer)

    async def again(self, place: Place) -> None:
        """Strike once more: the first lane that recovery has mended, before anything else is done there."""
        if self._point is not FaultPoint.DURING_RECOVERY or self._struck_again:
            return
        self._struck_again = True
        await self._injector.cause(LaneTarget(self._lane, place), deadline=CAUSE_S)

    async def roll_back(self) -> None:
        """Take away what the fault left in place."""
        try:
            async with asyncio.timeout(_ROLL_BACK_S):
                await self._injector.roll_back(self._target, deadline=_ROLL_BACK_S)
        finally:
            await self._target.roll_back_later()

    # -- inside ------------------------------------------------------------------------------

    def _met(self) -> Met[T]:
        assert self._fault_at is not None
        assert self._damage is not None
        return Met(self._fault_at, damage=self._damage)

    async def _send(self, request: Request[T]) -> T:
        held = self._point in _HELD
        gate = self._gate() if self._point is FaultPoint.MID_TRANSFER else None
        request.send(hold=held)
        waiting = asyncio.ensure_future(request.answer())
        try:
            await self._until_the_point(request, gate, waiting)
            if gate is not None:
                await self._cause_at_the_gate()
            elif self._fault_at is None:
                await self._cause()
            request.release()
            return await waiting
        finally:
            if gate is not None:
                gate.cancel()
                self._release_gate()
            waiting.cancel()
            await asyncio.gather(waiting, *([gate] if gate is not None else []), return_exceptions=True)

    async def _until_the_point(
        self, request: Request[T], gate: asyncio.Future[None] | None, waiting: asyncio.Future[T]
    ) -> None:
        match self._point:
            case FaultPoint.MID_REQUEST | FaultPoint.MID_LOAD | FaultPoint.DURING_RECOVERY:
                await request.started(deadline=_STARTED_S)
            case FaultPoint.MID_TRANSFER:
                assert gate is not None
                await _either(gate, waiting)
            case FaultPoint.RANDOM:
                pause = asyncio.ensure_future(asyncio.sleep(self._chance.uniform(0.0, self._undisturbed_s)))
                await _either(pause, waiting)
                pause.cancel()
            case FaultPoint.AFTER:
                await waiting
            case FaultPoint.BEFORE:
                pass

    async def _cause_at_the_gate(self) -> None:
        """Cause the fault while the answer is held; what needs a word from the page gets it, as the answer goes on."""
        striking = asyncio.ensure_future(self._cause())
        try:
            await asyncio.sleep(0)
            self._release_gate()
            await striking
        finally:
            striking.cancel()
            await asyncio.gather(striking, return_exceptions=True)

    def _gate(self) -> asyncio.Future[None]:
        """Hold the answer on its way, once a drawn share of its bytes has passed."""
        passed = self._chance.randrange(1, max(self._answer_bytes, 2))
        return asyncio.ensure_future(self._target.link.hold_after("upstream", passed, deadline=_STARTED_S))

    def _release_gate(self) -> None:
        with contextlib.suppress(Exception):  # the lane may have no page any more, nor a link
            self._target.link.release()

    async def _cause(self) -> None:
        loop = asyncio.get_running_loop()
        self._fault_at = loop.time()
        await self._injector.cause(self._target, deadline=CAUSE_S)
        if not self._injector.seen_by_request:
            self._damage = await self._injector.observe(self._target, deadline=OBSERVE_S)
            if self._damage.symptom is Symptom.HEARTBEAT_MISSED:  # nothing closes, so nobody else tells the request
                self._lane.here.channel.damaged(self._damage)

    def _worse(self, damage: Damage) -> None:
        """Keep ``damage``, unless it is only the first sign of what was seen already."""
        if self._damage is None or damage.symptom is not Symptom.SOCKET_CLOSED:
            self._damage = damage


async def _either(first: asyncio.Future[Any], second: asyncio.Future[Any]) -> None:
    """Wait until one of the two is done."""
    await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
