"""What a person's words for a fault become: one plan, or one for each fault of a level to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.faults.levels import LEVELS
from pytest_webaccel.faults.schedule import choose
from pytest_webaccel.terms import Fault, FaultPlan, FaultPoint, Level, Strategy
from pytest_webaccel.words import unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.terms import ProbeResult

__all__ = ["meaningless", "pick_plan", "plans_of"]


def plans_of(
    name: str, at: FaultPoint = FaultPoint.MID_REQUEST, times: int = 1, recovery: Strategy | None = None
) -> tuple[FaultPlan, ...]:
    """Return the plan of the fault ``name``, or one for each fault of the level ``name`` that can strike ``at``.

    Raises ValueError for a word that is neither, and for a fault that never meets a request at that point.
    """
    word = name.strip()
    if word in set(Level):
        faults = [fault for fault in LEVELS[Level(word)] if not INJECTORS[fault].misfit(at)]
        return tuple(FaultPlan(fault, at, times, recovery) for fault in faults)
    if word not in set(Fault):
        raise ValueError(unknown("fault", name, map(str, [*Fault, *Level])))
    if reason := INJECTORS[Fault(word)].misfit(at):
        fitting = [str(point) for point in FaultPoint if not INJECTORS[Fault(word)].misfit(point)]
        raise ValueError(f"fault {word} can never fire at {at}: {reason}; it can at {', '.join(fitting)}")
    return (FaultPlan(Fault(word), at, times, recovery),)


def meaningless(fault: Fault, lane: ProbeResult) -> str | None:
    """Return why ``fault`` means nothing on ``lane``, None where it does."""
    return INJECTORS[fault].meaning(lane)


def pick_plan(choice: Sequence[FaultPlan], seed: int, test_id: str, lane: ProbeResult) -> tuple[FaultPlan | None, str]:
    """Return the plan of ``choice`` that a test gets on ``lane``, by seed; where none has a meaning, None and why."""
    plan = choose(choice, seed, test_id, lambda fault: meaningless(fault, lane) is None)
    if plan is not None or not choice:
        return plan, ""
    reasons = {one.fault: meaningless(one.fault, lane) for one in choice}
    return None, "; ".join(
        f"fault {fault} has no meaning on {lane.lane}: {reason}" for fault, reason in reasons.items()
    )
