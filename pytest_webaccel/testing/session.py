"""The page's end of the protocol in Python, without I/O: what ``page/session.mjs`` is in the browser."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from pytest_webaccel.bridge.frames import Assembly, TensorSpec, chunks, decode_chunk, seal, spec_of, unseal
from pytest_webaccel.bridge.protocol import PROTOCOL_VERSION
from pytest_webaccel.errors import ProtocolError

__all__ = ["Answer", "Backoff", "PageRequest", "PageSession"]

_REMEMBERED = 256
_TENSOR_LIMIT = 1 << 40

Tensors = Mapping[str, np.ndarray[Any, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class PageRequest:
    """A request as the page takes it up; ``files`` are references (name, key, bytes, via)."""

    id: int
    op: str
    args: Mapping[str, Any]
    tensors: Tensors
    files: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What the page answers: a value and tensors, or ``error`` as (kind, message). ``ms`` is the page's time."""

    value: Any = None
    tensors: Tensors = dataclasses.field(default_factory=dict)
    error: tuple[str, str] | None = None
    ms: float = 0.0


@dataclasses.dataclass(slots=True)
class _Entry:
    """What the page knows of one request. ``sent_on`` is the connection its answer was last sent on."""

    state: Literal["receiving", "held", "running", "done", "cancelled"]
    message: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    assembly: Assembly | None = None
    answer: Answer | None = None
    sent_on: int = 0


