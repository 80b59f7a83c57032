"""Where the nodes of each model ran, in reports."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pytest_webaccel.report.parts import MOST_ROWS, badge, details, left_out, table, text
from pytest_webaccel.terms import CPU_PROVIDER, Backend

if TYPE_CHECKING:
    from pytest_webaccel.report.data import ReportData
    from pytest_webaccel.rows import PlacementRow
    from pytest_webaccel.terms import Evidence

__all__ = ["placement"]


def placement(data: ReportData) -> str:
    """Return which execution provider took the nodes of each model on each lane, as the engine logged it."""
    found: dict[tuple[str, str, str, Evidence], dict[str, PlacementRow]] = {}
    for row in data.placements:  # every test that loads a model tells the same; the last one's word counts
        key = (row.model, row.lane, f"{row.version} {row.build}", row.evidence)
        told = found.get(key, {})
        whole = {name: one for name, one in told.items() if one.test_id == row.test_id}
        found[key] = {**whole, row.provider: row}
    if not found:
        return ""
    lines = []
    for (model, lane, engine, evidence), rows in sorted(found.items())[:MOST_ROWS]:
        lines.append(
            (
                text(model),
                f'<code class="wa-lane">{text(lane)}</code><br>{text(engine)}',
                "<br>".join(_provider(row) for _, row in sorted(rows.items())),
                "".join(_elsewhere(row) for row in rows.values()) or "none",
                "".join(_named(row) for _, row in sorted(rows.items())) or "not listed: one provider took all",
                badge(evidence),
            )
        )
    header = (
        "model",
        "lane, engine",
        "nodes by execution provider",
        "on wasm though asked elsewhere",
        "each node",
        "evidence",
    )
    return "<h3>Where the nodes ran</h3>" + table(header, lines, ready=True) + left_out(len(found))


def _provider(row: PlacementRow) -> str:
    counted = ", ".join(f"{name} x{count}" for name, count in Counter(row.operators).most_common(12))
    more = ", ..." if len(row.operators) > 12 else ""
    return f"<b>{text(row.nodes)}</b> {text(row.provider)}<br><span class='wa-soft'>{text(counted)}{more}</span>"


def _elsewhere(row: PlacementRow) -> str:
    asked_for = row.lane.endswith(f":{Backend.CPU}")
    return text(row.nodes) if row.provider == CPU_PROVIDER and row.nodes and not asked_for else ""


def _named(row: PlacementRow) -> str:
    if not row.names:
        return ""
    first = "" if len(row.names) >= row.nodes else f", the first {len(row.names)}"
    return details(f"{row.provider}{first}", "<br>".join(text(name) for name in row.names))
