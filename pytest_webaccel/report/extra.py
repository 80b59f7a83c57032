"""What happened to one test, for the place where a report shows that test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.report.parts import STYLE, badge, milliseconds, outcome, phase_bar, phase_key, phases, table, text
from pytest_webaccel.rows import MeasurementRow, ParityRow, RecoveryRow, Row, TestRow

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["test_extra"]


def test_extra(rows: Sequence[Row]) -> str:
    """Return HTML that says where the test ran, what broke and what came of it; empty without rows."""
    parts = [_where(row) for row in rows if isinstance(row, TestRow) and (row.lane or row.outcome == "crashed")]
    recoveries = [row for row in rows if isinstance(row, RecoveryRow)]
    parts += [_recovery(row) for row in recoveries]
    if recoveries:
        used = dict.fromkeys(name for row in recoveries for name in phases(row))
        parts.append(f"<p>{phase_key(used)}</p>")
    parts.append(_measurements([row for row in rows if isinstance(row, MeasurementRow)]))
    parts.append(_parity([row for row in rows if isinstance(row, ParityRow)]))
    inner = "".join(parts)
    return f'<div class="webaccel"><style>{STYLE}</style>{inner}</div>' if inner else ""


# The name is the contract's, and pytest would collect it from a test module that imports it.
test_extra.__test__ = False  # type: ignore[attr-defined]


def _where(row: TestRow) -> str:
    lane = f" on lane <code>{text(row.lane)}</code>" if row.lane else ""
    model = f", model <code>{text(row.model)}</code>" if row.model else ""
    if row.outcome == "crashed":
        died = f"worker {text(row.worker)} died while it ran this test{lane}"
        return f"<p>{outcome('crashed')}: {died}. {text(row.reason)}</p>"
    return f"<p>Ran{lane}, worker {text(row.worker or 'main')}{model}. {badge(row.evidence)}</p>"


def _recovery(row: RecoveryRow) -> str:
    times = f"{milliseconds(row.total_ms)} in all" if row.total_ms else ""
    split = ", ".join(f"{name} {milliseconds(value)}" for name, value in phases(row).items())
    facts = [part for part in (times, split, f"{row.attempts} attempts" if row.attempts != 1 else "1 attempt") if part]
    if row.duplicated:
        facts.append(f"{row.duplicated} ran twice")
    if row.lost:
        facts.append(f"{row.lost} lost")
    if row.rungs:
        facts.append(f"rungs {' → '.join(row.rungs.split(','))}")
    if row.steps:
        facts.append(f"{row.steps_saved} of {row.steps} steps saved")
    if row.cpu_ms > 0:
        facts.append(f"{milliseconds(row.cpu_ms)} of processor time")
    if row.undisturbed_ms > 0:
        facts.append(f"undisturbed {milliseconds(row.undisturbed_ms)}")
    detail = f"<br><span class='wa-soft'>{text(row.detail)}</span>" if row.detail else ""
    return (
        f"<p><b>{text(row.fault)}</b>, strategy {text(row.strategy)}: {outcome(row.outcome)} {badge(row.evidence)}"
        f"<br>{phase_bar(row)} {text('; '.join(facts))}{detail}</p>"
    )


def _measurements(rows: Sequence[MeasurementRow]) -> str:
    if not rows:
        return ""
    cells = [
        (row.metric, f"{row.value:g} {row.unit}", row.model, row.engine, row.lane, str(row.evidence)) for row in rows
    ]
    return table(("metric", "value", "model", "engine", "lane", "evidence"), cells)


def _parity(rows: Sequence[ParityRow]) -> str:
    if not rows:
        return ""
    cells = [
        (
            row.model,
            row.output,
            row.reference,
            "agrees" if row.agrees else "differs",
            f"{row.max_abs:.3g} (tolerance {row.tolerance:.3g})",
            ", ".join(f"{provider} {count}" for provider, count in row.placement.items()),
        )
        for row in rows
    ]
    return table(("model", "output", "held against", "result", "largest difference", "nodes ran on"), cells)
