"""The shell around the engine: carries out its decisions on a lane and tells it how they went.

This is the only module of the folder that awaits anything. It keeps no state of its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from pytest_webaccel.errors import DamagedLaneError, FeedError, ModelError, RecoveryError, RemoteError
from pytest_webaccel.recovery.engine import Decision, Do, GaveUp, RecoveryMachine, Survey
from pytest_webaccel.recovery.rungs import STAGES, Step

if TYPE_CHECKING:
    from pytest_webaccel.recovery.strategies import RecoveryStrategy
    from pytest_webaccel.terms import Damage, Lane, Phases

__all__ = ["ANSWERS", "GivenUpError", "Recovery", "Repairable", "Replay", "recover"]

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

#: Sends the original request again, under its original id, and returns its checked result. The
#: argument is the deadline in seconds from now.
Replay: TypeAlias = Callable[[float], Awaitable[T]]

#: Errors that a replay raises when the lane is whole and the request itself is at fault: they are
#: the request's true answer.
ANSWERS: tuple[type[Exception], ...] = (RemoteError, ModelError, FeedError)

_log = logging.getLogger(__name__)


class Repairable(Protocol):
    """A lane as recovery sees it.

    Every coroutine takes ``deadline``, seconds from now, and raises
    :class:`~pytest_webaccel.errors.DamagedLaneError` when the lane breaks anew during it; any other
    exception means that the step failed. Each may be cancelled at any await.
    """

    @property
    def name(self) -> Lane:
        """Which lane this is."""
        ...

    def survey(self) -> Survey:
        """Return what could be had now to mend the lane with."""
        ...

    async def resend(self, *, deadline: float) -> None:
        """Have the page send again what arrived damaged; what it computed it still holds."""
        ...

    async def reconnect(self, *, deadline: float) -> None:
        """Wait until the page that is there has resumed its session, over a new connection where it was silent."""
        ...

    async def reload_models(self, *, deadline: float) -> None:
        """Drop the models that the page holds and load them again, in the same page on the same device."""
        ...

    async def adopt_page(self, *, deadline: float) -> None:
        """Take the page that came by itself in place of the lane's own; it holds no models yet."""
        ...

    async def new_device(self, *, deadline: float) -> None:
        """Have the page take a new adapter and device; its models are lost."""
        ...

    async def new_page(self, *, deadline: float) -> None:
        """Replace the page in the same browser and connect it; its models are lost."""
        ...

    async def restart_browser(self, *, deadline: float) -> None:
        """End what is left of the browser, start it cold and connect a new page."""
        ...

    async def use_spare(self, *, deadline: float) -> None:
        """Put the warm spare in the lane's place."""
        ...

    async def fail_over(self, *, deadline: float) -> None:
        """Have another browser's lane, with the models loaded there, answer in this one's place."""
        ...

    async def load_models(self, *, deadline: float) -> None:
        """Load again every model that the lane had."""
        ...

    def repair_in_background(self) -> None:
        """Have the browser that a spare or another lane stands in for mended. Returns at once."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Recovery(Generic[T]):
    """A request answered after damage.

    ``phases`` are milliseconds, ``steps`` those done and ``rungs`` those begun, in order; ``attempts`` is how
    many rungs that were.
    """

    result: T
    phases: Phases
    rungs: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def attempts(self) -> int:
        """How many rungs were begun."""
        return len(self.rungs)


class GivenUpError(RecoveryError):
    """Recovery ended without an answer; says what was tried and where the time (ms) went."""

    def __init__(
        self,
        message: str,
        *,
        phases: Phases,
        rungs: tuple[str, ...],
        steps: tuple[Step, ...],
        damage: Damage,
    ) -> None:
        super().__init__(message)
        self.phases = phases
        self.rungs = rungs
        self.attempts = len(rungs)
        self.steps = steps
        self.damage = damage


async def recover(
    lane: Repairable,
    replay: Replay[T],
    *,
    damage: Damage,
    strategy: RecoveryStrategy,
    fault_at: float,
    budget_s: float,
    clock: Callable[[], float],
    mended: Callable[[Repairable], Awaitable[None]] | None = None,
) -> Recovery[T]:
    """Return the original request's result after mending ``lane``.

    ``damage`` is what the request failed with; ``fault_at``, ``damage.at`` and ``clock()`` are
    seconds on one monotonic clock; ``budget_s`` seconds count from this call. ``mended`` is awaited with
    the lane after each step that mended it, before what follows: a fault during recovery strikes there.

    Raises GivenUpError (a RecoveryError) when nothing is left to try. Errors of :data:`ANSWERS`
    raised by the replay come out as they are, at once. Cancellation comes out at once, and no step
    is left running.
    """
    machine = RecoveryMachine(
        strategy,
        budget_s=budget_s,
        fault_at=fault_at,
        damage=damage,
        survey=lane.survey,
    )
    results: list[T] = []
    answer: Exception | None = None
    cause: Exception | None = None
    decision: Decision = machine.begin(clock())
    while isinstance(decision, Do):
        _log.debug("%s: %s", lane.name, decision)
        try:
            await _carry_out(decision, lane, replay, results)
            if mended is not None and STAGES[decision.step] == 0:
                await mended(lane)
        except Exception as error:
            cause = error
            _log.debug("%s: %s failed: %r", lane.name, decision.step, error)
            if broken := _first(error, DamagedLaneError):
                decision = machine.damaged(broken.damage, clock())
            elif decision.step is Step.REPLAY and (answer := _answer(error)):
                decision = machine.step_done(clock())
            else:
                decision = machine.step_failed(_text(error), clock())
        else:
            decision = machine.step_done(clock())
    if answer is not None:
        raise answer
    if isinstance(decision, GaveUp):
        message = f"{lane.name}: recovery by strategy {strategy.name} gave up: {decision.reason}"
        gave_up = GivenUpError(
            message, phases=machine.phases, rungs=machine.rungs, steps=machine.steps, damage=machine.damage
        )
        if machine.repair_owed:
            _repair_after(gave_up, lane)
        raise gave_up from cause
    return Recovery(results[-1], machine.phases, machine.rungs, machine.steps)


async def _carry_out(do: Do, lane: Repairable, replay: Replay[T], results: list[T]) -> None:
    if do.step is Step.REPAIR_IN_BACKGROUND:
        lane.repair_in_background()
        return
    # The step knows its deadline too, but what hangs may well be the code that should look at it.
    async with asyncio.timeout(do.deadline_s):
        if do.step is Step.REPLAY:
            results.append(await replay(do.deadline_s))
        else:
            mend: Callable[..., Awaitable[None]] = getattr(lane, do.step)  # a step is called what its method is called
            await mend(deadline=do.deadline_s)


def _repair_after(gave_up: GivenUpError, lane: Repairable) -> None:
    try:
        lane.repair_in_background()
    except Exception as error:
        gave_up.add_note(f"{lane.name}: the browser that the spare replaced was not sent to repair: {error!r}")


def _first(error: Exception, kind: type[E]) -> E | None:
    """Return ``error``, or the first in its group (task groups raise groups), that is a ``kind``."""
    if isinstance(error, kind):
        return error
    if isinstance(error, ExceptionGroup):
        return next((found for inner in error.exceptions if (found := _first(inner, kind))), None)
    return None


def _answer(error: Exception) -> Exception | None:
    return next((found for kind in ANSWERS if (found := _first(error, kind))), None)


def _text(error: Exception) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "deadline passed"
    return f"{type(error).__name__}: {error}"
