"""Lines for pytest's terminal summary: what ran where, what broke, what came back, where the record lies."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pytest_webaccel.report.conformance import conformance_lines
from pytest_webaccel.report.statistics import censored_percentile, wilson
from pytest_webaccel.terms import Evidence

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_webaccel.report.data import ReportData
    from pytest_webaccel.rows import LaneRow

__all__ = ["lines"]


def lines(data: ReportData, *, database: Path | None = None, report: Path | None = None) -> list[str]:
    """Return the summary, one line a fact, without line ends or colours."""
    found = _lanes(data)
    for grade in data.grades:
        found += _faults(data, grade)
    found += [_plain(line) for line in conformance_lines(data)]
    if not data.recoveries and not data.conformance:
        found.append("faults: none were planned; plan one with --webaccel-fault or @pytest.mark.fault")
    found += _unplanned(data)
    crashed = [test.test_id for test in data.tests if test.outcome == "crashed"]
    if crashed:
        found.append(
            f"crashed with their worker: {', '.join(_plain(test_id) for test_id in crashed[:5])}{_more(crashed)}"
        )
    found += [f"note: {_plain(note)}" for note in data.notes]
    if database is not None:
        found.append(f"database: {database}")
    if report is not None:
        found.append(f"report: {report}")
    return found


def _lanes(data: ReportData) -> list[str]:
    tests = Counter(test.lane for test in data.tests if test.outcome != "skipped")
    latest: dict[tuple[str, Evidence], LaneRow] = {(lane.lane, lane.evidence): lane for lane in data.lanes}
    found = []
    for (name, grade), lane in sorted(latest.items()):
        adapter = f", {_plain(lane.adapter)}" if lane.adapter else ""
        spare = data.spare_memory(name, grade)
        starts = sum(1 for each in data.lanes if each.lane == name and each.evidence == grade)
        found.append(
            f"lane {_plain(name)}: {_plain(lane.browser_version) or 'version unknown'}{adapter}, {grade} evidence, "
            f"{_count(tests[name], 'test')}, started {_count(starts, 'time')}"
            + (f", {spare} for its warm spare" if spare else "")
        )
    found += [f"lane {_plain(name)}: not used, {_plain(why)}" for name, why in sorted(data.missing.items())]
    return found or ["lanes: none were used"]


def _unplanned(data: ReportData) -> list[str]:
    """Repairs that nobody planned: a flaky lane must not pass for a sound one."""
    counts = Counter(row.metric for row in data.measurements if row.metric.startswith("unplanned_"))
    if not counts:
        return []
    kinds = ", ".join(f"{metric.removeprefix('unplanned_')} x{count}" for metric, count in sorted(counts.items()))
    return [
        f"lanes broke without a planned fault {_count(sum(counts.values()), 'time')} and were mended: {_plain(kinds)}"
    ]


def _faults(data: ReportData, grade: Evidence) -> list[str]:
    found = []
    cells = data.cells(grade)
    for strategy in dict.fromkeys(cell.strategy for cell in cells):
        group = [cell for cell in cells if cell.strategy == strategy]
        n = sum(len(cell.rows) for cell in group)
        good = sum(cell.recovered for cell in group)
        interval = wilson(good, n)
        line = (
            f"faults, {_plain(strategy)}, {grade} evidence: {good} of {n} recovered "
            f"({good / n:.0%}, 95 % interval {interval.low:.0%} to {interval.high:.0%})"
        )
        times = [time for cell in group for time in cell.times]
        # The fake browser's clock is made up: no time of it is stated.
        if times and grade is not Evidence.FAKE:
            failures = sum(len(cell.failed) for cell in group)
            parts = {"p50": censored_percentile(times, failures, 50), "p95": censored_percentile(times, failures, 95)}
            line += "".join(
                f", {name} {'not reached' if time is None else f'{time:.0f} ms'}" for name, time in parts.items()
            )
        found.append(line)
    return found


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _more(names: list[str]) -> str:
    return f" and {len(names) - 5} more" if len(names) > 5 else ""


def _plain(text: str) -> str:
    """Return ``text`` on one line and without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))[:400]
