"""Rows of the matrix from its trials, and what is compared in them. Pure; the same trials, the same figures.

A trial that failed never recovered: in every percentile it counts as longer than all others, so a percentile that
falls among failures is None. Times of ours and of peers are what is left after the request's own undisturbed time.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.pool.lives import NEW_WORKER
from pytest_webaccel.recovery.rungs import LADDER, Step
from pytest_webaccel.report.statistics import Interval, wilson
from pytest_webaccel.terms import Fault, Strategy, Symptom
from tests.bench.matrix.design import Arm
from tests.bench.matrix.state import VOID

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.bench.matrix.design import Cell
    from tests.bench.matrix.state import Result

__all__ = ["Ratio", "by_cell", "censored_percentile", "in_force", "median_interval", "ratio", "row", "rows"]

_RESAMPLES = 2000
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


def censored_percentile(values: Sequence[float], failures: int, q: float) -> float | None:
    """Return the ``q``-th percentile of ``values`` and of ``failures`` that would have come after all of them."""
    whole = [*values, *[math.inf] * failures]
    if not whole:
        return None
    ordered = sorted(whole)
    position = (len(ordered) - 1) * q / 100.0
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    if math.isinf(above):
        return None
    return below + (above - below) * (position - math.floor(position))


def _resampled_medians(values: Sequence[float], failures: int, seed: int) -> np.ndarray[Any, Any]:
    whole = np.array([*sorted(values), *[np.inf] * failures])
    chance = np.random.default_rng(seed)
    drawn = np.sort(whole[chance.integers(0, len(whole), size=(_RESAMPLES, len(whole)))], axis=1)
    lower, upper = drawn[:, (len(whole) - 1) // 2], drawn[:, len(whole) // 2]
    return np.where(np.isinf(upper), np.inf, (np.where(np.isinf(lower), 0.0, lower) + upper) / 2)


def median_interval(values: Sequence[float], failures: int = 0, seed: int = 0) -> Interval | None:
    """Return the 95 % percentile-bootstrap interval of the median; None where it is open or there are too few."""
    if len(values) < 2:
        return None
    low, high = np.quantile(_resampled_medians(values, failures, seed), (0.025, 0.975), method="nearest")
    return Interval(float(low), float(high)) if np.isfinite(high) else None


@dataclasses.dataclass(frozen=True, slots=True)
class Ratio:
    """A median over another's, with the 95 % bootstrap interval; below 1: the first is faster."""

    value: float
    low: float
    high: float


def ratio(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Ratio | None:
    """Return how the median of ``ours`` stands to that of ``theirs``; None under two values each."""
    if min(len(ours), len(theirs)) < 2 or statistics.median(theirs) <= 0:
        return None
    upper, lower = _resampled_medians(ours, 0, seed), _resampled_medians(theirs, 0, seed + 1)
    drawn = upper / np.maximum(lower, 1e-9)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Ratio(statistics.median(ours) / statistics.median(theirs), float(low), float(high))


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
    interval = median_interval(total, failures)
    net = median_interval([trial.net_ms for trial in good], failures)
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
        "cpu_ms": middle("cpu_ms"),
        "memory_bytes": middle("memory_bytes"),
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
