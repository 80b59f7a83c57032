"""Gates: limits that a run must keep, or fail. Pure functions of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.report.data import CONTROLS, recovered
from pytest_webaccel.report.statistics import percentile, wilson
from pytest_webaccel.rows import RecoveryRow, Row
from pytest_webaccel.terms import Evidence

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check"]


def check(rows: Iterable[Row], *, min_success: float | None, max_recovery_ms: float | None) -> list[str]:
    """Return a message for each gate that failed; none when all hold.

    ``min_success`` (0 to 1) is held against the share of faults recovered, where ``unknown`` counts
    as not recovered; ``max_recovery_ms`` against the 95th percentile of the recovered total times.
    Each grade of evidence must hold on its own; times of the fake browser are refused. Control
    strategies are left out. A gate without data fails: it has shown nothing.
    """
    gated = [row for row in rows if isinstance(row, RecoveryRow) and row.strategy not in CONTROLS]
    failures: list[str] = []
    if min_success is not None:
        failures += _success(gated, min_success)
    if max_recovery_ms is not None:
        failures += _time([row for row in gated if row.evidence != Evidence.FAKE], max_recovery_ms)
    return failures


def _success(rows: list[RecoveryRow], least: float) -> list[str]:
    if not rows:
        return [f"gate min_success={least:g}: no fault was caused, so there is no success rate; plan one with {_HOW}"]
    failures = []
    for grade, group in _by_grade(rows):
        good = len(recovered(group))
        if good / len(group) < least:
            interval = wilson(good, len(group))
            failures.append(
                f"gate min_success={least:g}: {good} of {len(group)} faults recovered on {grade} evidence, "
                f"a rate of {good / len(group):.3g} (95 % interval {interval.low:.3g} to {interval.high:.3g})"
                f"; not recovered: {_names(group)}"
            )
    return failures


def _time(rows: list[RecoveryRow], most: float) -> list[str]:
    good = recovered(rows)
    if not good:
        why = "no fault was recovered" if rows else "no fault was caused on a real browser"
        return [f"gate max_recovery_ms={most:g}: {why}, so there is no recovery time; plan one with {_HOW}"]
    failures = []
    for grade, group in _by_grade(good):
        p95 = percentile([row.total_ms for row in group], 95)
        # Written so that a time which is not a number fails too.
        if not p95 <= most:
            failures.append(
                f"gate max_recovery_ms={most:g}: the 95th percentile of {len(group)} recovery times "
                f"on {grade} evidence is {p95:.0f} ms"
            )
    return failures


_HOW = "--webaccel-fault or @pytest.mark.fault"


def _by_grade(rows: list[RecoveryRow]) -> list[tuple[Evidence, list[RecoveryRow]]]:
    groups = [(grade, [row for row in rows if row.evidence == grade]) for grade in Evidence]
    return [(grade, group) for grade, group in groups if group]


def _names(rows: list[RecoveryRow]) -> str:
    good = set(map(id, recovered(rows)))
    names = [f"{row.fault}/{row.strategy} in {row.test_id}" for row in rows if id(row) not in good]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
