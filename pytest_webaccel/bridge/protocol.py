"""The server's end of the protocol, without I/O: events and time in, effects out.

Requests have ids and are idempotent by id. The page remembers results until they are acknowledged,
so a request that is sent again after a reconnect is answered and not run twice. What is lost with
a page is said at once: when another page instance joins, everything pending is damaged.

Messages are JSON objects with a type ``t``:

=============  ======  =========================================================================
type           to      meaning
=============  ======  =========================================================================
``hello``      server  first word of a connection: protocol version, page instance
``welcome``    page    accepted; ``resumed`` says whether this instance was here before, ``pending`` lists the
                       requests that still want an answer: a cancel or an ack may have been lost
``request``    page    id, op, args, tensors announced, whether to hold at the barrier
``release``    page    leave the barrier
``cancel``     page    forget a request; a late result of it is not sent
``ack``        page    results and events that arrived and may be forgotten
``started``    server  the page took the request up (and waits, if held at the barrier)
``result``     server  id, ok, value or error, tensors announced
``event``      server  numbered observation of the page: device lost, page error
``beat``       server  heartbeat from the page's JavaScript
=============  ======  =========================================================================
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.bridge.frames import Assembly, TensorSpec, chunks, decode_chunk, spec_of
from pytest_webaccel.errors import ProtocolError
from pytest_webaccel.terms import Damage, Symptom

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "PROTOCOL_VERSION",
    "Answered",
    "Damaged",
    "Effect",
    "Limits",
    "Observed",
    "Reply",
    "Request",
    "Send",
    "ServerSession",
    "Started",
    "Transmit",
]

PROTOCOL_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a page may say; over one of them its connection is closed.

    Bytes, counts, and seconds. ``heartbeat_s`` bounds silence while nothing runs;
    ``busy_heartbeat_s`` bounds it while a request runs, when the page's thread may be taken.
    """

    text_bytes: int = 16 << 20
    tensor_bytes: int = 1 << 30
    tensors: int = 1024
    pending: int = 64
    remembered: int = 1024
    heartbeat_s: float = 8.0
    busy_heartbeat_s: float = 60.0


class _State(enum.Enum):
    QUEUED = enum.auto()
    SENT = enum.auto()
    STARTED = enum.auto()
    RECEIVING = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """The page's answer to a request. ``page_ms`` is the page's own time for it."""

    value: Any
    tensors: Mapping[str, np.ndarray[Any, Any]]
    page_ms: float
    executions: int


@dataclasses.dataclass(slots=True)
class Request:
    """One request, kept until it is answered, abandoned or damaged."""

    id: int
    op: str
    args: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray[Any, Any]]
    files: Mapping[str, tuple[str, int]]
    deadline_at: float
    hold: bool
    state: _State = _State.QUEUED
    sends: int = 0

    def frames(self, via: str) -> Iterator[str | bytes]:
        """Yield the message and then the chunks of its tensors; files come ``via`` ``file`` or ``http``."""
        specs = [spec_of(name, array) for name, array in self.tensors.items()]
        files = [{"name": name, "key": key, "bytes": size, "via": via} for name, (key, size) in self.files.items()]
        message = {"t": "request", "id": self.id, "op": self.op, "args": self.args, "hold": self.hold}
        yield json.dumps({**message, "tensors": [spec.to_json() for spec in specs], "files": files})
        for index, (spec, array) in enumerate(zip(specs, self.tensors.values(), strict=True)):
            if spec.text is None and array.nbytes:
                flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                yield from chunks(self.id, index, flat.data)


@dataclasses.dataclass(frozen=True, slots=True)
class Send:
    """Effect: send this text now."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Transmit:
    """Effect: send this request's frames, and offer its files."""

    request: Request


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """Effect: the page took up the request."""

    id: int


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    """Effect: the request has its answer: a reply, or the page's error as (kind, message)."""

    id: int
    reply: Reply | None
    error: tuple[str, str] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Damaged:
    """Effect: the lane broke. ``ids`` are the requests that hear of it; they stay pending until abandoned."""

    damage: Damage
    ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Observed:
    """Effect: an event of the page."""

    name: str
    data: Mapping[str, Any]


