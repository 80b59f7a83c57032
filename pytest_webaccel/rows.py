"""Rows: one stored fact each, as it travels between processes and into DuckDB."""

from __future__ import annotations

import dataclasses
import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_webaccel.terms import Evidence, Mode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


__all__ = [
    "SPARE_MEMORY",
    "TABLES",
    "ConformanceRow",
    "LaneRow",
    "MeasurementRow",
    "ParityRow",
    "PlacementRow",
    "RecoveryRow",
    "Row",
    "RunRow",
    "TestRow",
    "TransactionRow",
    "TuningRow",
    "decode_row",
    "encode_row",
    "now",
]


def now() -> str:
    """Return the present moment as ISO 8601 in UTC, the form of every ``at`` column."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _row_id() -> str:
    return uuid.uuid4().hex


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What every stored row has. ``row_id`` lets a row that came twice be kept once."""

    table: ClassVar[str] = ""

    run_id: str
    evidence: Evidence
    at: str = dataclasses.field(default_factory=now)
    row_id: str = dataclasses.field(default_factory=_row_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRow(Row):
    """One pytest session. ``evidence`` is the weakest grade any of its lanes had."""

    table: ClassVar[str] = "runs"

    started_at: str
    finished_at: str
    mode: Mode
    seed: int
    versions: Mapping[str, Any]
    host: str
    exit_status: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaneRow(Row):
    """One lane as one worker really started it."""

    table: ClassVar[str] = "lanes"

    lane: str
    browser: str
    browser_version: str
    backend: str
    adapter: str
    features: Sequence[str]
    worker: str
    host: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestRow(Row):
    """One test on one lane. ``outcome`` is pytest's word, ``crashed`` or ``interrupted``."""

    __test__: ClassVar[bool] = False  # not a test class, whatever pytest reads into the name
    table: ClassVar[str] = "tests"

    test_id: str
    lane: str
    worker: str
    outcome: str
    duration_ms: float
    model: str = ""
    family: str = ""
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecoveryRow(Row):
    """One fault and what came of it. Times are milliseconds.

    ``kind`` says which of a fault's kinds it was, ``point`` when it struck. ``rungs`` names those begun, in order,
    with commas: the proof of the strategy in force. ``spare`` says whether a warm spare stood ready. ``steps`` are
    those of a request of many steps, ``steps_saved`` those that were not done again. ``cpu_ms`` is processor time that
    browsers and this process spent from fault to answer, ``memory_bytes`` what browsers then held beyond what they
    held before, so at least that much was needed.
    """

    table: ClassVar[str] = "recoveries"

    test_id: str
    lane: str
    fault: str
    strategy: str
    outcome: str
    total_ms: float
    detect_ms: float
    reassign_ms: float
    load_ms: float
    restore_ms: float
    replay_ms: float
    attempts: int
    duplicated: int
    lost: int
    undisturbed_ms: float = 0.0
    worker: str = ""
    model: str = ""
    detail: str = ""
    point: str = ""
    rungs: str = ""
    spare: bool = False
    symptom: str = ""
    steps: int = 0
    steps_saved: int = 0
    cpu_ms: float = 0.0
    memory_bytes: int = 0
    kind: str = ""


#: Metric of a measurement, in bytes and of no test: what the warm spare of a lane holds of the machine's memory,
#: once for each number of models that one held; the largest counts.
SPARE_MEMORY = "spare_memory"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasurementRow(Row):
    """One measured value."""

    table: ClassVar[str] = "measurements"

    test_id: str
    lane: str
    model: str
    family: str
    engine: str
    bits: int
    metric: str
    value: float
    unit: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransactionRow(Row):
    """One state that one journalled change reached."""

    table: ClassVar[str] = "transactions"

    lane: str
    transaction_id: str
    state: str
    kind: str
    test_id: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityRow(Row):
    """One output of one model on one lane, held against a reference.

    ``tolerance`` is the absolute part of what was allowed, ``rule`` all of it in words. ``placement`` counts nodes by
    execution provider, as the engine itself logged them.
    """

    table: ClassVar[str] = "parity"

    test_id: str
    lane: str
    model: str
    output: str
    reference: str
    agrees: bool
    max_abs: float
    max_ulp: float
    tolerance: float
    blamed_operator: str = ""
    placement: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rule: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlacementRow(Row):
    """How many nodes of one model one execution provider took, as the engine itself logged it.

    ``operators`` counts them by type and ``names`` names the first of them, where the engine lists them: it does not
    where one provider took all.
    """

    table: ClassVar[str] = "placements"

    test_id: str
    lane: str
    model: str
    build: str
    version: str
    provider: str
    nodes: int
    operators: Mapping[str, int] = dataclasses.field(default_factory=dict)
    names: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConformanceRow(Row):
    """One conformance test on one lane.

    ``kind`` is how it ended and ``expected`` how it was expected to, both words of
    :class:`~pytest_webaccel.parity.verdict.Kind`. ``version`` and ``build`` are the engine's. ``max_abs`` and
    ``max_ulp`` are the largest over the outputs, zero where there was no answer. ``ms`` is the time that loading,
    running and dropping the model took. ``placement`` counts nodes by execution provider. ``suite`` says of which
    version the test is, ``browser`` in which it ran.
    """

    table: ClassVar[str] = "conformance"

    test_id: str
    lane: str
    case: str
    operator: str
    opset: int
    kind: str
    expected: str
    detail: str
    build: str
    version: str
    max_abs: float = 0.0
    max_ulp: float = 0.0
    ms: float = 0.0
    placement: Mapping[str, int] = dataclasses.field(default_factory=dict)
    suite: str = ""
    browser: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningRow(Row):
    """One candidate that a tuner tried for a kernel: its constants, and how long a run took on an adapter.

    ``signature`` are the shapes of the inputs and how weights are packed. ``state`` is ``timed``, ``wrong`` where its
    answer was not the reference's, or ``failed``. ``untuned`` is what runs where nothing was tuned, ``chosen`` what
    runs from now on. Times are in milliseconds, zero where none was timed.
    """

    table: ClassVar[str] = "tunings"

    test_id: str
    lane: str
    adapter: str
    browser: str
    kernel: str
    signature: Mapping[str, Any]
    constants: Mapping[str, int]
    state: str
    n: int = 0
    median_ms: float = 0.0
    first_ms: float = 0.0
    nmse: float = 0.0
    untuned: bool = False
    chosen: bool = False


#: Row types by table name, in the order in which they are created.
TABLES: Mapping[str, type[Row]] = {
    row.table: row
    for row in (
        RunRow,
        LaneRow,
        TestRow,
        RecoveryRow,
        MeasurementRow,
        TransactionRow,
        ParityRow,
        PlacementRow,
        ConformanceRow,
        TuningRow,
    )
}


def encode_row(row: Row) -> str:
    """Return ``row`` as one line of JSON, for a spool line or a report property."""
    return json.dumps({"table": row.table, **dataclasses.asdict(row)}, separators=(",", ":"), allow_nan=True)


def decode_row(text: str) -> Row:
    """Return the row that :func:`encode_row` wrote.

    Raises ValueError, naming the table or the field, when the text is not one.
    """
    try:
        data = json.loads(text)
        kind = TABLES[data.pop("table")]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"not a row of a known table: {text[:80]!r}") from error
    names = {field.name for field in dataclasses.fields(kind)}
    if unknown := set(data) - names:
        raise ValueError(f"row of table {kind.table!r} has unknown fields {sorted(unknown)}")
    try:
        return kind(**{**data, "evidence": Evidence(data["evidence"])})
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"row of table {kind.table!r} is not whole: {error}") from error
