"""Operator conformance in reports: how each lane did, and each operator on each lane."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pytest_webaccel.report.palette import KINDS
from pytest_webaccel.report.parts import MOST_ROWS, badge, bar, details, key, left_out, table, text
from pytest_webaccel.report.statistics import percentile
from pytest_webaccel.terms import Evidence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_webaccel.report.data import ReportData
    from pytest_webaccel.rows import ConformanceRow

__all__ = ["conformance", "conformance_lines"]


#: How people read the kinds; the order is that of bars and columns.
_WORDS: Mapping[str, str] = {
    "agrees": "agree",
    "fell_back": "right, but on wasm",
    "unsupported": "unsupported",
    "not_asked": "not asked",
    "failed": "failed",
    "wrong_answer": "wrong",
    "not_finite": "NaN or infinity",
    "crashed": "crashed",
    "timed_out": "no answer in time",
}

#: Lane, build and version of the engine, grade of evidence.
_Column = tuple[str, str, str, Evidence]


def conformance(data: ReportData) -> str:
    """Return the part of the report about conformance tests; empty where there were none."""
    columns = _columns(data.conformance)
    if not columns:
        return ""
    return "".join(
        [
            "<h3>Operator conformance</h3>",
            _lanes(columns),
            _unexpected(data.conformance),
            _between_versions(columns),
            _matrix(columns),
        ]
    )


def conformance_lines(data: ReportData) -> list[str]:
    """Return a line for each lane and engine, for the terminal."""
    found = []
    for (lane, build, version, evidence), rows in _columns(data.conformance).items():
        counts = _counts(rows)
        told = ", ".join(f"{counts[kind]} {word}" for kind, word in _WORDS.items() if counts[kind])
        odd = sum(row.kind != row.expected for row in rows)
        found.append(
            f"conformance, {lane}, onnxruntime-web {version} {build}, {evidence} evidence: {len(rows)} tests, {told}; "
            f"{odd} not as expected"
        )
    return found


def _columns(rows: Iterable[ConformanceRow]) -> dict[_Column, list[ConformanceRow]]:
    found: dict[_Column, list[ConformanceRow]] = {}
    for row in rows:
        found.setdefault((row.lane, row.build, row.version, row.evidence), []).append(row)
    return dict(sorted(found.items()))


def _counts(rows: Iterable[ConformanceRow]) -> Counter[str]:
    """Count by kind; a kind that this version does not know counts as failed."""
    return Counter(row.kind if row.kind in _WORDS else "failed" for row in rows)


def _bar(rows: Sequence[ConformanceRow], width: int) -> str:
    counts = _counts(rows)
    parts = {kind: float(counts[kind]) for kind in _WORDS if counts[kind]}
    words = ", ".join(f"{counts[kind]} {_WORDS[kind]}" for kind in parts)
    return bar(parts, KINDS, words, width=width)


def _legend() -> str:
    return f"<p>{key({word: KINDS[kind] for kind, word in _WORDS.items()})}</p>"


def _lanes(columns: Mapping[_Column, Sequence[ConformanceRow]]) -> str:
    lines = []
    for (lane, build, version, evidence), rows in columns.items():
        counts = _counts(rows)
        # The fake browser's clock is made up: it measures nothing.
        ms = "" if evidence is Evidence.FAKE else f"{percentile([row.ms for row in rows], 50):.1f} ms"
        lines.append(
            (
                f'<code class="wa-lane">{text(lane)}</code><br>{badge(evidence)}',
                text(f"onnxruntime-web {version}, {build}"),
                f"{text(len(rows))}<br>{_bar(rows, 90)}",
                *(text(counts[kind]) for kind in _WORDS),
                text(sum(row.kind != row.expected for row in rows)),
                text(ms),
            )
        )
    header = ("lane", "engine", "tests", *_WORDS.values(), "not as expected", "median")
    return _legend() + table(header, lines, ready=True)


def _unexpected(rows: Sequence[ConformanceRow]) -> str:
    odd = [row for row in rows if row.kind != row.expected]
    if not odd:
        return "<p>Every test ended as expected.</p>"
    lines = [(row.case, row.lane, row.version, row.expected, row.kind, row.detail) for row in odd[:MOST_ROWS]]
    header = ("test", "lane", "engine", "expected", "got", "detail")
    return details(f"{len(odd)} did not end as expected", table(header, lines) + left_out(len(odd)))


def _between_versions(columns: Mapping[_Column, Sequence[ConformanceRow]]) -> str:
    """Return what changed between versions or builds of the engine on one lane."""
    lanes: dict[tuple[str, Evidence], dict[str, dict[str, ConformanceRow]]] = {}
    for (lane, build, version, evidence), rows in columns.items():
        lanes.setdefault((lane, evidence), {})[f"{version} {build}"] = {row.case: row for row in rows}
    parts = []
    for (lane, evidence), engines in lanes.items():
        if len(engines) < 2:
            continue
        names = sorted({name for found in engines.values() for name in found})
        kinds = {
            name: [found[name].kind if name in found else "not run" for found in engines.values()] for name in names
        }
        differing = [(name, *found) for name, found in kinds.items() if len(set(found)) > 1]
        words = f"{lane}, {evidence} evidence: {len(differing)} of {len(names)} tests end otherwise between versions"
        inner = table(("test", *engines), differing[:MOST_ROWS]) + left_out(len(differing))
        parts.append(details(words, inner) if differing else f"<p>{text(words)}</p>")
    return "".join(parts)


def _matrix(columns: Mapping[_Column, Sequence[ConformanceRow]]) -> str:
    cells: dict[str, dict[_Column, list[ConformanceRow]]] = {}
    for column, rows in columns.items():
        for row in rows:
            cells.setdefault(row.operator or "none", {}).setdefault(column, []).append(row)
    lines = []
    for operator in sorted(cells)[:MOST_ROWS]:
        found = [cells[operator].get(column, []) for column in columns]
        lines.append((f"<code>{text(operator)}</code>", *(_cell(rows) for rows in found)))
    header = ("operator", *(f"{lane}, {version} {build}, {grade}" for lane, build, version, grade in columns))
    inner = _legend() + table(header, lines, ready=True) + left_out(len(cells))
    return details(f"{len(cells)} operators on {len(columns)} lanes", inner)


def _cell(rows: Sequence[ConformanceRow]) -> str:
    if not rows:
        return '<span class="wa-soft">not run</span>'
    good = sum(row.kind == "agrees" for row in rows)
    return f"{_bar(rows, 90)} {good} of {len(rows)}"