class PageSession:
    """State of one page's life, over any number of connections.

    ``send`` puts a frame on the present connection, ``on_request`` is called once for each request.
    ``executions`` counts how often each request was really begun. ``chunk_bytes`` is for tests that
    want many frames of small tensors. Raises ProtocolError for what a server may not say.
    """

    def __init__(
        self,
        instance: str,
        send: Callable[[str | bytes], None],
        on_request: Callable[[PageRequest], None],
        *,
        chunk_bytes: int = 1 << 20,
    ) -> None:
        self.instance = instance
        self.connection = 0
        self.welcomed = False
        self.executions: dict[int, int] = {}
        self._send = send
        self._on_request = on_request
        self._chunk_bytes = chunk_bytes
        self._event_number = 0
        self._entries: dict[int, _Entry] = {}
        self._events: dict[int, Mapping[str, Any]] = {}

    def opened(self) -> None:
        """Note a new connection: greet."""
        self.connection += 1
        self.welcomed = False
        self._json({"t": "hello", "protocol": PROTOCOL_VERSION, "instance": self.instance})

    def closed(self) -> None:
        """Note that the connection is gone; half-received requests will come again whole."""
        self.welcomed = False
        for request_id in [known for known, entry in self._entries.items() if entry.state == "receiving"]:
            del self._entries[request_id]

    def text(self, text: str) -> None:
        """Take one text frame."""
        message = json.loads(unseal(text))
        match message.get("t"):
            case "welcome":
                self._resume(message.get("pending", []))
            case "request":
                self._request(message)
            case "release":
                entry = self._entries.get(message["id"])
                if entry is not None and entry.state == "held":
                    self._start(message["id"], entry)
            case "cancel":
                self._remember(message["id"])
            case "again":
                self._send_answer(message["id"], again=True)
            case "ping":
                self._json({"t": "pong", "n": message["n"]})
            case "ack":
                for request_id in message.get("ids", []):
                    self._remember(request_id)
                self._events.pop(message.get("events", 0), None)
            case kind:
                raise ProtocolError(f"unknown message type {kind!r}")

    def binary(self, frame: bytes) -> None:
        """Take one binary frame: a chunk of an announced request."""
        chunk = decode_chunk(frame)
        entry = self._entries.get(chunk.request)
        if entry is None or entry.state != "receiving" or entry.assembly is None:
            return  # known and complete already, or asked for again
        if not chunk.intact:
            del self._entries[chunk.request]
            self._json({"t": "again", "id": chunk.request})
            return
        entry.assembly.add(chunk)
        self._take_up_when_whole(chunk.request, entry)

    def beat(self) -> None:
        """Say that the page lives."""
        if self.welcomed:
            self._json({"t": "beat"})

    def event(self, name: str, data: Mapping[str, Any]) -> None:
        """Report an event, again after each reconnect until it is acknowledged."""
        self._event_number += 1
        message = {"t": "event", "n": self._event_number, "name": name, "data": data}
        self._events[self._event_number] = message
        if self.welcomed:
            self._json(message)

    def answer(self, request_id: int, answer: Answer) -> None:
        """Keep the answer to a running request, and send it where somebody listens."""
        entry = self._entries.get(request_id)
        if entry is None or entry.state != "running":
            return  # cancelled meanwhile
        self._entries[request_id] = _Entry("done", answer=answer)
        if self.welcomed:
            self._send_answer(request_id)

    def statistics(self) -> dict[str, int]:
        """Return how many entries are in each state."""
        counts: dict[str, int] = {"events": len(self._events)}
        for entry in self._entries.values():
            counts[entry.state] = counts.get(entry.state, 0) + 1
        return counts

    # -- inside ------------------------------------------------------------------------------

    def _resume(self, pending: Sequence[int]) -> None:
        self.welcomed = True
        for request_id in set(self._entries) - set(pending):
            self._remember(request_id)
        for message in self._events.values():
            self._json(message)
        for request_id, entry in list(self._entries.items()):
            if entry.state == "done":
                self._send_answer(request_id)

    def _request(self, message: Mapping[str, Any]) -> None:
        request_id = message["id"]
        entry = self._entries.get(request_id)
        if entry is None or entry.state == "receiving":
            specs = [TensorSpec.from_json(item, limit=_TENSOR_LIMIT) for item in message["tensors"]]
            entry = self._entries[request_id] = _Entry("receiving", message, Assembly(specs))
            self._take_up_when_whole(request_id, entry)
        elif entry.state == "done":
            self._send_answer(request_id)
        elif entry.state == "held" and not message["hold"]:
            self._start(request_id, entry)
        elif entry.state in {"held", "running"}:
            self._json({"t": "started", "id": request_id})

    def _take_up_when_whole(self, request_id: int, entry: _Entry) -> None:
        if entry.assembly is None or not entry.assembly.complete:
            return
        if entry.message["hold"]:
            entry.state = "held"
            self._json({"t": "started", "id": request_id})
        else:
            self._start(request_id, entry)

    def _start(self, request_id: int, entry: _Entry) -> None:
        assert entry.assembly is not None
        message, tensors = entry.message, entry.assembly.arrays()
        self._entries[request_id] = _Entry("running")
        self.executions[request_id] = self.executions.get(request_id, 0) + 1
        self._on_request(PageRequest(request_id, message["op"], message["args"], tensors, message["files"]))

    def _send_answer(self, request_id: int, *, again: bool = False) -> None:
        entry = self._entries.get(request_id)
        if entry is None or entry.answer is None or (entry.sent_on == self.connection and not again):
            return
        entry.sent_on = self.connection
        answer = entry.answer
        specs = [spec_of(name, array) for name, array in answer.tensors.items()]
        message: dict[str, Any] = {"t": "result", "id": request_id, "ok": answer.error is None, "ms": answer.ms}
        if answer.error is None:
            message["value"] = answer.value
        else:
            message["error"] = {"kind": answer.error[0], "message": answer.error[1][:4000]}
        message["executions"] = self.executions.get(request_id, 1)
        message["tensors"] = [spec.to_json() for spec in specs]
        self._json(message)
        for index, (spec, array) in enumerate(zip(specs, answer.tensors.values(), strict=True)):
            if spec.text is None and array.nbytes:
                flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                for frame in chunks(request_id, index, flat.data, self._chunk_bytes):
                    self._send(frame)

    def _remember(self, request_id: int) -> None:
        self._entries[request_id] = _Entry("cancelled")
        if len(self._entries) <= _REMEMBERED:
            return
        for old, entry in self._entries.items():
            if entry.state == "cancelled":
                del self._entries[old]
                return

    def _json(self, message: Mapping[str, Any]) -> None:
        self._send(seal(json.dumps(message)))


class Backoff:
    """Pauses between connection attempts: none after a connection that lived, else capped exponential, full jitter.

    The jitter is seeded.
    """

    FIRST_S = 0.010
    CAP_S = 2.0

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(f"backoff\0{seed}")

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after ``failures`` attempts in a row that opened nothing that lived."""
        if not failures:
            return 0.0
        return self._random.random() * min(self.CAP_S, self.FIRST_S * 2.0 ** min(failures, 16))
