"""The section that a report shows about a run: one HTML string, escaped, readable without scripts."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_webaccel.report.conformance import conformance
from pytest_webaccel.report.figures import pictures
from pytest_webaccel.report.parts import (
    MOST_ROWS,
    STYLE,
    badge,
    details,
    left_out,
    milliseconds,
    outcome,
    phase_bar,
    phase_key,
    table,
    text,
)
from pytest_webaccel.report.placement import placement
from pytest_webaccel.report.statistics import percentile
from pytest_webaccel.terms import Evidence

if TYPE_CHECKING:
    from pytest_webaccel.report.data import ReportData
    from pytest_webaccel.report.picture import Picture
    from pytest_webaccel.rows import RecoveryRow, RunRow

__all__ = ["section"]

_EMPTY = (
    "No faults were planned in this run, so there is no recovery to show. Cause some with "
    "<code>--webaccel-fault browser_crash@mid_request</code> over the whole run, or with "
    '<code>@pytest.mark.fault("browser_crash")</code> on a test.'
)


def section(data: ReportData, *, png: bool = False) -> str:
    """Return the section for ``data``; with ``png`` its figures are PNG images instead of SVG."""
    parts = [
        _header(data),
        *(f'<p class="wa-note">{text(note)}</p>' for note in data.notes),
        _lanes(data),
        *(_grade(data, drawn, grade, png=png) for drawn in [pictures(data)] for grade in data.grades),
        "" if data.recoveries or data.conformance else f'<p class="wa-note">{_EMPTY}</p>',
        _faults(data),
        _parity(data),
        placement(data),
        conformance(data),
        _measurements(data),
        _crashed(data),
        _skipped(data),
    ]
    return f'<section class="webaccel"><style>{STYLE}</style>{"".join(parts)}</section>'


def _header(data: ReportData) -> str:
    grades = " ".join(badge(grade) for grade in data.grades)
    title = f"<h2>Browser lanes, faults and recovery</h2><p>{grades or 'No lane was used.'}</p>"
    if Evidence.FAKE in data.grades:
        title += (
            '<p class="wa-note">Rows of the fake browser prove logic. Their times are made up and measure nothing.</p>'
        )
    if data.run is None:
        return title
    facts = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in _facts(data.run, data))
    return f"{title}<dl>{facts}</dl>"


def _facts(run: RunRow, data: ReportData) -> Iterator[tuple[str, str]]:
    yield "run", run.run_id
    yield "time", f"{_moment(run.started_at)} to {_moment(run.finished_at)} UTC"
    yield "host", run.host
    yield "mode, seed", f"{run.mode}, {run.seed}"
    yield "exit status", str(run.exit_status)
    outcomes = Counter(test.outcome for test in data.tests)
    yield "tests", ", ".join(f"{count} {word}" for word, count in sorted(outcomes.items())) or "none"
    for name, value in run.versions.items():
        if name != "missing_lanes":
            yield str(name), _words(value)


def _moment(stamp: str) -> str:
    return stamp[:19].replace("T", " ") or "unknown"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _lanes(data: ReportData) -> str:
    if not data.lanes and not data.missing:
        return ""
    seen: dict[tuple[str, Evidence], list[str]] = {}
    latest = {(lane.lane, lane.evidence): lane for lane in data.lanes}
    for lane in data.lanes:
        seen.setdefault((lane.lane, lane.evidence), []).append(lane.worker)
    tests = Counter((test.lane, test.evidence) for test in data.tests if test.outcome != "skipped")
    rows = [
        (
            f'<code class="wa-lane">{text(lane.lane)}</code>',
            text(f"{lane.browser} {lane.browser_version}"),
            text(lane.adapter or "not applicable"),
            badge(lane.evidence),
            text(tests[key]),
            text(f"{len(seen[key])}, on {', '.join(sorted(filter(None, set(seen[key])))) or 'the only process'}"),
            text(data.spare_memory(*key) or "none"),
            text(", ".join(lane.features) or "none named"),
        )
        for key, lane in sorted(latest.items())
    ]
    header = ("lane", "browser", "adapter", "evidence", "tests", "starts", "warm spare", "features")
    return "<h3>Lanes</h3>" + table(header, rows, ready=True)


def _grade(data: ReportData, drawn: list[Picture], grade: Evidence, *, png: bool) -> str:
    figures = [_figure(picture, png=png) for picture in drawn if picture.evidence == grade]
    if not figures:
        return ""
    heading = f"<h3>Figures from {text(grade)} evidence</h3>" if len(data.grades) > 1 else ""
    return heading + "".join(figures)


def _figure(picture: Picture, *, png: bool) -> str:
    drawn = f'<img src="{picture.png_data_url()}" alt="{text(picture.alt)}" width="864">' if png else picture.svg()
    caption = f"<figcaption>{text(picture.title)} {badge(picture.evidence)}</figcaption>"
    return f"<figure>{caption}{drawn}</figure>" + details("The same as a table", table(picture.header, picture.rows))


def _faults(data: ReportData) -> str:
    if not data.recoveries:
        return ""
    rows = [
        (
            f"<code>{text(row.test_id)}</code>",
            text(f"{row.fault}, {row.kind}" if row.kind else row.fault)
            + (f"<br>{text(row.point)}" if row.point else ""),
            text(row.strategy) + _in_force(row),
            outcome(row.outcome) + (f"<br>{text(row.detail)}" if row.detail else ""),
            text(milliseconds(row.total_ms)),
            phase_bar(row, 120),
            badge(row.evidence),
        )
        for row in data.recoveries[:MOST_ROWS]
    ]
    header = ("test", "fault", "strategy", "outcome", "time", "phases", "evidence")
    inner = f"<p>{phase_key()}</p>" + table(header, rows, ready=True) + left_out(len(data.recoveries))
    return "<h3>Every fault</h3>" + details(f"{len(data.recoveries)} caused, and what came of each", inner)


def _in_force(row: RecoveryRow) -> str:
    """Return which rungs were begun, the proof that this strategy was in force, and what steps were saved."""
    rungs = text(" → ".join(row.rungs.split(","))) if row.rungs else "no rung begun"
    saved = f"; {row.steps_saved} of {row.steps} steps saved" if row.steps else ""
    return f"<br><span class='wa-soft'>{rungs}{saved}</span>"


def _parity(data: ReportData) -> str:
    if not data.parity:
        return ""
    differing = [row for row in data.parity if not row.agrees]
    words = f"<p>{len(data.parity) - len(differing)} of {len(data.parity)} outputs agree with their reference.</p>"
    rows = [
        (
            row.lane,
            row.model,
            row.output,
            row.reference,
            f"{row.max_abs:.3g} (allowed: {row.rule or f'{row.tolerance:.3g}'})",
            row.blamed_operator or "none found, or not searched",
            ", ".join(f"{provider} {count}" for provider, count in row.placement.items()) or "not recorded",
            str(row.evidence),
        )
        for row in differing[:MOST_ROWS]
    ]
    header = (
        "lane",
        "model",
        "output",
        "held against",
        "largest difference",
        "operator to blame",
        "nodes ran on",
        "evidence",
    )
    return "<h3>Agreement between lanes</h3>" + words + (table(header, rows) if rows else "") + left_out(len(differing))


def _measurements(data: ReportData) -> str:
    samples: dict[tuple[str, ...], list[float]] = {}
    for row in data.measurements:
        # The fake browser's clock is made up: it measures nothing.
        if row.evidence is not Evidence.FAKE and math.isfinite(row.value):
            key = (row.lane, row.model, row.engine, row.metric, row.unit, str(row.evidence))
            samples.setdefault(key, []).append(row.value)
    if not samples:
        return ""
    rows = [
        (
            *key[:4],
            str(len(values)),
            f"{percentile(values, 50):g} {key[4]}",
            f"{percentile(values, 95):g} {key[4]}",
            key[5],
        )
        for key, values in sorted(samples.items())[:MOST_ROWS]
    ]
    header = ("lane", "model", "engine", "metric", "n", "median", "p95", "evidence")
    inner = table(header, rows) + left_out(len(samples))
    return "<h3>Measurements</h3>" + details("Medians by lane, model and metric", inner)


def _crashed(data: ReportData) -> str:
    crashed = [test for test in data.tests if test.outcome == "crashed"]
    if not crashed:
        return ""
    rows = [(test.test_id, test.lane or "none", test.worker, test.reason) for test in crashed[:MOST_ROWS]]
    return (
        "<h3>Tests whose worker crashed</h3>"
        + table(("test", "lane", "worker", "reason"), rows)
        + left_out(len(crashed))
    )


def _skipped(data: ReportData) -> str:
    parts = []
    if data.missing:
        rows = sorted(data.missing.items())
        parts.append("<h3>Lanes that were not to be had</h3>" + table(("lane", "why"), rows))
    skipped = [test for test in data.tests if test.outcome == "skipped"]
    if skipped:
        cells = [(test.test_id, test.reason or "no reason given") for test in skipped[:MOST_ROWS]]
        inner = table(("test", "why"), cells) + left_out(len(skipped))
        parts.append("<h3>Skipped tests</h3>" + details(f"{len(skipped)} skipped, with reasons", inner))
    return "".join(parts)
