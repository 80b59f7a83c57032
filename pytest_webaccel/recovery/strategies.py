"""Strategies: what to try, in which order, for a given situation. Pure tables, no I/O, no state.

A strategy answers with rungs, cheapest first. The engine asks again after each failed rung, leaves
out those that failed for the same damage and takes the first that is left.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
from typing import TYPE_CHECKING, Protocol

from pytest_webaccel.terms import Damage, Strategy, Symptom

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "STAGES",
    "STRATEGIES",
    "Coordinated",
    "NoRecovery",
    "RecoveryStrategy",
    "Rung",
    "Simple",
    "Situation",
    "Step",
]


class Step(enum.StrEnum):
    """One thing that can be done about a damaged lane."""

    RECONNECT = "reconnect"
    NEW_DEVICE = "new_device"
    NEW_PAGE = "new_page"
    RESTART_BROWSER = "restart_browser"
    USE_SPARE = "use_spare"
    LOAD_MODELS = "load_models"
    REPLAY = "replay"
    REPAIR_IN_BACKGROUND = "repair_in_background"


#: Order of steps within a rung: stages strictly rise, so a rung mends the lane in one way, at most
#: loads once, replays once, and leaves for the background what the answer need not wait for.
STAGES: Mapping[Step, int] = {
    Step.RECONNECT: 0,
    Step.NEW_DEVICE: 0,
    Step.NEW_PAGE: 0,
    Step.RESTART_BROWSER: 0,
    Step.USE_SPARE: 0,
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
    """What a strategy may know: ``models`` counts those loaded in the lane, ``failed_rungs`` are names."""

    damage: Damage
    spare_ready: bool
    models: int
    failed_rungs: tuple[str, ...] = ()


class RecoveryStrategy(Protocol):
    """Chooses rungs. Must be a pure function of the situation."""

    @property
    def name(self) -> Strategy:
        """The word by which flags and rows know it."""
        ...

    def rungs(self, situation: Situation) -> tuple[Rung, ...]:
        """Return the rungs to try, in order; rungs already failed may be among them."""
        ...


# Deadlines are ceilings for what hangs, not estimates: a healthy rung ends in well under a second, save
# for the replay, which on a software GPU may have to compile a model's shaders again (6 to 13 s seen).
_RECONNECT_S = 20.0
_NEW_DEVICE_S = 45.0
_NEW_PAGE_S = 45.0
_SPARE_S = 45.0
_RESTART_S = 90.0


def _mend(name: str, step: Step, deadline_s: float, situation: Situation) -> Rung:
    load = (Step.LOAD_MODELS,) if situation.models else ()
    return Rung(name, (step, *load, Step.REPLAY), deadline_s)


def _reconnect(_: Situation) -> Rung:
    # The page outlived its socket: its models and its results by request id are still there.
    return Rung("reconnect", (Step.RECONNECT, Step.REPLAY), _RECONNECT_S)


def _new_device(situation: Situation) -> Rung:
    return _mend("new_device", Step.NEW_DEVICE, _NEW_DEVICE_S, situation)


def _new_page(situation: Situation) -> Rung:
    return _mend("new_page", Step.NEW_PAGE, _NEW_PAGE_S, situation)


def _restart(situation: Situation) -> Rung:
    return _mend("restart_browser", Step.RESTART_BROWSER, _RESTART_S, situation)


def _spare(situation: Situation) -> tuple[Rung, ...]:
    # A warm spare has the lane's models loaded already; the broken browser is mended behind the answer.
    if not situation.spare_ready:
        return ()
    return (Rung("use_spare", (Step.USE_SPARE, Step.REPLAY, Step.REPAIR_IN_BACKGROUND), _SPARE_S),)


class Simple:
    """Tear the lane down, start the same one cold, load the models again, repeat the whole request."""

    name = Strategy.SIMPLE

    def rungs(self, situation: Situation) -> tuple[Rung, ...]:
        """Return the one rung there is, whatever the damage."""
        return (_restart(situation),)


class Coordinated:
    """Classify the damage by its symptom, do the least that mends it, fail over to a warm spare."""

    name = Strategy.COORDINATED

    def rungs(self, situation: Situation) -> tuple[Rung, ...]:
        """Return the rungs that fit the symptom, cheapest first; the last is always a cold restart."""
        match situation.damage.symptom:
            case Symptom.SOCKET_CLOSED | Symptom.HEARTBEAT_MISSED:
                return (_reconnect(situation), _new_page(situation), _restart(situation))
            case Symptom.DEVICE_LOST:
                return (_new_device(situation), _new_page(situation), _restart(situation))
            case Symptom.PAGE_CRASHED | Symptom.PAGE_REPLACED | Symptom.DEADLINE_PASSED:
                return (*_spare(situation), _new_page(situation), _restart(situation))
            case Symptom.BROWSER_EXITED:
                return (*_spare(situation), _restart(situation))


class NoRecovery:
    """The control: nothing is tried."""

    name = Strategy.NONE

    def rungs(self, situation: Situation) -> tuple[Rung, ...]:  # noqa: ARG002 - the Protocol's signature
        """Return no rungs."""
        return ()


#: Every strategy by its word. A new one joins here.
STRATEGIES: Mapping[Strategy, RecoveryStrategy] = {
    strategy.name: strategy for strategy in (Simple(), Coordinated(), NoRecovery())
}
