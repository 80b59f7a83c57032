"""The words of the project: one name for one thing in code, flags, tables, reports and docs.

Enums hold the vocabulary, frozen dataclasses the facts that travel between floors and processes; what is
stored is in :mod:`pytest_webaccel.rows`. Nothing here does any work, and nothing here imports a sibling.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ACCELERATED",
    "CPU_PROVIDER",
    "MENDING",
    "ON_REQUEST",
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
    "LaneState",
    "Level",
    "Mode",
    "OrtBuild",
    "Outcome",
    "Phases",
    "ProbeResult",
    "Strategy",
    "Symptom",
    "TransactionState",
]


class Backend(enum.StrEnum):
    """Where work runs inside the page."""

    WEBGPU = "webgpu"
    WEBNN = "webnn"
    CPU = "cpu"


#: Backends whose absence makes a run "nothing accelerated ran".
ACCELERATED = frozenset({Backend.WEBGPU, Backend.WEBNN})

#: What onnxruntime calls its execution provider on the CPU; in a page that is wasm.
CPU_PROVIDER = "CPUExecutionProvider"


class Browser(enum.StrEnum):
    """Browsers a lane may be bound to; ``fake`` proves logic and never performance.

    ``deno`` is no browser: it runs the page's modules on a WebGPU of its own, and proves what they compute.
    """

    CHROMIUM = "chromium"
    CHROME = "chrome"
    EDGE = "edge"
    FIREFOX = "firefox"
    WEBKIT = "webkit"
    DENO = "deno"
    FAKE = "fake"


#: What lanes are bound to only where it is asked for by name, since it is no browser.
ON_REQUEST = frozenset({Browser.DENO, Browser.FAKE})


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
    CONNECTION_STALLED = "connection_stalled"
    NETWORK_LATENCY = "network_latency"
    NETWORK_BANDWIDTH = "network_bandwidth"
    NETWORK_JITTER = "network_jitter"
    PAGE_CRASH = "page_crash"
    PAGE_RELOAD = "page_reload"
    BROWSER_CRASH = "browser_crash"
    DEVICE_LOST = "device_lost"
    DEVICE_DESTROYED = "device_destroyed"
    COMPONENT_TIMEOUT = "component_timeout"
    COMPONENT_ERROR = "component_error"
    OUT_OF_MEMORY = "out_of_memory"
    PARTIAL_RESULT = "partial_result"
    WORKER_CRASH = "worker_crash"
    CASCADE = "cascade"
    MULTI_BROWSER = "multi_browser"
    STAGGERED = "staggered"


class FaultPoint(enum.StrEnum):
    """When a planned fault fires, relative to the request it is aimed at."""

    BEFORE = "before"
    MID_REQUEST = "mid_request"
    MID_LOAD = "mid_load"
    MID_TRANSFER = "mid_transfer"
    DURING_RECOVERY = "during_recovery"
    AFTER = "after"
    RANDOM = "random"


class Level(enum.StrEnum):
    """How hard a run is hit; each level names a set of faults, the higher ones hold the lower."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Strategy(enum.StrEnum):
    """Recovery strategies; ``none`` and ``worker_restart`` are the controls."""

    SIMPLE = "simple"
    PROGRESSIVE = "progressive"
    PARALLEL = "parallel"
    COORDINATED = "coordinated"
    NONE = "none"
    WORKER_RESTART = "worker_restart"


#: Strategies that mend a lane; the others are controls.
MENDING = frozenset({Strategy.SIMPLE, Strategy.PROGRESSIVE, Strategy.PARALLEL, Strategy.COORDINATED})


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
    RESULT_DAMAGED = "result_damaged"
    OPERATION_FAILED = "operation_failed"
    MEMORY_EXHAUSTED = "memory_exhausted"
    CONNECTION_SLOW = "connection_slow"


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
