"""Trials of our own strategies, in workers of this process, through the same lease that a test gets."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from pytest_webaccel.errors import DamagedLaneError, FaultError, LaneUnavailableError, RecoveryError, WebAccelError
from pytest_webaccel.faults import ComponentTimeout
from pytest_webaccel.pool.worker import Worker
from pytest_webaccel.rows import RecoveryRow
from pytest_webaccel.terms import Fault, FaultPlan, FaultPoint, Lane, Strategy
from tests.bench.matrix.design import TWO_FAULTS, Arm
from tests.bench.matrix.state import FAILED, RECOVERED, VOID, Result
from tests.bench.matrix.work import Work, model, wrong

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.rows import Row
    from pytest_webaccel.terms import ProbeResult
    from tests.bench.matrix.design import Trial

__all__ = ["BUDGET_S", "PATIENCE_S", "Ours", "base"]

#: Seconds that one recovery may take; a failure is drawn as censored there.
BUDGET_S = 60.0
#: Seconds of silence after which a page counts as hung: a deadline of ours, taken off the time of recovery.
PATIENCE_S = ComponentTimeout().patience_s
_REQUEST_S = 30.0
_CALL_S = BUDGET_S + 3 * _REQUEST_S

#: Faults that only a deadline sees.
SILENT = frozenset({str(Fault.COMPONENT_TIMEOUT), str(Fault.CONNECTION_STALLED)})


def base(trial: Trial) -> dict[str, Any]:
    """Return the fields that say of which trial a result is."""
    cell = trial.cell
    return {
        "trial": trial.key,
        "strategy": cell.strategy,
        "fault": cell.fault,
        "lane": cell.lane,
        "point": cell.point,
        "spare": cell.spare,
    }


class Ours:
    """Runs trials; keeps a worker for each number of warm spares, started when first needed."""

    def __init__(self, table: Sequence[ProbeResult], seed: int) -> None:
        self._table = table
        self._seed = seed
        self._workers: dict[int, Worker] = {}
        self._rows: list[Row] = []

    def run(self, trial: Trial) -> Result:
        """Return what the trial came to; its lane is whole again by then, or its worker is gone."""
        worker = self._worker(trial.cell.spares)
        self._rows.clear()
        try:
            if trial.cell.strategy == Arm.COLD:
                return self._cold(worker, trial)
            return self._struck(worker, trial)
        except (LaneUnavailableError, WebAccelError) as error:
            self.stop()  # whatever is wrong with it, the next trial gets another
            return Result(**base(trial), outcome=VOID, detail=f"not tried: {error}"[:300])

    def stop(self) -> None:
        """End both workers."""
        while self._workers:
            self._workers.popitem()[1].stop()

    # -- inside ------------------------------------------------------------------------------

    def _worker(self, spares: int) -> Worker:
        if spares not in self._workers:
            self._workers[spares] = Worker(
                self._table,
                run_id="matrix",
                worker="matrix",
                strategy=Strategy.COORDINATED,
                record=self._rows.append,
                spares=spares,
                budget_s=BUDGET_S,
                seed=self._seed,
                account=True,
            )
        return self._workers[spares]

    def _struck(self, worker: Worker, trial: Trial) -> Result:
        cell, work = trial.cell, Work.drawn(trial.key)
        fault = trial.twice if cell.fault == TWO_FAULTS else Fault(cell.fault)
        plan = FaultPlan(fault, FaultPoint(cell.point), recovery=Strategy(cell.strategy))
        problem: Exception | None = None
        contradiction = ""
        with worker.lease(Lane.parse(cell.lane), trial.key, Strategy(cell.strategy)) as lease:
            try:
                contradiction = self._ask(worker, lease, plan, work)
            except (RecoveryError, DamagedLaneError, FaultError) as error:
                problem = error
        rows = [row for row in self._rows if isinstance(row, RecoveryRow)]
        if not rows:
            return Result(**base(trial), outcome=VOID, detail=f"no row was written: {problem}"[:300])
        return self._result(trial, rows[-1], contradiction, problem, variant=str(fault))

    @staticmethod
    def _ask(worker: Worker, lease: Lease, plan: FaultPlan, work: Work) -> str:
        if plan.at is FaultPoint.MID_LOAD:
            lease.plans.waiting.append(plan)
        loaded = worker.call(lease.load(model(), None, deadline=_REQUEST_S), deadline=_CALL_S)
        if plan.at is not FaultPoint.MID_LOAD:
            lease.plans.waiting.append(plan)
        asked = lease.run(loaded, {"x": work.x}, deadline=_REQUEST_S, expect={"y": work.y})
        answer, _ = worker.call(asked, deadline=_CALL_S)
        return wrong(work, answer["y"])

    @staticmethod
    def _result(
        trial: Trial, row: RecoveryRow, contradiction: str, problem: Exception | None, *, variant: str
    ) -> Result:
        outcome, detail = (RECOVERED, row.detail) if row.outcome == RECOVERED else (FAILED, row.detail)
        asked = (trial.cell.strategy, trial.cell.spare)
        if (row.strategy, row.spare) != asked:
            outcome, detail = VOID, f"strategy {row.strategy}, spare {row.spare}, where {asked} was asked for"
        if isinstance(problem, FaultError):
            outcome, detail = VOID, str(problem)
        elif contradiction:
            outcome, detail = FAILED, f"a wrong answer was delivered: {contradiction}"
        return Result(
            **base(trial),
            outcome=outcome,
            total_ms=row.total_ms,
            undisturbed_ms=row.undisturbed_ms,
            deadline_ms=min(PATIENCE_S * 1000, row.detect_ms) if row.fault in SILENT else 0.0,
            detect_ms=row.detect_ms,
            reassign_ms=row.reassign_ms,
            load_ms=row.load_ms,
            restore_ms=row.restore_ms,
            replay_ms=row.replay_ms,
            attempts=row.attempts,
            duplicated=row.duplicated,
            lost=row.lost,
            wrong=1 if contradiction else 0,
            cpu_ms=row.cpu_ms,
            memory_bytes=row.memory_bytes,
            rungs=row.rungs,
            symptom=row.symptom,
            variant=row.kind or variant,
            detail=detail[:300],
            evidence=str(row.evidence),
            budget_ms=BUDGET_S * 1000,
        )

    def _cold(self, worker: Worker, trial: Trial) -> Result:
        """Time the start of another browser of the lane, the load of the model there, and its first answer."""
        work = Work.drawn(trial.key)
        with worker.lease(Lane.parse(trial.cell.lane), trial.key) as lease:
            loaded = worker.call(lease.load(model(), None, deadline=_REQUEST_S), deadline=_CALL_S)
            asked = _start_cold(lease.lane, loaded, work)
            phases, answer = worker.call(asked, deadline=_CALL_S)
            evidence = str(lease.lane.probe.evidence)
        contradiction = wrong(work, answer)
        return Result(
            **base(trial),
            outcome=FAILED if contradiction else RECOVERED,
            total_ms=sum(phases),
            reassign_ms=phases[0],
            load_ms=phases[1],
            replay_ms=phases[2],
            detail=contradiction,
            evidence=evidence,
        )


async def _start_cold(lane: LiveLane, loaded: Any, work: Work) -> tuple[tuple[float, float, float], Any]:
    marks = [time.perf_counter()]
    station = await lane.open_station(_REQUEST_S)
    try:
        marks.append(time.perf_counter())
        there = await station.load(loaded.info, loaded.build, deadline=_REQUEST_S)
        marks.append(time.perf_counter())
        request = station.engine.send_run(there, {"x": work.x}, None, deadline=_REQUEST_S)
        reply = await station.engine.answer(there, request)
        marks.append(time.perf_counter())
    finally:
        await station.stop()
    started, had, answered = ((later - sooner) * 1000 for sooner, later in itertools.pairwise(marks))
    return (started, had, answered), reply.tensors["y"]
