"""What a report is drawn from: the rows of one run, with evidence grades kept apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.errors import HistoryError
from pytest_webaccel.history import Store
from pytest_webaccel.rows import (
    SPARE_MEMORY,
    TABLES,
    ConformanceRow,
    LaneRow,
    MeasurementRow,
    ParityRow,
    PlacementRow,
    RecoveryRow,
    Row,
    RunRow,
    TestRow,
    TransactionRow,
    TuningRow,
)
from pytest_webaccel.terms import Evidence, Outcome, ProbeResult, Strategy

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CONTROLS", "Cell", "ReportData", "board", "recovered"]

_Kind = TypeVar("_Kind", bound=Row)

#: Strategies that are there to be compared against; they are shown and never gated.
CONTROLS = frozenset({str(Strategy.NONE), "worker_restart"})


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """All tries of one fault under one strategy, on one grade of evidence."""

    fault: str
    strategy: str
    evidence: Evidence
    rows: tuple[RecoveryRow, ...]

    @property
    def recovered(self) -> int:
        """How many tries recovered; ``unknown`` is not among them."""
        return len(recovered(self.rows))

    @property
    def times(self) -> list[float]:
        """Total recovery times of the recovered tries, in milliseconds."""
        return [row.total_ms for row in recovered(self.rows)]

    @property
    def failed(self) -> list[RecoveryRow]:
        """Tries that did not recover: their time is longer than they were given, or for ever."""
        return [row for row in self.rows if row.outcome == Outcome.FAILED]

    @property
    def unknown(self) -> int:
        """How many tries say nothing of time: no request followed the fault, or it could not be caused."""
        return len(self.rows) - self.recovered - len(self.failed)


@dataclasses.dataclass(frozen=True)
class ReportData:
    """The rows of a run by table, each row once, in the order of their time.

    ``missing`` maps each lane that was wanted and not had to the reason. ``notes`` are sentences
    about the data itself, such as damaged spool lines.
    """

    run: RunRow | None = None
    lanes: tuple[LaneRow, ...] = ()
    tests: tuple[TestRow, ...] = ()
    recoveries: tuple[RecoveryRow, ...] = ()
    measurements: tuple[MeasurementRow, ...] = ()
    transactions: tuple[TransactionRow, ...] = ()
    parity: tuple[ParityRow, ...] = ()
    placements: tuple[PlacementRow, ...] = ()
    conformance: tuple[ConformanceRow, ...] = ()
    tunings: tuple[TuningRow, ...] = ()
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def from_rows(
        cls, rows: Iterable[Row], *, probes: Sequence[ProbeResult] = (), notes: Sequence[str] = ()
    ) -> ReportData:
        """Return the data in ``rows``; ``probes`` tell which lanes were missing and why.

        Where no probe is given, the run's ``versions["missing_lanes"]`` (lane: reason) is used.
        """
        unique = {row.row_id: row for row in rows}
        ordered = sorted(unique.values(), key=lambda row: (row.at, row.row_id))
        run = next(iter(_of(ordered[::-1], RunRow)), None)
        missing = {str(probe.lane): _why(probe) for probe in probes if not probe.works}
        if not missing and run is not None:
            missing = _texts(run.versions.get("missing_lanes"))
        return cls(
            run=run,
            lanes=_of(ordered, LaneRow),
            tests=_of(ordered, TestRow),
            recoveries=_of(ordered, RecoveryRow),
            measurements=_of(ordered, MeasurementRow),
            transactions=_of(ordered, TransactionRow),
            parity=_of(ordered, ParityRow),
            placements=_of(ordered, PlacementRow),
            conformance=_of(ordered, ConformanceRow),
            tunings=_of(ordered, TuningRow),
            missing=missing,
            notes=tuple(notes),
        )

    @classmethod
    def from_database(cls, path: Path, run_id: str | None = None) -> ReportData:
        """Return the data of one run in the database at ``path``, of the latest without ``run_id``.

        Raises HistoryError when the database cannot be read or has no such run.
        """
        with Store.open(path, read_only=True) as store:
            known = [run.run_id for run in store.runs()]
            if run_id is None and known:
                run_id = known[0]
            if run_id is None or run_id not in known:
                wanted = f"run {run_id!r}" if run_id else "runs"
                latest = f" The latest are: {', '.join(known[:5])}." if known else ""
                raise HistoryError(f"The database {path} holds no {wanted}.{latest}")
            return cls.from_rows(row for kind in TABLES.values() for row in store.rows(kind, run_id))

    @property
    def grades(self) -> tuple[Evidence, ...]:
        """The grades of evidence that occur, the strongest first."""
        rows: list[Row] = [
            *self.lanes,
            *self.tests,
            *self.recoveries,
            *self.measurements,
            *self.parity,
            *self.conformance,
        ]
        found = {row.evidence for row in rows}
        return tuple(grade for grade in Evidence if grade in found)

    def spare_memory(self, lane: str, evidence: Evidence) -> str:
        """Return what a lane's warm spare holds of memory, for people; empty where none was made ready."""
        held = [
            row.value
            for row in self.measurements
            if row.metric == SPARE_MEMORY and row.lane == lane and row.evidence == evidence
        ]
        return f"{max(held) / 2**20:.0f} MiB" if held else ""

    def cells(self, evidence: Evidence) -> tuple[Cell, ...]:
        """Return the recoveries of one grade by fault and strategy."""
        return board(self.recoveries, evidence)

    def of_test(self, test_id: str) -> tuple[Row, ...]:
        """Return every row that belongs to the test ``test_id``."""
        rows: list[Row] = [*self.tests, *self.recoveries, *self.measurements, *self.parity, *self.conformance]
        return tuple(row for row in rows if getattr(row, "test_id", None) == test_id)


def recovered(rows: Iterable[RecoveryRow]) -> list[RecoveryRow]:
    """Return the rows whose outcome is ``recovered``."""
    return [row for row in rows if row.outcome == Outcome.RECOVERED]


def board(rows: Iterable[RecoveryRow], evidence: Evidence) -> tuple[Cell, ...]:
    """Return the rows of one grade as cells, sorted by fault, then by strategy."""
    cells: dict[tuple[str, str], list[RecoveryRow]] = {}
    for row in rows:
        if row.evidence == evidence:
            cells.setdefault((row.fault, row.strategy), []).append(row)
    order = {str(strategy): position for position, strategy in enumerate(Strategy)}
    keys = sorted(cells, key=lambda key: (key[0], order.get(key[1], len(order)), key[1]))
    return tuple(Cell(fault, strategy, evidence, tuple(cells[fault, strategy])) for fault, strategy in keys)


def _of(rows: Iterable[Row], kind: type[_Kind]) -> tuple[_Kind, ...]:
    return tuple(row for row in rows if isinstance(row, kind))


def _why(probe: ProbeResult) -> str:
    return " ".join(part for part in (probe.reason, probe.remedy) if part) or "the probe did not work"


def _texts(value: Any) -> dict[str, str]:
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, Mapping) else {}
