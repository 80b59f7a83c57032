"""Strategies: what to try, in which order, for a given situation. Pure tables, no I/O, no state.

A strategy answers with rungs, cheapest first. The engine asks again after each failed rung, leaves
out those that failed for the same damage and takes the first that is left, or several where it races.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_webaccel.recovery.rungs import LADDER, Rung, Situation, Step, restart, rung, spare
from pytest_webaccel.terms import Strategy, Symptom

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "STRATEGIES",
    "Coordinated",
    "NoRecovery",
    "Parallel",
    "Progressive",
    "RecoveryStrategy",
    "Simple",
    "WorkerRestart",
]


class RecoveryStrategy(Protocol):
    """Chooses rungs; same situation, same rungs."""

    @property
    def name(self) -> Strategy:
        """The strategy's word."""
        ...

    @property
    def races(self) -> int:
        """How many rungs are tried at once; 1: one after the other."""
        ...

    @property
    def resumes(self) -> bool:
        """Whether a request of many steps goes on from its last committed step, rather than from its first."""
        ...

    def rungs(self, situation: Situation) -> tuple[Rung, ...]:
        """Return the rungs that fit, in the order in which to try them; none: give up."""
        ...


class Simple:
    """Tear the lane down, start the same one cold, load the models again, repeat the whole request."""

    name = Strategy.SIMPLE
    races = 1
    resumes = False

    def rungs(self, situation: Situation) -> tuple[Rung, ...]:
        """Return the one rung there is, whatever the damage."""
        return restart(situation)


class Progressive:
    """The cheapest rung that fits the damage, one rung up each time one fails, at last another browser."""

    name = Strategy.PROGRESSIVE
    races = 1
    resumes = False

    def rungs(self, situation: Situation) -> tuple[Rung, ...]:
        """Return the symptom's ladder, a cold restart, and the fail-over where there is another browser."""
        ladder = tuple(rung(step, situation) for step in LADDER[situation.damage.symptom])
        return (*ladder, *restart(situation), *_elsewhere(situation))


class Parallel:
    """Several rungs at once: the first right answer wins, the losers are cancelled and leave nothing behind."""

    name = Strategy.PARALLEL
    races = 3
    resumes = False

    def rungs(self, situation: Situation) -> tuple[Rung, ...]:
        """Return what :class:`Progressive` would try in turn, the spare among it."""
        ladder = tuple(rung(step, situation) for step in LADDER[situation.damage.symptom])
        return (*ladder[:1], *spare(situation), *restart(situation), *ladder[1:], *_elsewhere(situation))


#: Symptoms that the page itself mends faster than a spare takes over: it lives, and holds everything.
_PAGE_MENDS = frozenset({Symptom.RESULT_DAMAGED, Symptom.SOCKET_CLOSED})


class Coordinated:
    """Classify the damage, fail over to a warm spare, restore what was committed, repair behind the answer."""

    name = Strategy.COORDINATED
    races = 1
    resumes = True

    def rungs(self, situation: Situation) -> tuple[Rung, ...]:
        """Return the page's own way where that is faster, the spare, then the rest of the ladder."""
        ladder = tuple(rung(step, situation) for step in LADDER[situation.damage.symptom])
        first = 1 if situation.damage.symptom in _PAGE_MENDS else 0
        return (*ladder[:first], *spare(situation), *ladder[first:], *restart(situation), *_elsewhere(situation))


class NoRecovery:
    """The control: nothing is tried."""

    name = Strategy.NONE
    races = 1
    resumes = False

    def rungs(self, situation: Situation) -> tuple[Rung, ...]:  # noqa: ARG002 - the Protocol's signature
        """Return no rungs."""
        return ()


class WorkerRestart(NoRecovery):
    """The control of plain xdist: the worker ends itself, its replacement runs the test again."""

    name = Strategy.WORKER_RESTART


def _elsewhere(situation: Situation) -> tuple[Rung, ...]:
    return (rung(Step.FAIL_OVER, situation),) if situation.elsewhere else ()


#: Every strategy by its word. A new one joins here.
STRATEGIES: Mapping[Strategy, RecoveryStrategy] = {
    strategy.name: strategy
    for strategy in (Simple(), Progressive(), Parallel(), Coordinated(), NoRecovery(), WorkerRestart())
}
