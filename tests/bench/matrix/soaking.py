"""One blow of a soak, and the looks at what it left: at answers, journal, processes, folders, memory."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import gc
import hashlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import pytest_webaccel
from pytest_webaccel.errors import FaultError, LaneUnavailableError, WebAccelError
from pytest_webaccel.rows import RecoveryRow, TransactionRow
from pytest_webaccel.terms import FaultPlan, FaultPoint, TransactionState
from tests.bench.matrix.state import FAILED, RECOVERED, VOID
from tests.bench.matrix.work import Work, model, wrong

if TYPE_CHECKING:
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker
    from pytest_webaccel.rows import Row
    from tests.bench.matrix.blows import Blow

__all__ = ["Struck", "leftovers", "look", "strike"]

_REQUEST_S = 30.0
_CALL_S = 240.0
_GONE_S = 5.0


@dataclasses.dataclass
class Struck:
    """What one blow came to. ``answers`` were delivered, ``committed`` are the runs that the journal committed."""

    blow: Blow
    outcome: str = VOID
    answers: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    committed: int = 0
    duplicated: int = 0
    models_lost: int = 0
    total_ms: float = 0.0
    rungs: str = ""
    detail: str = ""

    @property
    def lost(self) -> int:
        """Committed results that nobody got, and models that a whole lane no longer holds."""
        return max(self.committed - self.answers, 0) + self.models_lost

    def to_json(self) -> dict[str, Any]:
        """Return it as an entry of the log."""
        blow = self.blow
        return {
            "number": blow.number,
            "lane": str(blow.lane),
            "fault": str(blow.fault),
            "point": str(blow.point),
            "strategy": str(blow.strategy),
            "outcome": self.outcome,
            "answers": self.answers,
            "wrong": len(self.wrong),
            "duplicated": self.duplicated,
            "lost": self.lost,
            "total_ms": round(self.total_ms, 2),
            "rungs": self.rungs,
            **({"detail": self.detail[:300]} if self.detail else {}),
        }


def strike(worker: Worker, blow: Blow, rows: list[Row]) -> Struck:
    """Cause one fault between two undisturbed requests, each with inputs of its own; ``rows`` is where rows arrive."""
    rows.clear()
    struck = Struck(blow)
    problem: WebAccelError | None = None
    try:
        with worker.lease(blow.lane, f"soak-{blow.number}", blow.strategy) as lease:
            try:
                _requests(worker, lease, struck)
            except WebAccelError as error:
                problem = error
    except LaneUnavailableError as error:
        struck.detail = f"not tried: {error}"
        return struck
    recoveries = [row for row in rows if isinstance(row, RecoveryRow)]
    struck.committed = sum(
        isinstance(row, TransactionRow) and (row.kind, row.state) == ("run", TransactionState.COMMITTED) for row in rows
    )
    struck.duplicated += sum(row.duplicated for row in recoveries)
    struck.models_lost = sum(row.lost for row in recoveries)
    if recoveries:
        last = recoveries[-1]
        struck.outcome = RECOVERED if last.outcome == RECOVERED and problem is None else FAILED
        struck.total_ms, struck.rungs = last.total_ms, last.rungs
        struck.detail = "" if struck.outcome == RECOVERED else str(problem or last.detail)
    if isinstance(problem, FaultError):
        struck.outcome, struck.detail = VOID, str(problem)
    return struck


def _requests(worker: Worker, lease: Lease, struck: Struck) -> None:
    blow = struck.blow
    plan = FaultPlan(blow.fault, blow.point, recovery=blow.strategy)
    if blow.point is FaultPoint.MID_LOAD:
        lease.plans.waiting.append(plan)
    loaded = worker.call(lease.load(model(), None, deadline=_REQUEST_S), deadline=_CALL_S)
    for part in ("before", "struck", "after"):
        if part == "struck" and blow.point is not FaultPoint.MID_LOAD:
            lease.plans.waiting.append(plan)
        work = Work.drawn(f"soak-{blow.number}-{part}")
        asked = lease.run(loaded, {"x": work.x}, deadline=_REQUEST_S, expect={"y": work.y})
        answer, reply = worker.call(asked, deadline=_CALL_S)
        struck.answers += 1
        if contradiction := wrong(work, answer["y"]):
            struck.wrong.append(f"{part}: {contradiction}")
        if part != "struck":  # a fault's own row tells of that one
            struck.duplicated += max(reply.executions - 1, 0)


def look(process: str, faults: int, *, live: bool, spares: int) -> dict[str, Any]:
    """Return what this process holds after ``faults`` of its own; ``live``: with its browsers up, and ``spares``.

    ``in_use`` is what the C library has given out and not got back: a leak shows there, whatever gaps several threads
    leave in its heaps. ``rss`` and ``pss`` are taken as they are, ``held`` is ``rss`` once it has given back what
    nobody uses; None is what cannot be had. ``code`` tells versions of the package
    apart: what one of them leaks says nothing of the next.
    """
    gc.collect()
    me = psutil.Process()
    memory = me.memory_full_info()
    in_use = _in_use()
    _give_back()
    return {
        "look": process,
        "faults": faults,
        "live": live,
        "spares": spares,
        "rss": memory.rss,
        "pss": memory.pss,
        "held": me.memory_info().rss,
        "in_use": in_use,
        "fds": me.num_fds(),
        "children": len(me.children(recursive=True)),
        "code": _code(),
    }


@functools.cache
def _code() -> str:
    root = Path(pytest_webaccel.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _give_back() -> None:
    """Have the C library return the free ends and gaps of its heaps; nothing where it is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class _Heaps(ctypes.Structure):
    """``struct mallinfo2`` of glibc 2.33 and later."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names)


def _in_use() -> int | None:
    """Return the bytes that the C library has given out; None where it does not tell."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallinfo2.restype = _Heaps
        heaps = library.mallinfo2()
        return int(heaps.uordblks + heaps.hblkhd)
    return None


def leftovers(scratch: Path) -> list[str]:
    """Return what a stopped worker left: processes of ours, and profiles in ``scratch``, its temporary folder."""
    until = time.monotonic() + _GONE_S
    while (found := _left(scratch)) and time.monotonic() < until:
        psutil.wait_procs(psutil.Process().children(recursive=True), timeout=0.2)
    return found


def _left(scratch: Path) -> list[str]:
    found = [f"process {child.pid} {child.name()}" for child in psutil.Process().children(recursive=True)]
    for process in psutil.process_iter(["pid", "cmdline"]):
        if any(str(scratch) in word for word in process.info["cmdline"] or []):
            found.append(f"process {process.info['pid']} {' '.join(process.info['cmdline'])[:80]}")
    return found + [f"folder {path.name}" for path in scratch.glob("webaccel-*")]


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder in which everything of this process is made from now on."""
    folder = tempfile.TemporaryDirectory(prefix="soak-")
    tempfile.tempdir = folder.name
    return folder
