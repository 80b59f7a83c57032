"""Rungs: the single attempts that strategies choose from, each a few steps under one deadline. Pure tables."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
from typing import TYPE_CHECKING

from pytest_webaccel.terms import Damage, Symptom

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LADDER", "STAGES", "Rung", "Situation", "Step", "restart", "rung", "spare"]


class Step(enum.StrEnum):
    """One thing that can be done about a damaged lane."""

    RESEND = "resend"
    RECONNECT = "reconnect"
    RELOAD_MODELS = "reload_models"
    ADOPT_PAGE = "adopt_page"
    NEW_DEVICE = "new_device"
    NEW_PAGE = "new_page"
    RESTART_BROWSER = "restart_browser"
    FAIL_OVER = "fail_over"
    USE_SPARE = "use_spare"
    LOAD_MODELS = "load_models"
    REPLAY = "replay"
    REPAIR_IN_BACKGROUND = "repair_in_background"


#: Order of steps within a rung: stages strictly rise, so a rung mends the lane in one way, at most
#: loads once, replays once, and leaves for the background what the answer need not wait for.
STAGES: Mapping[Step, int] = {
    **dict.fromkeys(Step, 0),
    Step.LOAD_MODELS: 1,
    Step.REPLAY: 2,
    Step.REPAIR_IN_BACKGROUND: 3,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Rung:
    """One attempt: its steps in order, all within ``deadline_s`` seconds from the first to the last.

    Raises ValueError when the steps are out of the order of :data:`STAGES` or lack the replay.
    """

    name: str
    steps: tuple[Step, ...]
    deadline_s: float

    def __post_init__(self) -> None:
        """Check what the engine relies on."""
        stages = [STAGES[step] for step in self.steps]
        if any(later <= earlier for earlier, later in itertools.pairwise(stages)):
            raise ValueError(f"rung {self.name!r}: steps {', '.join(self.steps)} are out of order; see STAGES")
        if Step.REPLAY not in self.steps:
            raise ValueError(f"rung {self.name!r} never replays the request, so it can never answer it")
        if not (self.deadline_s > 0 and math.isfinite(self.deadline_s)):
            raise ValueError(f"rung {self.name!r}: deadline_s is {self.deadline_s!r}; it must be finite and above 0")


@dataclasses.dataclass(frozen=True, slots=True)
class Situation:
    """What a strategy decides on.

    ``models`` counts those that the lane has loaded, ``failed_rungs`` names the rungs that failed for this
    damage. ``startable`` says whether the lane's browser may be started (its circuit breaker is not open),
    ``elsewhere`` whether another browser's lane could answer.
    """

    damage: Damage
    spare_ready: bool
    models: int
    failed_rungs: tuple[str, ...] = ()
    startable: bool = True
    elsewhere: bool = False


#: Seconds that each way of mending may take, the loading and the replay that follow it included.
_DEADLINES: Mapping[Step, float] = {
    Step.RESEND: 30.0,
    Step.RECONNECT: 30.0,
    Step.RELOAD_MODELS: 45.0,
    Step.ADOPT_PAGE: 45.0,
    Step.NEW_DEVICE: 45.0,
    Step.NEW_PAGE: 45.0,
    Step.USE_SPARE: 30.0,
    Step.RESTART_BROWSER: 90.0,
    Step.FAIL_OVER: 90.0,
}

#: After these the page still holds its models, or they come with the mending.
_KEEPS_MODELS = frozenset({Step.RESEND, Step.RECONNECT, Step.RELOAD_MODELS, Step.USE_SPARE, Step.FAIL_OVER})

#: The ways that fit each symptom, cheapest first; restarting and failing over fit every one and come last.
LADDER: Mapping[Symptom, tuple[Step, ...]] = {
    Symptom.RESULT_DAMAGED: (Step.RESEND, Step.RECONNECT, Step.NEW_PAGE),
    Symptom.SOCKET_CLOSED: (Step.RECONNECT, Step.NEW_PAGE),
    Symptom.CONNECTION_SLOW: (Step.RECONNECT, Step.NEW_PAGE),
    Symptom.HEARTBEAT_MISSED: (Step.RECONNECT, Step.NEW_PAGE),
    Symptom.OPERATION_FAILED: (Step.RELOAD_MODELS, Step.NEW_PAGE),
    Symptom.DEVICE_LOST: (Step.NEW_DEVICE, Step.NEW_PAGE),
    Symptom.MEMORY_EXHAUSTED: (Step.NEW_DEVICE, Step.NEW_PAGE),
    # The page may well answer words while its GPU or its engine hangs, so reconnecting to it proves nothing.
    Symptom.DEADLINE_PASSED: (Step.NEW_PAGE,),
    Symptom.PAGE_REPLACED: (Step.ADOPT_PAGE, Step.NEW_PAGE),
    Symptom.PAGE_CRASHED: (Step.NEW_PAGE,),
    Symptom.BROWSER_EXITED: (),
}


def rung(step: Step, situation: Situation) -> Rung:
    """Return the rung that mends by ``step``; it is named after it."""
    load = (Step.LOAD_MODELS,) if situation.models and step not in _KEEPS_MODELS else ()
    after = (Step.REPAIR_IN_BACKGROUND,) if step in {Step.USE_SPARE, Step.FAIL_OVER} else ()
    return Rung(str(step), (step, *load, Step.REPLAY, *after), _DEADLINES[step])


def restart(situation: Situation) -> tuple[Rung, ...]:
    """Return the cold restart, unless the browser's circuit breaker is open."""
    return (rung(Step.RESTART_BROWSER, situation),) if situation.startable else ()


def spare(situation: Situation) -> tuple[Rung, ...]:
    """Return the change to the warm spare, where one is ready: its models are loaded already."""
    return (rung(Step.USE_SPARE, situation),) if situation.spare_ready else ()
