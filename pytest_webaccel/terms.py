"""The words of the project: one name for one thing in code, flags, tables, reports and docs.

Enums hold the vocabulary; frozen dataclasses hold the facts that travel between floors, between
processes and into DuckDB. Nothing here does any work, and nothing here imports a sibling.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "ACCELERATED",
    "TABLES",
    "Backend",
    "Browser",
    "Damage",
    "Engine",
    "Evidence",
    "Family",
    "Fault",
    "FaultPlan",
    "FaultPoint",
    "Lane",
    "LaneRow",
    "LaneState",
    "MeasurementRow",
    "Mode",
    "OrtBuild",
    "Outcome",
    "ParityRow",
    "Phases",
    "ProbeResult",
    "RecoveryRow",
    "Row",
    "RunRow",
    "Strategy",
    "Symptom",
    "TestRow",
    "TransactionRow",
    "TransactionState",
    "decode_row",
    "encode_row",
    "now",
]


class Backend(enum.StrEnum):
    """Where work runs inside the page."""

    WEBGPU = "webgpu"
    WEBNN = "webnn"
    CPU = "cpu"


#: Backends whose absence makes a run "nothing accelerated ran".
ACCELERATED = frozenset({Backend.WEBGPU, Backend.WEBNN})


class Browser(enum.StrEnum):
    """Browsers a lane may be bound to; ``fake`` proves logic and never performance."""

    CHROMIUM = "chromium"
    CHROME = "chrome"
    EDGE = "edge"
    FIREFOX = "firefox"
    WEBKIT = "webkit"
    FAKE = "fake"


class Evidence(enum.StrEnum):
    """What a number was measured on; grades are never mixed in one figure."""

    HARDWARE = "hardware"
    SOFTWARE = "software"
    FAKE = "fake"


class Engine(enum.StrEnum):
    """What executes a model in the page."""

    ONNX = "onnx"
    KERNELS = "kernels"


class OrtBuild(enum.StrEnum):
    """The builds of onnxruntime-web that a lane can load.

    ``wasm`` has no accelerator, ``jsep`` is ``ort.all`` (WebGPU in JavaScript, WebNN),
    ``native`` is ``ort.webgpu`` (WebGPU compiled into the WebAssembly module, WebNN).
    """

    WASM = "wasm"
    JSEP = "jsep"
    NATIVE = "native"


class LaneState(enum.StrEnum):
    """Life of a lane; the legal moves are a table in :mod:`pytest_webaccel.pool.lane`."""

    INITIALIZING = "initializing"
    READY = "ready"
    BUSY = "busy"
    DEGRADED = "degraded"
    FAILED = "failed"
    RECOVERING = "recovering"


class Fault(enum.StrEnum):
    """Faults that can be caused."""

    CONNECTION_LOST = "connection_lost"
    BROWSER_CRASH = "browser_crash"
    DEVICE_LOST = "device_lost"


class FaultPoint(enum.StrEnum):
    """When a planned fault fires, relative to the request it is aimed at."""

    BEFORE = "before"
    MID_REQUEST = "mid_request"


class Strategy(enum.StrEnum):
    """Recovery strategies; ``none`` is the control."""

    SIMPLE = "simple"
    COORDINATED = "coordinated"
    NONE = "none"


class Outcome(enum.StrEnum):
    """Outcome of a recovery; ``unknown`` when the observer itself died."""

    RECOVERED = "recovered"
    FAILED = "failed"
    UNKNOWN = "unknown"


class TransactionState(enum.StrEnum):
    """Life of one journalled change."""

    STARTED = "started"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"


class Mode(enum.StrEnum):
    """Run modes; ``comparative`` repeats every fault test under every strategy."""

    BASIC = "basic"
    COMPARATIVE = "comparative"


class Family(enum.StrEnum):
    """Model families."""

    TEXT = "text"
    VISION = "vision"
    AUDIO = "audio"
    MULTIMODAL = "multimodal"


class Symptom(enum.StrEnum):
    """What the layers of detection can see; the recovery engine classifies by it."""

    SOCKET_CLOSED = "socket_closed"
    HEARTBEAT_MISSED = "heartbeat_missed"
    DEVICE_LOST = "device_lost"
    PAGE_CRASHED = "page_crashed"
    PAGE_REPLACED = "page_replaced"
    BROWSER_EXITED = "browser_exited"
    DEADLINE_PASSED = "deadline_passed"


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """One observation that something broke. ``at`` is on the loop's monotonic clock, in seconds."""

    symptom: Symptom
    detail: str
    at: float


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Lane:
    """Name of a lane: a browser bound to a backend, written ``chromium:webgpu``."""

    browser: Browser
    backend: Backend

    def __str__(self) -> str:
        """Return the written form, the one used in flags, ids and tables."""
        return f"{self.browser}:{self.backend}"

    @classmethod
    def parse(cls, text: str) -> Lane:
        """Return the lane that ``text`` names.

        Raises ValueError saying which half is unknown and what the known words are.
        """
        browser, separator, backend = text.strip().partition(":")
        if not separator:
            raise ValueError(f"lane {text!r} is not of the form BROWSER:BACKEND, such as chromium:webgpu")
        if browser not in set(Browser):
            raise ValueError(f"lane {text!r}: unknown browser {browser!r}; known: {', '.join(Browser)}")
        if backend not in set(Backend):
            raise ValueError(f"lane {text!r}: unknown backend {backend!r}; known: {', '.join(Backend)}")
        return cls(Browser(browser), Backend(backend))

    @property
    def accelerated(self) -> bool:
        """Whether the backend is WebGPU or WebNN."""
        return self.backend in ACCELERATED


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeResult:
    """What really works for one lane on this machine: seen, not believed.

    ``works`` is true only after a tiny dispatch or graph ran and its numbers were checked.
    ``reason`` says why not, ``remedy`` the one thing to do about it. ``adapter`` is the GPU adapter
    or the WebNN device; ``features`` and ``limits`` are what it reported. ``executable`` is where
    the browser was found, ``version`` its own version string.
    """

    lane: Lane
    works: bool
    evidence: Evidence
    version: str = ""
    executable: str = ""
    adapter: str = ""
    features: tuple[str, ...] = ()
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    reason: str = ""
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-safe dict that :meth:`from_json` reads back."""
        return {
            **dataclasses.asdict(self),
            "lane": str(self.lane),
            "evidence": str(self.evidence),
            "features": list(self.features),
            "limits": dict(self.limits),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ProbeResult:
        """Return the result that :meth:`to_json` wrote; raises KeyError or ValueError on anything else."""
        return cls(
            lane=Lane.parse(data["lane"]),
            works=bool(data["works"]),
            evidence=Evidence(data["evidence"]),
            version=str(data["version"]),
            executable=str(data["executable"]),
            adapter=str(data["adapter"]),
            features=tuple(str(feature) for feature in data["features"]),
            limits={str(name): int(value) for name, value in data["limits"].items()},
            reason=str(data["reason"]),
            remedy=str(data["remedy"]),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class FaultPlan:
    """A fault to cause: which, when, how often, and how to recover (None: the run's default)."""

    fault: Fault
    at: FaultPoint = FaultPoint.MID_REQUEST
    times: int = 1
    recovery: Strategy | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Phases:
    """Where recovery time went, in milliseconds; the parts sum to at most ``total``."""

    total: float = 0.0
    detect: float = 0.0
    reassign: float = 0.0
    load: float = 0.0
    restore: float = 0.0
    replay: float = 0.0


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
    """One fault and what came of it. Times are milliseconds."""

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

    ``placement`` counts nodes by execution provider, as the engine itself logged them.
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


#: Row types by table name, in the order in which they are created.
TABLES: Mapping[str, type[Row]] = {
    row.table: row for row in (RunRow, LaneRow, TestRow, RecoveryRow, MeasurementRow, TransactionRow, ParityRow)
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