Effect = Send | Transmit | Started | Answered | Damaged | Observed


@dataclasses.dataclass(slots=True)
class _Incoming:
    """A result being received: what was announced, checked before anything counts as answered."""

    value: Any
    milliseconds: float
    executions: int
    error: tuple[str, str] | None
    bytes: int
    assembly: Assembly


class ServerSession:
    """State of one lane's conversation with its page, over any number of connections and pages."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.connected = False
        self.instance: str | None = None
        self.pending: dict[int, Request] = {}
        self.duplicates = 0
        self.resumes = 0
        self.instances = 0
        self._next_id = 1
        self._incoming: dict[int, _Incoming] = {}
        self._answered: OrderedDict[int, None] = OrderedDict()
        self._last_event = 0
        self._heard_at = 0.0
        self._greeted = False
        self._admitted: str | None = None

    @property
    def greeted(self) -> bool:
        """Whether the page on the present connection was welcomed."""
        return self._greeted

    # -- what the caller wants ---------------------------------------------------------------

    def request(
        self,
        op: str,
        args: Mapping[str, Any],
        *,
        deadline_at: float,
        tensors: Mapping[str, np.ndarray[Any, Any]] | None = None,
        files: Mapping[str, tuple[str, int]] | None = None,
        hold: bool = False,
    ) -> tuple[Request, list[Effect]]:
        """Take up a request; it is sent now, or when a page joins.

        Raises ProtocolError when too many are pending already.
        """
        if len(self.pending) >= self.limits.pending:
            raise ProtocolError(f"{len(self.pending)} requests are pending already; the limit is {self.limits.pending}")
        request = Request(self._next_id, op, dict(args), dict(tensors or {}), dict(files or {}), deadline_at, hold)
        self._next_id += 1
        self.pending[request.id] = request
        return request, self._transmit(request) if self.connected and self._greeted else []

    def release(self, request_id: int) -> list[Effect]:
        """Let a held request go on, also one that is sent again later."""
        request = self.pending.get(request_id)
        if request is None or not request.hold:
            return []
        request.hold = False
        return [Send(json.dumps({"t": "release", "id": request_id}))] if self.connected else []

    def abandon(self, request_id: int) -> list[Effect]:
        """Stop waiting for a request; the page is told where it listens."""
        if self.pending.pop(request_id, None) is None:
            return []
        self._incoming.pop(request_id, None)
        self._remember(request_id)
        return [Send(json.dumps({"t": "cancel", "id": request_id}))] if self.connected else []

    # -- what happens ------------------------------------------------------------------------

    def opened(self, now: float, instance: str | None = None) -> list[Effect]:
        """Note a new, admitted connection; it must greet before anything else, as ``instance`` if given."""
        self._admitted = instance
        self.connected = True
        self._greeted = False
        self._heard_at = now
        return []

    def closed(self, now: float, detail: str) -> list[Effect]:
        """Note that the connection is gone; pending requests hear of it and wait for a resume."""
        if not self.connected:
            return []
        self.connected = False
        self._greeted = False
        self._incoming.clear()
        return [self._damage(Symptom.SOCKET_CLOSED, detail, now)]

    def text(self, text: str, now: float) -> list[Effect]:
        """Take one text frame; raises ProtocolError for anything the protocol does not allow."""
        self._heard_at = now
        message = self._parse(text)
        kind = message.get("t")
        if not self._greeted:
            if kind != "hello":
                raise ProtocolError(f"the first message is hello, not {str(kind)[:40]!r}")
            return self._hello(message, now)
        match kind:
            case "beat":
                return []
            case "started":
                return self._started(message)
            case "result":
                return self._result(message)
            case "event":
                return self._event(message, now)
            case _:
                raise ProtocolError(f"unknown message type {str(kind)[:40]!r}")

    def binary(self, frame: bytes, now: float) -> list[Effect]:
        """Take one binary frame: a chunk of an announced result."""
        self._heard_at = now
        chunk = decode_chunk(frame)
        incoming = self._incoming.get(chunk.request)
        if incoming is None:
            if chunk.request in self._answered:
                return []
            raise ProtocolError(f"a chunk for request {chunk.request}, which announced none")
        incoming.assembly.add(chunk)
        return self._finish(chunk.request, incoming) if incoming.assembly.complete else []

    def tick(self, now: float) -> list[Effect]:
        """Look at the clock: deadlines of requests, silence of the page."""
        effects: list[Effect] = []
        late = tuple(request.id for request in self.pending.values() if request.deadline_at <= now)
        if late:
            detail = "no answer before the deadline"
            effects.append(Damaged(Damage(Symptom.DEADLINE_PASSED, detail, now), late))
        silent = now - self._heard_at
        if self.connected and silent >= self._silence_allowed():
            self._heard_at = now
            effects.append(self._damage(Symptom.HEARTBEAT_MISSED, f"the page was silent for {silent:.1f} s", now))
        return effects

    def next_tick(self) -> float | None:
        """Return the moment at which :meth:`tick` has something to look at."""
        moments = [request.deadline_at for request in self.pending.values()]
        if self.connected:
            moments.append(self._heard_at + self._silence_allowed())
        return min(moments, default=None)

    # -- inside ------------------------------------------------------------------------------

    def _silence_allowed(self) -> float:
        return self.limits.busy_heartbeat_s if self.pending else self.limits.heartbeat_s

    def _damage(self, symptom: Symptom, detail: str, now: float) -> Damaged:
        return Damaged(Damage(symptom, detail, now), tuple(self.pending))

    def _transmit(self, request: Request) -> list[Effect]:
        request.state = _State.SENT
        request.sends += 1
        return [Transmit(request)]

    def _remember(self, request_id: int) -> None:
        self._answered[request_id] = None
        while len(self._answered) > self.limits.remembered:
            self._answered.popitem(last=False)

    def _parse(self, text: str) -> Mapping[str, Any]:
        if len(text) > self.limits.text_bytes:
            raise ProtocolError(f"a text frame of {len(text)} characters is over the limit of {self.limits.text_bytes}")
        try:
            message = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"a text frame is not JSON: {str(error)[:100]}") from error
        if not isinstance(message, dict):
            raise ProtocolError("a text frame is a JSON object")
        return message

    def _hello(self, message: Mapping[str, Any], now: float) -> list[Effect]:
        instance = message.get("instance")
        if message.get("protocol") != PROTOCOL_VERSION:
            raise ProtocolError(f"the page speaks protocol {message.get('protocol')!r}, not {PROTOCOL_VERSION}")
        if not isinstance(instance, str) or not 8 <= len(instance) <= 64:
            raise ProtocolError("hello names its page instance by 8 to 64 characters")
        if self._admitted is not None and instance != self._admitted:
            raise ProtocolError("hello names another page instance than the one that was admitted")
        self._greeted = True
        resumed = instance == self.instance
        effects: list[Effect] = []
        if resumed:
            self.resumes += 1
        else:
            lost = tuple(known for known, request in self.pending.items() if request.sends)
            if self.instance is not None and lost:
                damage = Damage(Symptom.PAGE_REPLACED, "another page joined; what the old one held is gone", now)
                effects.append(Damaged(damage, lost))
            for known in lost:
                del self.pending[known]
                self._remember(known)
            self.instance = instance
            self.instances += 1
            self._last_event = 0
        effects.append(Send(json.dumps({"t": "welcome", "resumed": resumed, "pending": list(self.pending)})))
        for request in self.pending.values():
            effects.extend(self._transmit(request))
        return effects

    def _pending_of(self, message: Mapping[str, Any]) -> Request | None:
        request_id = message.get("id")
        if type(request_id) is not int or not 0 < request_id < self._next_id:
            raise ProtocolError(f"{message.get('t')} names request {str(request_id)[:40]}, which was never sent")
        return self.pending.get(request_id)

    def _started(self, message: Mapping[str, Any]) -> list[Effect]:
        request = self._pending_of(message)
        if request is None or request.state is not _State.SENT:
            return []
        request.state = _State.STARTED
        return [Started(request.id)]

    def _result(self, message: Mapping[str, Any]) -> list[Effect]:
        request = self._pending_of(message)
        if request is None:
            self.duplicates += 1
            return [self._ack(message["id"])]
        try:
            incoming = self._announced(message)
        except ProtocolError as error:
            # An honest page may hold an output that cannot cross. Closing the connection would have it sent, and
            # refused, again and again; so the request fails, alone.
            self.pending.pop(request.id)
            self._remember(request.id)
            return [self._ack(request.id), Answered(request.id, None, ("unsupported", str(error)))]
        request.state = _State.RECEIVING
        self._incoming[request.id] = incoming
        return self._finish(request.id, incoming) if incoming.assembly.complete else []

    def _announced(self, message: Mapping[str, Any]) -> _Incoming:
        announced = message.get("tensors", [])
        if not isinstance(announced, list) or len(announced) > self.limits.tensors:
            raise ProtocolError(f"a result announces a list of at most {self.limits.tensors} tensors")
        specs = [TensorSpec.from_json(item, limit=self.limits.tensor_bytes) for item in announced]
        if len({spec.name for spec in specs}) != len(specs):
            raise ProtocolError("a result names a tensor twice")
        size = sum(spec.bytes for spec in specs)
        if size + sum(other.bytes for other in self._incoming.values()) > self.limits.tensor_bytes:
            raise ProtocolError(f"results under way of more than {self.limits.tensor_bytes} bytes")
        return _Incoming(*_outcome(message), size, Assembly(specs))

    def _ack(self, request_id: int) -> Send:
        return Send(json.dumps({"t": "ack", "ids": [request_id]}))

    def _finish(self, request_id: int, incoming: _Incoming) -> list[Effect]:
        self._incoming.pop(request_id, None)
        self.pending.pop(request_id, None)
        self._remember(request_id)
        if incoming.error is not None:
            return [self._ack(request_id), Answered(request_id, None, incoming.error)]
        reply = Reply(incoming.value, incoming.assembly.arrays(), incoming.milliseconds, incoming.executions)
        return [self._ack(request_id), Answered(request_id, reply, None)]

    def _event(self, message: Mapping[str, Any], now: float) -> list[Effect]:
        number, name, data = message.get("n"), message.get("name"), message.get("data", {})
        if type(number) is not int or not isinstance(name, str) or len(name) > 64 or not isinstance(data, dict):
            raise ProtocolError("an event has a number, a name and an object of data")
        acknowledgement = Send(json.dumps({"t": "ack", "events": number}))
        if number <= self._last_event:
            return [acknowledgement]
        self._last_event = number
        effects: list[Effect] = [acknowledgement, Observed(name, data)]
        if name == "device_lost":
            detail = f"{data.get('reason', '')!s}: {data.get('message', '')!s}"[:300]
            effects.append(self._damage(Symptom.DEVICE_LOST, detail, now))
        return effects


def _outcome(message: Mapping[str, Any]) -> tuple[Any, float, int, tuple[str, str] | None]:
    """Return value, milliseconds, executions and error (kind, message) of a result; raises ProtocolError."""
    milliseconds, executions = message.get("ms", 0.0), message.get("executions", 1)
    if type(milliseconds) not in {int, float} or not 0 <= milliseconds < 1e12 or type(executions) is not int:
        raise ProtocolError("a result's ms is a number of milliseconds and its executions an integer")
    if message.get("ok") is True:
        return message.get("value"), float(milliseconds), executions, None
    error = message.get("error")
    if not isinstance(error, dict):
        raise ProtocolError("a failed result carries its error")
    kind, words = str(error.get("kind", "page"))[:40], str(error.get("message", ""))[:4000]
    return None, float(milliseconds), executions, (kind, words)
