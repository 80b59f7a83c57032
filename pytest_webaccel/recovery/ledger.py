"""The ledger of one test: what it asked and what was answered, in a file that outlives its worker.

A worker appends; the worker that replaces it, or the controller, reads. A record reaches the kernel in one
``writev``, so what was appended is there after a SIGKILL. A record that the kill tore, and whatever lies
behind it, is left out and cut off: what is read is always a whole prefix of what was written. Nothing is
fsynced: a machine that loses power may lose the last records.

Record: ``wal1``, length of the body, CRC-32 of the body (both little-endian, 32 bits), body. Body: length of
the head (32 bits), head (JSON), then the bytes of its tensors in order.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.errors import WebAccelError
from pytest_webaccel.rows import RecoveryRow
from pytest_webaccel.terms import Evidence, Fault, FaultPoint, Lane, Outcome, Strategy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "KEEP_BYTES",
    "Answer",
    "Death",
    "Entry",
    "Ledger",
    "LedgerError",
    "Past",
    "State",
    "Turn",
    "digest",
    "ledger_path",
    "read_ledger",
]

#: Bytes of answers that are kept for one test at most; further requests are committed without, and run again.
KEEP_BYTES = 64 << 20

_MAGIC = b"wal1"
_PREFIX = struct.Struct("<4sII")
_LENGTH = struct.Struct("<I")

#: Longest body that is read: one answer of the largest size kept, with its head.
_MAX_BODY = KEEP_BYTES + (1 << 20)

#: Buffers that one ``writev`` takes everywhere.
_VECTOR = 512

Arrays = dict[str, "np.ndarray[Any, Any]"]


class LedgerError(WebAccelError):
    """The ledger cannot be written, so what was answered would be done twice after a crash."""


class State(enum.StrEnum):
    """What a record says of its request."""

    STARTED = "started"
    COMMITTED = "committed"
    #: The undisturbed answer that a recovered one is held against.
    REFERENCE = "reference"
    #: What a request of many steps had when its step ``step`` was committed.
    CHECKPOINT = "checkpoint"
    #: The worker ends itself, or is ended by a planned fault.
    DEATH = "death"
    #: The controller saw that the worker was gone, and hands the test out again.
    NOTICED = "noticed"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """Output arrays of a request."""

    tensors: Arrays
    nbytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one request: its digest, and its answer where it was committed and kept."""

    digest: str
    committed: bool = False
    answer: Answer | None = None
    reference: Answer | None = None
    checkpoint: Answer | None = None
    steps: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Death:
    """Why a worker is about to die. ``at`` is the moment of the fault (seconds since the epoch, wall clock).

    ``lane`` and ``request`` say in what the fault struck, ``evidence`` how the lane is graded. ``detect_ms`` is
    what it took to see the damage, where that was done before the end. ``taken`` counts, by kind, the planned
    faults that fired until then, this one included: they fire no more. ``step`` is the step of a request of many.
    """

    fault: Fault
    strategy: Strategy
    point: FaultPoint
    lane: Lane
    evidence: Evidence
    request: int
    at: float
    model: str = ""
    detect_ms: float = 0.0
    undisturbed_ms: float = 0.0
    symptom: str = ""
    step: int = 0
    taken: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads back."""
        return {**dataclasses.asdict(self), "lane": str(self.lane)}

    def row(self, run_id: str, test_id: str, outcome: Outcome, detail: str, worker: str = "") -> RecoveryRow:
        """Return the row of this death where no later life recovered from it."""
        return RecoveryRow(
            run_id=run_id,
            # the same for whoever tells of this death, so that it is kept once
            row_id=f"{run_id}.{test_id}.{self.at}",
            evidence=self.evidence,
            test_id=test_id,
            lane=str(self.lane),
            fault=str(self.fault),
            strategy=str(self.strategy),
            outcome=str(outcome),
            total_ms=0.0,
            detect_ms=self.detect_ms,
            reassign_ms=0.0,
            load_ms=0.0,
            restore_ms=0.0,
            replay_ms=0.0,
            attempts=0,
            duplicated=0,
            lost=0,
            undisturbed_ms=self.undisturbed_ms,
            worker=worker,
            model=self.model,
            detail=detail,
            point=str(self.point),
            symptom=self.symptom,
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Death:
        """Return the death that :meth:`to_json` wrote; raises KeyError, TypeError or ValueError on anything else."""
        return cls(
            **{
                **data,
                "fault": Fault(data["fault"]),
                "strategy": Strategy(data["strategy"]),
                "point": FaultPoint(data["point"]),
                "lane": Lane.parse(data["lane"]),
                "evidence": Evidence(data["evidence"]),
            }
        )


@dataclasses.dataclass(slots=True)
class Past:
    """What a ledger holds: requests by lane and number, and the deaths of the workers that wrote it.

    ``noticed`` are the moments (seconds since the epoch) at which the controller saw a death, ``whole`` is how
    many bytes of the file are records that can be read.
    """

    test_id: str = ""
    requests: dict[tuple[str, int], Entry] = dataclasses.field(default_factory=dict)
    deaths: list[Death] = dataclasses.field(default_factory=list)
    noticed: list[float] = dataclasses.field(default_factory=list)
    kept: int = 0
    whole: int = 0


def digest(
    model: str, options: Sequence[object], feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None
) -> str:
    """Return what tells one request from another: the SHA-256 of model, options, feeds and outputs."""
    names = None if outputs is None else list(outputs)
    specs = [(name, str(array.dtype), list(array.shape)) for name, array in feeds.items()]
    hashed = hashlib.sha256(json.dumps([model, list(options), names, specs], default=str).encode())
    for array in feeds.values():
        if array.dtype.hasobject or array.dtype.kind in "US":
            hashed.update(json.dumps([str(item) for item in array.reshape(-1)]).encode())
        else:
            hashed.update(_raw(array))
    return hashed.hexdigest()


def ledger_path(folder: Path, test_id: str) -> Path:
    """Return where the ledger of a test lies in the folder of its run."""
    return folder / "ledgers" / f"{hashlib.sha256(test_id.encode()).hexdigest()[:32]}.ledger"


def read_ledger(path: Path) -> Past:
    """Return what ``path`` holds up to the first record that is not whole; a missing file is an empty one."""
    past = Past()
    try:
        with path.open("rb") as stream:
            while (prefix := stream.read(_PREFIX.size)) and len(prefix) == _PREFIX.size:
                magic, length, check = _PREFIX.unpack(prefix)
                if magic != _MAGIC or not _LENGTH.size <= length <= _MAX_BODY:
                    break
                body = stream.read(length)
                if len(body) != length or zlib.crc32(body) != check or not _take(body, past):
                    break
                past.whole += _PREFIX.size + length
    except FileNotFoundError:
        pass
    return past


class Turn:
    """One request of a test, in its place in the ledger; without a ledger it is kept nowhere.

    ``entry`` is what an earlier life of the test left of it: with an ``answer``, it need not be done again.
    ``afresh`` says that the test starts over all the same.
    """

    def __init__(
        self,
        ledger: Ledger | None,
        lane: Lane,
        number: int,
        digest: str = "",
        entry: Entry | None = None,
        *,
        afresh: bool = False,
    ) -> None:
        self.lane = lane
        self.number = number
        self.digest = digest
        self.entry = entry
        self._ledger = ledger
        self._afresh = afresh

    @property
    def answer(self) -> Arrays | None:
        """The answer committed in an earlier life, whose worker died; None: the request must be done."""
        return None if self.entry is None or self._afresh or self.entry.answer is None else self.entry.answer.tensors

    @property
    def reference(self) -> Arrays | None:
        """The undisturbed answer that an earlier life kept to hold the recovered one against."""
        return None if self.entry is None or self.entry.reference is None else self.entry.reference.tensors

    @property
    def resumable(self) -> tuple[int, Arrays]:
        """How many steps an earlier life committed, and what its checkpoints kept; (0, {}): start over."""
        if self.entry is None or self._afresh or self.entry.checkpoint is None:
            return 0, {}
        return self.entry.steps, self.entry.checkpoint.tensors

    def start(self) -> None:
        """Note that it is about to be done."""
        if self._ledger is not None:
            self._ledger.write(State.STARTED, self._head())

    def refer(self, tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Keep the undisturbed answer, which the recovered one is held against."""
        if self._ledger is not None:
            self._ledger.keep(State.REFERENCE, self._head(), tensors)

    def checkpoint(self, step: int, tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Keep ``tensors``, new since the last checkpoint, now that the first ``step`` steps are committed."""
        if self._ledger is not None:
            self._ledger.keep(State.CHECKPOINT, {**self._head(), "steps": step}, tensors)

    def commit(self, tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Note that it was answered, and keep the answer while there is room."""
        if self._ledger is not None:
            self._ledger.keep(State.COMMITTED, self._head(), tensors)

    def _head(self) -> dict[str, Any]:
        return {"lane": str(self.lane), "n": self.number, "digest": self.digest}


class Ledger:
    """The ledger of one test in the worker that runs it, made where missing, continued where an earlier life left it.

    Requests are counted by lane, as they are asked. Where the test, run again, asks something else than in
    its earlier life, nothing more of that lane is answered from the ledger. ``told`` says that what came of the
    earlier life's end is recorded. Raises LedgerError when the file cannot be opened.
    """

    def __init__(self, path: Path, test_id: str, *, keep_bytes: int = KEEP_BYTES) -> None:
        self.path = path
        self.test_id = test_id
        self.diverged: set[Lane] = set()
        self.told = False
        self._counts: dict[Lane, int] = {}
        self._keep_bytes = keep_bytes
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.past = read_ledger(path)
            if self.past.test_id not in {"", test_id}:  # of another test: a collision of names
                self.past = Past()
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._descriptor, self.past.whole)
        except OSError as error:
            raise LedgerError(f"The ledger {path} cannot be opened: {error.strerror or error}.") from error
        self._kept = self.past.kept
        if not self.past.whole:
            self._append({"test": test_id})

    @property
    def death(self) -> Death | None:
        """The last death of a worker under this test; None in its first life."""
        return self.past.deaths[-1] if self.past.deaths else None

    def turn(self, lane: Lane, digest: str) -> Turn:
        """Return the next request on ``lane``, with what an earlier life left of it."""
        number = self._counts.get(lane, 0)
        self._counts[lane] = number + 1
        entry = self.past.requests.get((str(lane), number))
        if entry is not None and entry.digest != digest:
            self.diverged.add(lane)
        if lane in self.diverged:
            entry = None
        # the control starts over, as a replaced worker of xdist does
        afresh = self.death is not None and self.death.strategy is Strategy.WORKER_RESTART
        return Turn(self, lane, number, digest, entry, afresh=afresh)

    def count(self, lane: Lane) -> int:
        """Return how many requests were asked on ``lane`` in this life."""
        return self._counts.get(lane, 0)

    def die(self, death: Death) -> None:
        """Note why the worker is about to die."""
        self.write(State.DEATH, {"death": death.to_json()})

    def noticed(self, at: float) -> None:
        """Note the moment (seconds since the epoch) at which the controller saw the death."""
        self.write(State.NOTICED, {"at": at})

    def keep(self, state: State, head: Mapping[str, Any], tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Append a record with tensors; without them, where the test's answers would come to too much."""
        size = sum(array.nbytes for array in tensors.values())
        if self._kept + size > self._keep_bytes:
            if state is State.COMMITTED:
                self.write(state, head)
            return
        specs, buffers = [], []
        for name, array in tensors.items():
            if array.dtype.hasobject or array.dtype.kind in "US":
                specs.append([name, "string", list(array.shape), 0, [str(item) for item in array.reshape(-1)]])
            else:
                specs.append([name, array.dtype.str, list(array.shape), array.nbytes])
                buffers.append(_raw(array))
        self._append({"state": str(state), **head, "tensors": specs}, buffers)
        self._kept += size

    def write(self, state: State, head: Mapping[str, Any]) -> None:
        """Append a record without tensors. Raises LedgerError when the disk takes no more."""
        self._append({"state": str(state), **head})

    def end(self) -> None:
        """Remove the ledger: its test ended, and nothing of it will be asked again."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file and leave it for the next life; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, head: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        text = json.dumps(head, separators=(",", ":")).encode()
        parts: list[bytes | memoryview] = [_LENGTH.pack(len(text)), text, *(view for view in buffers if view.nbytes)]
        if len(parts) >= _VECTOR:
            parts = [b"".join(parts)]
        length = check = 0
        for part in parts:
            length += memoryview(part).nbytes
            check = zlib.crc32(part, check)
        parts.insert(0, _PREFIX.pack(_MAGIC, length, check))
        try:
            written = os.writev(self._descriptor, parts)
        except OSError as error:
            raise LedgerError(f"The ledger {self.path} cannot be written: {error.strerror or error}.") from error
        if written != length + _PREFIX.size:
            raise LedgerError(
                f"The ledger {self.path} took {written} of {length + _PREFIX.size} bytes: the disk is full. Free some "
                "space there, or point TMPDIR at a folder that has it."
            )


def _raw(array: np.ndarray[Any, Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _take(body: bytes, past: Past) -> bool:
    """Add one record to ``past``; return whether it makes sense."""
    (length,) = _LENGTH.unpack_from(body)
    try:
        head = json.loads(body[_LENGTH.size : _LENGTH.size + length])
        if "test" in head:
            past.test_id = str(head["test"])
            return True
        state = State(head["state"])
        if state is State.DEATH:
            past.deaths.append(Death.from_json(head["death"]))
        elif state is State.NOTICED:
            past.noticed.append(float(head["at"]))
        else:
            answer = _answer(head, body, _LENGTH.size + length)
            _note(past, state, head, answer)
            past.kept += answer.nbytes if answer is not None else 0
    except (ValueError, KeyError, TypeError, IndexError):
        return False
    return True


def _note(past: Past, state: State, head: Mapping[str, Any], answer: Answer | None) -> None:
    key = (str(head["lane"]), int(head["n"]))
    entry = past.requests.get(key)
    if entry is None or entry.digest != head["digest"]:  # a later life that asked something else
        entry = Entry(str(head["digest"]))
    match state:
        case State.COMMITTED:
            entry = dataclasses.replace(entry, committed=True, answer=answer)
        case State.REFERENCE:
            entry = dataclasses.replace(entry, reference=answer)
        case State.CHECKPOINT:
            if answer is not None:
                before = (
                    entry.checkpoint.tensors if entry.checkpoint is not None and entry.steps < head["steps"] else {}
                )
                answer = Answer({**before, **answer.tensors}, answer.nbytes)
                entry = dataclasses.replace(entry, checkpoint=answer, steps=int(head["steps"]))
        case _:
            pass
    past.requests[key] = entry


def _answer(head: Mapping[str, Any], body: bytes, offset: int) -> Answer | None:
    if "tensors" not in head:
        return None
    tensors = dict(_tensors(head["tensors"], body, offset))
    return Answer(tensors, sum(array.nbytes for array in tensors.values()))


def _tensors(specs: Sequence[Sequence[Any]], body: bytes, offset: int) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for name, dtype, shape, size, *text in specs:
        if text:
            yield str(name), np.array(text[0], dtype=object).reshape(shape)
            continue
        flat = np.frombuffer(body, np.uint8, count=size, offset=offset)
        yield str(name), flat.copy().view(np.dtype(dtype)).reshape(shape)
        offset += size
