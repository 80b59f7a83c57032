"""What a lease tells of its faults: how each was met, until its row can be written."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.parity.compare import compare
from pytest_webaccel.parity.tolerance import Tolerance, tolerance_for
from pytest_webaccel.rows import MeasurementRow, RecoveryRow
from pytest_webaccel.terms import Damage, Engine, FaultPlan, Outcome, Phases, Strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.rows import Row

__all__ = ["Stories", "Story", "Terms", "contradiction"]


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What a lease is held under: where its rows belong, and how damage is to be answered.

    ``budget_s`` bounds one recovery in seconds; ``seed``, with ``draws``, is of what fault plans leave open: leases
    that differ in strategy alone have the same ``draws``, and so meet the same faults. Without it, ``test_id`` stands.
    ``account`` has the processor time and memory of recoveries measured, which costs some tens of milliseconds each.
    """

    run_id: str
    test_id: str
    worker: str
    strategy: Strategy
    budget_s: float = 120.0
    seed: int = 0
    account: bool = False
    draws: str = ""

    @property
    def drawn_by(self) -> str:
        """What tells the draws of this lease from those of others."""
        return self.draws or self.test_id


@dataclasses.dataclass(slots=True)
class Story:
    """One fault and what came of it; ``fault_at`` is seconds on the loop's clock.

    ``mild`` says of a fault by hand that a request is to try the lane before anything is mended.
    """

    plan: FaultPlan
    strategy: Strategy
    model: str = ""
    undisturbed_ms: float = 0.0
    phases: Phases = dataclasses.field(default_factory=Phases)
    rungs: tuple[str, ...] = ()
    duplicated: int = 0
    spare: bool = False
    mild: bool = False
    steps: int = 0
    steps_saved: int = 0
    cpu_ms: float = 0.0
    memory_bytes: int = 0
    kind: str = ""
    outcome: Outcome = Outcome.UNKNOWN
    detail: str = "interrupted before its end"
    damage: Damage | None = None
    fault_at: float = 0.0

    def row(self, terms: Terms, lane: LiveLane, *, whole: bool) -> RecoveryRow:
        """Return the row, once it is known whether the lane is ``whole`` again."""
        outcome, detail = self.outcome, self.detail
        if outcome is Outcome.RECOVERED and not whole:
            outcome, detail = Outcome.FAILED, "the answer came, but the lane was not whole again afterwards"
        if not detail and lane.spares.trouble:
            detail = f"no warm spare could be made ready: {lane.spares.trouble}"
        held = lane.station.loaded if lane.station is not None else {}
        return RecoveryRow(
            run_id=terms.run_id,
            evidence=lane.probe.evidence,
            test_id=terms.test_id,
            lane=str(lane.name),
            fault=str(self.plan.fault),
            strategy=str(self.strategy),
            outcome=str(outcome),
            total_ms=self.phases.total,
            detect_ms=self.phases.detect,
            reassign_ms=self.phases.reassign,
            load_ms=self.phases.load,
            restore_ms=self.phases.restore,
            replay_ms=self.phases.replay,
            attempts=len(self.rungs),
            duplicated=self.duplicated,
            lost=len(set(lane.holdings.models) - set(held)) if outcome is Outcome.RECOVERED else 0,
            undisturbed_ms=self.undisturbed_ms,
            worker=terms.worker,
            model=self.model,
            detail=detail,
            point=str(self.plan.at),
            rungs=",".join(self.rungs),
            spare=self.spare,
            symptom=str(self.damage.symptom) if self.damage is not None else "",
            steps=self.steps,
            steps_saved=self.steps_saved,
            cpu_ms=self.cpu_ms,
            memory_bytes=self.memory_bytes,
            kind=self.kind,
        )


class Stories:
    """The stories of one lease, ``waiting`` until their rows can be written; ``record`` takes finished rows."""

    def __init__(self, lane: LiveLane, terms: Terms, record: Callable[[Row], None]) -> None:
        self.waiting: list[Story] = []
        self._lane = lane
        self._terms = terms
        self._record = record

    def tell(self, story: Story) -> None:
        """Have ``story`` recorded when the lease ends."""
        self.waiting.append(story)

    @property
    def unseen(self) -> bool:
        """Whether a fault that only a run can see may have been left in the page."""
        left = [story for story in self.waiting if story.outcome is not Outcome.RECOVERED]
        return any(INJECTORS[story.plan.fault].seen_by_request for story in left)

    def settle(self) -> None:
        """Record what came of earlier faults, now that this worker is about to die."""
        for story in [story for story in self.waiting if story.outcome is not Outcome.UNKNOWN]:
            self._record(story.row(self._terms, self._lane, whole=True))
        self.waiting = [story for story in self.waiting if story.outcome is Outcome.UNKNOWN]

    def end(self, *, whole: bool) -> None:
        """Record every story, now that it is known whether the lane is ``whole`` again."""
        for story in self.waiting:
            row = story.row(self._terms, self._lane, whole=whole)
            self._lane.counts["lost"] += row.lost
            self._record(row)
        self.waiting.clear()

    def unplanned(self, metric: str, model: str, milliseconds: float) -> None:
        """Record that the lane broke and was mended although nobody planned it."""
        self._record(
            MeasurementRow(
                run_id=self._terms.run_id,
                evidence=self._lane.probe.evidence,
                test_id=self._terms.test_id,
                lane=str(self._lane.name),
                model=model,
                family="",
                engine=str(Engine.ONNX),
                bits=32,
                metric=metric,
                value=milliseconds,
                unit="ms",
            )
        )


def contradiction(expected: Mapping[str, Any], got: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Return in what ``got`` contradicts ``expected``: output and worst element; empty where it does not."""
    for name, value in expected.items():
        if name not in got:
            return f"output {name!r} is missing"
        wanted = np.asarray(value)
        base = tolerance_for(wanted.dtype)
        # two runs of one model on one lane differ by summation order only; lanes among each other by more
        difference = compare(wanted, got[name], Tolerance(base.atol * 4, base.rtol * 4))
        if not difference.agrees:
            return f"output {name!r}: {difference}"
    return ""
