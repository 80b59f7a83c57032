"""The recovery engine: a state machine without I/O that decides the next step.

Time is passed in as seconds on one monotonic clock, the same one that stamps
:class:`~pytest_webaccel.terms.Damage`. The caller carries out each decision and says how it went.

Three rules make it end and keep its answers true:

- A rung that failed is not tried again for the same symptom, and the whole has a budget. Only where none is left,
  one that had mended the lane and met with new damage after that gets one more try: it was not at fault.
- Until every step before the replay is done, the older damage stands: a plan is then made for the
  worse of the old and the new. (A late "socket closed" while the browser restarts must not lead to
  reconnecting to a page without models.)
- Once the replay is done the request is answered, and nothing that follows can unanswer it.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, TypeVar

from pytest_webaccel.recovery.rungs import STAGES, Rung, Situation, Step
from pytest_webaccel.terms import Damage, Phases, Symptom

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_webaccel.recovery.strategies import RecoveryStrategy

__all__ = [
    "MAX_ATTEMPTS",
    "RESERVE",
    "SEVERITY",
    "Decision",
    "Do",
    "GaveUp",
    "MachineState",
    "Recovered",
    "RecoveryMachine",
    "Survey",
]

#: Rungs tried in one recovery at most, whatever a strategy comes up with.
MAX_ATTEMPTS = 24

#: Share of the remaining budget that a rung must leave to the rungs after it.
RESERVE = 0.25

#: How much of the lane each symptom takes with it; the higher includes the lower.
SEVERITY: Mapping[Symptom, int] = {
    Symptom.RESULT_DAMAGED: 0,
    Symptom.SOCKET_CLOSED: 0,
    Symptom.CONNECTION_SLOW: 0,
    Symptom.HEARTBEAT_MISSED: 1,
    Symptom.OPERATION_FAILED: 2,
    Symptom.DEVICE_LOST: 2,
    Symptom.MEMORY_EXHAUSTED: 2,
    Symptom.DEADLINE_PASSED: 3,
    Symptom.PAGE_REPLACED: 4,
    Symptom.PAGE_CRASHED: 4,
    Symptom.BROWSER_EXITED: 5,
}

_PHASES: Mapping[Step, str] = {
    Step.RESEND: "restore",
    Step.RECONNECT: "restore",
    Step.RELOAD_MODELS: "load",
    Step.ADOPT_PAGE: "reassign",
    Step.FAIL_OVER: "reassign",
    Step.NEW_DEVICE: "reassign",
    Step.NEW_PAGE: "reassign",
    Step.RESTART_BROWSER: "reassign",
    Step.USE_SPARE: "reassign",
    Step.LOAD_MODELS: "load",
    Step.REPLAY: "replay",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """What can be had now: warm spares, the number of models to hold, leave to start, another browser's lane."""

    spares: int
    models: int
    startable: bool = True
    elsewhere: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Do:
    """Carry out ``step`` of the rung named ``rung`` within ``deadline_s`` seconds from now."""

    step: Step
    rung: str
    deadline_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Recovered:
    """The request is answered; there is nothing more to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class GaveUp:
    """Nothing is left to try, or no time to try it."""

    reason: str


Decision = Do | Recovered | GaveUp

_End = TypeVar("_End", Recovered, GaveUp)


class MachineState(enum.StrEnum):
    """Life of a machine."""

    NEW = "new"
    WORKING = "working"
    ENDED = "ended"


_CALLS: Mapping[str, MachineState] = {
    "begin": MachineState.NEW,
    "step_done": MachineState.WORKING,
    "step_failed": MachineState.WORKING,
    "damaged": MachineState.WORKING,
}


class RecoveryMachine:
    """Decides one recovery, from the first damage to an answer or to giving up.

    ``budget_s`` seconds count from :meth:`begin`. ``fault_at`` is when the fault was caused
    (``damage.at`` where nobody caused it). ``survey`` is asked before each rung what can be had; no more
    spares are tried than there were at the start. Calls out of turn raise RuntimeError; a clock that goes back is held.
    """

    def __init__(
        self,
        strategy: RecoveryStrategy,
        *,
        budget_s: float,
        fault_at: float,
        damage: Damage,
        survey: Callable[[], Survey],
    ) -> None:
        if not budget_s >= 0:
            raise ValueError(f"budget_s is {budget_s!r}; it must be 0 seconds or more")
        self._strategy = strategy
        self._budget_s = budget_s
        self._fault_at = fault_at
        self._damage = damage
        self._survey = survey
        self._spares_left = 0
        self._state = MachineState.NEW
        self._now = self._begun_at = fault_at
        self._detected_s = 0.0
        self._spent_s = dict.fromkeys(("reassign", "load", "restore", "replay"), 0.0)
        self._failed: dict[Symptom, list[str]] = {}
        self._unlucky: dict[Symptom, list[str]] = {}
        self._failures: list[str] = []
        self._tried: list[str] = []
        self._steps: list[Step] = []
        self._rung: Rung | None = None
        self._rung_deadline = fault_at
        self._pending: list[Step] = []
        self._answered = False
        self._repair_owed = False

    @property
    def state(self) -> MachineState:
        """Where in its life the machine is."""
        return self._state

    @property
    def attempts(self) -> int:
        """How many rungs were begun."""
        return len(self._tried)

    @property
    def rungs(self) -> tuple[str, ...]:
        """Names of the rungs begun, in order."""
        return tuple(self._tried)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that were done, in order, those of failed rungs among them."""
        return tuple(self._steps)

    @property
    def damage(self) -> Damage:
        """What is being mended: the first damage, or a worse one since."""
        return self._damage

    @property
    def answered(self) -> bool:
        """Whether the replay was done."""
        return self._answered

    @property
    def repair_owed(self) -> bool:
        """Whether a spare or another browser was put in, and what it replaced has not been sent to repair."""
        return self._repair_owed

    @property
    def phases(self) -> Phases:
        """Milliseconds spent so far, failed steps included; what no part claims is bookkeeping and waiting."""
        parts = {phase: seconds * 1000 for phase, seconds in self._spent_s.items()}
        detect = self._detected_s * 1000
        # Rounding must not let the parts pass the whole.
        total = max((self._now - self._fault_at) * 1000, detect + sum(parts.values()))
        return Phases(total=total, detect=detect, **parts)

    def begin(self, now: float) -> Decision:
        """Return the first decision; the budget counts from ``now``."""
        self._enter("begin", now)
        self._begun_at = self._now
        self._detected_s = min(max(self._damage.at - self._fault_at, 0.0), self._now - self._fault_at)
        self._state = MachineState.WORKING
        self._spares_left = self._survey().spares
        return self._next_rung()

    def step_done(self, now: float) -> Decision:
        """Return what follows the step that succeeded."""
        step = self._finish("step_done", now)
        self._steps.append(step)
        if step in {Step.USE_SPARE, Step.FAIL_OVER}:
            self._repair_owed = True
        elif step is Step.REPAIR_IN_BACKGROUND:
            self._repair_owed = False
        elif step is Step.REPLAY:
            self._answered = True
            if self._repair_owed and Step.REPAIR_IN_BACKGROUND not in self._pending:
                self._pending.append(Step.REPAIR_IN_BACKGROUND)
        return self._next_step()

    def step_failed(self, error_text: str, now: float) -> Decision:
        """Return what follows the step that failed without new damage to the lane."""
        step = self._finish("step_failed", now)
        self._fail_rung(step, error_text)
        return self._end(Recovered()) if self._answered else self._next_rung()

    def damaged(self, damage: Damage, now: float) -> Decision:
        """Return what follows when the lane broke anew during the step under way."""
        step = self._finish("damaged", now)
        self._fail_rung(step, f"{damage.symptom}: {damage.detail}")
        if self._answered:
            return self._end(Recovered())
        mended = STAGES[step] >= STAGES[Step.REPLAY]
        if mended or SEVERITY[damage.symptom] >= SEVERITY[self._damage.symptom]:
            self._damage = damage
        if STAGES[step] > 0 and self._rung is not None:
            unlucky = self._unlucky.setdefault(self._damage.symptom, [])
            if self._tried.count(self._rung.name) == 1 and self._rung.name not in unlucky:
                unlucky.append(self._rung.name)
        return self._next_rung()

    @property
    def _remaining_s(self) -> float:
        return max(self._begun_at + self._budget_s - self._now, 0.0)

    def _enter(self, call: str, now: float) -> None:
        if self._state is not _CALLS[call]:
            raise RuntimeError(f"recovery machine is {self._state}: {call}() is for one that is {_CALLS[call]}")
        self._now = max(now, self._now)

    def _finish(self, call: str, now: float) -> Step:
        before = self._now
        self._enter(call, now)
        step = self._pending.pop(0)
        if step in _PHASES:
            self._spent_s[_PHASES[step]] += self._now - before
        return step

    def _fail_rung(self, step: Step, why: str) -> None:
        assert self._rung is not None
        self._failures.append(f"{self._rung.name} at {step} ({why})")
        self._failed.setdefault(self._damage.symptom, []).append(self._rung.name)

    def _next_rung(self) -> Decision:
        failed = tuple(self._failed.get(self._damage.symptom, ()))
        there = self._survey()
        situation = Situation(
            self._damage,
            min(there.spares, self._spares_left) > 0,
            there.models,
            failed,
            startable=there.startable,
            elsewhere=there.elsewhere,
        )
        rungs = self._strategy.rungs(situation)
        # Each spare is another browser, so one that failed says nothing against the next.
        more = self._spares_left > 0
        left = [rung for rung in rungs if rung.name not in failed or (more and Step.USE_SPARE in rung.steps)]
        if not left and (unlucky := self._unlucky.get(self._damage.symptom)):
            again = unlucky.pop(0)
            left = [rung for rung in rungs if rung.name == again]
        if not left:
            what = "every rung failed" if self._tried else f"strategy {self._strategy.name} tries nothing"
            if not there.startable:
                what += " (the browser's circuit breaker is open, so it is not started)"
            return self._give_up(what)
        if len(self._tried) >= MAX_ATTEMPTS:
            return self._give_up(f"{MAX_ATTEMPTS} rungs tried")
        share = 1.0 if len(left) == 1 else 1.0 - RESERVE
        self._rung = left[0]
        self._rung_deadline = self._now + min(self._rung.deadline_s, self._remaining_s * share)
        self._pending = list(self._rung.steps)
        self._spares_left -= Step.USE_SPARE in self._pending
        if self._remaining_s > 0:
            self._tried.append(self._rung.name)
        return self._next_step()

    def _next_step(self) -> Decision:
        assert self._rung is not None
        if not self._pending:
            return self._end(Recovered())
        step = self._pending[0]
        if self._answered:
            return Do(step, self._rung.name, self._remaining_s)
        if self._remaining_s <= 0:
            return self._give_up(f"the budget of {self._budget_s:g} s is spent")
        deadline_s = min(self._rung_deadline - self._now, self._remaining_s)
        if deadline_s <= 0:
            self._fail_rung(step, f"no time left of the rung's {self._rung.deadline_s:g} s")
            return self._next_rung()
        return Do(step, self._rung.name, deadline_s)

    def _give_up(self, what: str) -> GaveUp:
        tried = f"; tried: {'; '.join(self._failures)}" if self._failures else ""
        reason = f"{self._damage.symptom} ({self._damage.detail}): {what}{tried}"
        return self._end(GaveUp(reason))

    def _end(self, decision: _End) -> _End:
        self._state = MachineState.ENDED
        self._pending = []
        return decision
