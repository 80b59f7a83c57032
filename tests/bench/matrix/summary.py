"""Rows of the matrix from its trials, and what is compared in them. Pure; the same trials, the same figures.

A trial that failed never recovered: in every percentile it counts as longer than all others, so a percentile that
falls among failures is None. Times of ours and of peers are what is left after the request's own undisturbed time.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.pool.lives import NEW_WORKER
from pytest_webaccel.recovery.rungs import LADDER, Step
from pytest_webaccel.report.statistics import (
    censored_median_interval,
    censored_percentile,
    resampled_medians,
    wilson,
)
from pytest_webaccel.terms import Fault, Strategy, Symptom
from tests.bench.matrix.design import Arm
from tests.bench.matrix.state import VOID

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.bench.matrix.design import Cell
    from tests.bench.matrix.state import Result

__all__ = ["Ratio", "by_cell", "in_force", "ratio", "row", "rows"]

#: Tries under which a percentile says nothing of its own: one in twenty, one in a hundred.
_N_P95, _N_P99 = 20, 100


def by_cell(results: Sequence[Result]) -> dict[Cell, list[Result]]:
    """Return the trials that say something, by cell, in order of strategy and fault."""
    found: dict[Cell, list[Result]] = {}
    for result in results:
        if result.outcome != VOID:
            found.setdefault(result.cell, []).append(result)
    order = {arm: index for index, arm in enumerate(Arm.ALL)}
    return dict(sorted(found.items(), key=lambda item: (item[0].fault, item[0].lane, order[item[0].strategy], item[0])))


@dataclasses.dataclass(frozen=True, slots=True)
class Ratio:
    """A median over another's, with the 95 % bootstrap interval; below 1: the first is faster."""

    value: float
    low: float
    high: float


def ratio(
    ours: Sequence[Result], theirs: Sequence[Result], of: Callable[[Result], float], seed: int = 0
) -> Ratio | None:
    """Return how the median of ``of`` over ``ours`` stands to that over ``theirs``; failures count as longest of all.

    None under two recovered trials on either side, or where half of either failed.
    """
    samples = [
        ([of(one) for one in side if one.recovered], sum(not one.recovered for one in side)) for side in (ours, theirs)
    ]
    middles = [censored_percentile(values, failures, 50) for values, failures in samples]
    if min(len(values) for values, _ in samples) < 2 or middles[0] is None or not middles[1]:
        return None
    upper, lower = (resampled_medians(*sample, seed + number) for number, sample in enumerate(samples))
    with np.errstate(invalid="ignore"):
        drawn = np.where(np.isinf(lower), 0.0, upper / np.maximum(lower, 1e-9))
    low, high = np.quantile(np.where(np.isinf(upper), np.inf, drawn), (0.025, 0.975), method="nearest")
    return Ratio(middles[0] / middles[1], float(low), float(high))


def in_force(result: Result) -> bool:
    """Whether the rungs that were begun are those that this strategy, and no other, would have begun.

    Where two strategies agree on what to do, as on a lost browser without a spare, it says only that they agree.
    """
    begun = [rung for rung in result.rungs.split(",") if rung]
    if result.fault == Fault.WORKER_CRASH and result.strategy in set(Strategy):  # pytest-xdist is what mends there
        return set(begun) == {NEW_WORKER} or (result.strategy == Strategy.NONE and not begun)
    ladder = [str(step) for step in LADDER[Symptom(result.symptom)]] if result.symptom in set(Symptom) else []
    restart, spare = str(Step.RESTART_BROWSER), str(Step.USE_SPARE)
    match result.strategy:
        case Strategy.NONE:
            return not begun
        case _ if not begun:  # answered before anything had to be mended
            return result.recovered
        case Strategy.SIMPLE:
            return set(begun) == {restart}
        case Strategy.PROGRESSIVE:
            return begun[0] == [*ladder, restart][0] and spare not in begun
        case Strategy.PARALLEL:
            return begun[0] == [*ladder, restart][0] and (len(begun) > 1 or not ladder)
        case Strategy.COORDINATED:
            page_first = result.symptom in {Symptom.SOCKET_CLOSED, Symptom.RESULT_DAMAGED}
            first = [*ladder[:1], spare] if page_first else [spare]
            if (
                result.fault == Fault.MULTI_BROWSER
            ):  # it takes the spare, too, which may not be known yet when it is tried
                return begun[0] in {spare, restart} if result.spare else spare not in begun
            return begun[0] in first if result.spare else spare not in begun
        case Strategy.WORKER_RESTART:
            return set(begun) == {NEW_WORKER}
        case _:
            return set(begun) == {result.strategy}


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the rows of the matrix: one a cell, and one more for each kind of what strikes twice."""
    voids = Counter(result.cell for result in results if result.outcome == VOID)
    return [row(cell, trials, voids[cell]) for cell, trials in by_cell(results).items()]


def row(cell: Cell, trials: Sequence[Result], voids: int = 0) -> dict[str, Any]:
    """Return one row; times in milliseconds."""
    good = [trial for trial in trials if trial.recovered]
    n, failures = len(trials), len(trials) - len(good)
    low, high = (wilson(len(good), n).low, wilson(len(good), n).high)

    def at(q: float, of: Callable[[Result], float], least: int = 1) -> float | None:
        return censored_percentile([of(trial) for trial in good], failures, q) if n >= least else None

    def middle(name: str) -> float | None:
        return statistics.median(getattr(trial, name) for trial in good) if good else None

    total = [trial.total_ms for trial in good]
    interval = censored_median_interval(total, failures)
    net = censored_median_interval([trial.net_ms for trial in good], failures)
    rungs = Counter(trial.rungs or "none" for trial in trials).most_common(3)
    return {
        "strategy": cell.strategy,
        "fault": cell.fault,
        "lane": cell.lane,
        "n": n,
        "recovered": len(good),
        "success_low": low,
        "p50_ms": at(50, lambda trial: trial.total_ms),
        "p95_ms": at(95, lambda trial: trial.total_ms, _N_P95),
        "p99_ms": at(99, lambda trial: trial.total_ms, _N_P99),
        "spare": cell.spare,
        "spares": cell.spares,
        "point": cell.point,
        "success": len(good) / n,
        "success_high": high,
        "median_ms": at(50, lambda trial: trial.total_ms),
        "median_low_ms": interval.low if interval else None,
        "median_high_ms": interval.high if interval else None,
        "net_p50_ms": at(50, lambda trial: trial.net_ms),
        "net_low_ms": net.low if net else None,
        "net_high_ms": net.high if net else None,
        "net_p95_ms": at(95, lambda trial: trial.net_ms, _N_P95),
        "after_detection_p50_ms": at(50, lambda trial: trial.after_detection_ms),
        "undisturbed_p50_ms": middle("undisturbed_ms"),
        "deadline_p50_ms": middle("deadline_ms"),
        **{f"{phase}_p50_ms": middle(f"{phase}_ms") for phase in ("detect", "reassign", "load", "restore", "replay")},
        "attempts": statistics.mean(trial.attempts for trial in trials),
        "duplicated": sum(trial.duplicated for trial in trials),
        "lost": sum(trial.lost for trial in trials),
        "wrong": sum(trial.wrong for trial in trials),
        # Only our own recoveries are accounted for, and not those that end the process which would do it.
        "cpu_ms": middle("cpu_ms") if any(trial.cpu_ms for trial in good) else None,
        "memory_bytes": middle("memory_bytes") if any(trial.cpu_ms for trial in good) else None,
        "rungs": "; ".join(f"{name} x{count}" for name, count in rungs),
        "in_force": sum(in_force(trial) for trial in trials) if cell.strategy != Arm.COLD else None,
        "censored": failures,
        "censored_at_ms": max((trial.budget_ms for trial in trials if not trial.recovered), default=None),
        "void": voids,
        "variants": _variants(trials),
        "later": "; ".join(sorted({trial.later for trial in trials if trial.later})) or None,
        "failures": [{"why": why, "n": count} for why, count in _reasons(trials)],
        "evidence": "/".join(sorted({trial.evidence for trial in trials if trial.evidence})) or "software",
    }


def _variants(trials: Sequence[Result]) -> dict[str, Any] | None:
    """Return what each kind came to, where a cell holds several."""
    kinds: dict[str, list[Result]] = {}
    for trial in trials:
        kinds.setdefault(trial.variant, []).append(trial)
    if len(kinds) < 2:
        return None
    return {kind: _variant(group) for kind, group in sorted(kinds.items())}


def _variant(group: Sequence[Result]) -> Mapping[str, Any]:
    good = [trial.net_ms for trial in group if trial.recovered]
    return {
        "n": len(group),
        "recovered": len(good),
        "net_p50_ms": censored_percentile(good, len(group) - len(good), 50),
    }


def _reasons(trials: Sequence[Result]) -> list[tuple[str, int]]:
    return Counter(trial.detail[:160] or "no reason given" for trial in trials if not trial.recovered).most_common(3)
