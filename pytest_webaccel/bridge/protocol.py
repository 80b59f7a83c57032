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
``again``      both    to the page: send the answer to a request again, it arrived damaged. To the server: send a
                       request again
``ping``       page    answer with the number that is given; no operation, so it is not queued behind any
``pong``       server  the answer to a ``ping``
``started``    server  the page took the request up (and waits, if held at the barrier)
``result``     server  id, ok, value or error, tensors announced
``event``      server  numbered observation of the page: device lost, page error
``beat``       server  heartbeat from the page's JavaScript
=============  ======  =========================================================================

Every message and every chunk of a tensor carries a checksum (see :mod:`~pytest_webaccel.bridge.frames`). A message
that arrives damaged breaks the protocol: its connection is closed, and what was lost comes again on the next one. A
result whose tensors arrive damaged, or are cut short by the end of the connection, is dropped; its request hears of it
and stays pending, and the page still holds the answer.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from pytest_webaccel.bridge.frames import decode_chunk, unseal
from pytest_webaccel.bridge.incoming import Incoming, announced
from pytest_webaccel.bridge.messages import (
    Answered,
    Damaged,
    Doubted,
    Effect,
    Limits,
    Observed,
    Pong,
    Progress,
    Reply,
    Request,
    Send,
    Started,
    Transmit,
)
from pytest_webaccel.errors import ProtocolError
from pytest_webaccel.terms import Damage, Symptom

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

__all__ = [
    "PROTOCOL_VERSION",
    "Answered",
    "Damaged",
    "Doubted",
    "Effect",
    "Limits",
    "Observed",
    "Pong",
    "Reply",
    "Request",
    "Send",
    "ServerSession",
    "Started",
    "Transmit",
]

PROTOCOL_VERSION = 2

#: States in which chunks of a result that was dropped may still be on their way.
_DROPS = frozenset({Progress.DAMAGED, Progress.STARTED})

#: Pings that may be unanswered at once; older ones are forgotten.
_PINGS = 64


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
        self._incoming: dict[int, Incoming] = {}
        self._pings: OrderedDict[int, float] = OrderedDict()
        self._next_ping = 1
        self._answered: OrderedDict[int, None] = OrderedDict()
        self._last_event = 0
        self._heard_at = self._spoken_at = 0.0
        self._doubted: tuple[float, float] | None = None
        self._greeted = False
        self._admitted: str | None = None

    @property
    def spoken_at(self) -> float:
        """When the page last said something."""
        return self._spoken_at

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

    def again(self, request_id: int) -> list[Effect]:
        """Have what arrived damaged sent again, an answer by the page or the request by the server.

        Nothing where it is on its way anyhow.
        """
        request = self.pending.get(request_id)
        if request is None or not self._greeted or not self.awaits_again(request_id):
            return []
        if request.state is not Progress.DAMAGED:
            request.resends = 0
            return self._transmit(request)
        request.state = Progress.STARTED
        return [Send(json.dumps({"t": "again", "id": request_id}))]

    def awaits_again(self, request_id: int) -> bool:
        """Whether a request goes on only after :meth:`again`: it or its answer arrived damaged."""
        request = self.pending.get(request_id)
        return request is not None and (request.state is Progress.DAMAGED or request.resends > self.limits.resends)

    def ping(self, now: float) -> tuple[int, list[Effect]]:
        """Ask the page's JavaScript for a sign of life; its answer becomes :class:`Pong` with the returned number.

        Raises ProtocolError when no page was welcomed.
        """
        if not self._greeted:
            raise ProtocolError("no page is connected that could answer a ping")
        number, self._next_ping = self._next_ping, self._next_ping + 1
        self._pings[number] = now
        while len(self._pings) > _PINGS:
            self._pings.popitem(last=False)
        return number, [Send(json.dumps({"t": "ping", "n": number}))]

    # -- what happens ------------------------------------------------------------------------

    def opened(self, now: float, instance: str | None = None) -> list[Effect]:
        """Note a new, admitted connection; it must greet before anything else, as ``instance`` if given."""
        self._admitted = instance
        self.connected = True
        self._greeted = False
        self._heard_at = self._spoken_at = now
        return []

    def closed(self, now: float, detail: str) -> list[Effect]:
        """Note that the connection is gone; pending requests hear of it and wait for a resume.

        Those whose result was cut short hear that instead.
        """
        if not self.connected:
            return []
        self.connected = False
        self._greeted = False
        self._pings.clear()
        short = tuple(known for known in self._incoming if known in self.pending)
        self._incoming.clear()
        for request in self.pending.values():
            request.resends = 0
            if request.state is not Progress.QUEUED:
                request.state = Progress.SENT  # it is sent again, which has the page send its answer again
        effects: list[Effect] = []
        if short:
            damage = Damage(Symptom.RESULT_DAMAGED, f"a result was cut short: {detail}", now)
            effects.append(Damaged(damage, short))
        others = tuple(known for known in self.pending if known not in short)
        return [*effects, Damaged(Damage(Symptom.SOCKET_CLOSED, detail, now), others)]

    def text(self, text: str, now: float) -> list[Effect]:
        """Take one text frame; raises ProtocolError for anything the protocol does not allow."""
        self._heard_at = self._spoken_at = now
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
            case "again":
                return self._transmit_again(message, now)
            case "pong":
                return self._pong(message, now)
            case _:
                raise ProtocolError(f"unknown message type {str(kind)[:40]!r}")

    def binary(self, frame: bytes, now: float) -> list[Effect]:
        """Take one binary frame: a chunk of an announced result."""
        self._heard_at = self._spoken_at = now
        chunk = decode_chunk(frame)
        incoming = self._incoming.get(chunk.request)
        if not chunk.intact and self._incoming:
            # the header may be what is damaged, so one that names no result under way stands for any of them
            return self._spoilt([chunk.request] if incoming else list(self._incoming), now)
        if incoming is None:
            request = self.pending.get(chunk.request)
            if chunk.request in self._answered or (request is not None and request.state in _DROPS):
                return []
            raise ProtocolError(f"a chunk for request {chunk.request}, which announced none")
        incoming.assembly.add(chunk)
        return self._finish(chunk.request, incoming) if incoming.assembly.complete else []

    def excuse(self, seconds: float) -> None:
        """Do not count ``seconds`` of silence in which the server itself did not listen."""
        self._heard_at += seconds

    def tick(self, now: float) -> list[Effect]:
        """Look at the clock: deadlines of requests, silence of the page."""
        effects: list[Effect] = []
        late = tuple(request.id for request in self.pending.values() if request.deadline_at <= now)
        if late:
            detail = "no answer before the deadline"
            effects.append(Damaged(Damage(Symptom.DEADLINE_PASSED, detail, now), late))
        if self.connected and now >= self._silence_looked_at():
            silent = now - self._heard_at
            if silent >= self._silence_allowed():
                self._heard_at = now
                effects.append(self._damage(Symptom.HEARTBEAT_MISSED, f"the page was silent for {silent:.1f} s", now))
            else:
                self._doubted = (self._heard_at, self._silence_allowed())
                effects.append(Doubted())
        return effects

    def next_tick(self) -> float | None:
        """Return the moment at which :meth:`tick` has something to look at."""
        moments = [request.deadline_at for request in self.pending.values()]
        if self.connected:
            moments.append(self._silence_looked_at())
        return min(moments, default=None)

    # -- inside ------------------------------------------------------------------------------

    def _silence_looked_at(self) -> float:
        """Return the moment at which silence, if it lasts until then, means something new."""
        allowed = self._silence_allowed()
        doubted = self._doubted == (self._heard_at, allowed)
        return self._heard_at + (allowed if doubted else self.limits.doubtful(allowed))

    def _silence_allowed(self) -> float:
        busy = any(request.busy for request in self.pending.values())
        return self.limits.busy_heartbeat_s if busy else self.limits.heartbeat_s

    def _damage(self, symptom: Symptom, detail: str, now: float) -> Damaged:
        return Damaged(Damage(symptom, detail, now), tuple(self.pending))

    def _transmit(self, request: Request) -> list[Effect]:
        request.state = Progress.SENT
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
            message = json.loads(unseal(text))
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
            if self.instance is not None:
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
        if request is None or request.state is not Progress.SENT:
            return []
        request.state = Progress.STARTED
        return [Started(request.id)]

    def _result(self, message: Mapping[str, Any]) -> list[Effect]:
        request = self._pending_of(message)
        if request is None:
            self.duplicates += 1
            return [self._ack(message["id"])]
        self._incoming.pop(request.id, None)  # the page sends it anew
        try:
            incoming = announced(message, self.limits, self._incoming.values())
        except ProtocolError as error:
            # An honest page may hold an output that cannot cross. Closing the connection would have it sent, and
            # refused, again and again; so the request fails, alone.
            self.pending.pop(request.id)
            self._remember(request.id)
            return [self._ack(request.id), Answered(request.id, None, ("unsupported", str(error)))]
        request.state = Progress.RECEIVING
        self._incoming[request.id] = incoming
        return self._finish(request.id, incoming) if incoming.assembly.complete else []

    def _spoilt(self, ids: list[int], now: float) -> list[Effect]:
        """Drop what has arrived of the results of ``ids``; the page still holds them."""
        for known in ids:
            del self._incoming[known]
            self.pending[known].state = Progress.DAMAGED
        return [Damaged(Damage(Symptom.RESULT_DAMAGED, "a chunk of a result has the wrong checksum", now), tuple(ids))]

    def _transmit_again(self, message: Mapping[str, Any], now: float) -> list[Effect]:
        """Send a request again that the page received damaged, a few times."""
        request = self._pending_of(message)
        if request is None or request.state is not Progress.SENT or request.resends > self.limits.resends:
            return []
        request.resends += 1
        if request.resends <= self.limits.resends:
            return self._transmit(request)
        detail = f"the request reached the page damaged {request.resends} times"
        return [Damaged(Damage(Symptom.RESULT_DAMAGED, detail, now), (request.id,))]

    def _pong(self, message: Mapping[str, Any], now: float) -> list[Effect]:
        number = message.get("n")
        if type(number) is not int:
            raise ProtocolError("a pong has the number of its ping")
        asked = self._pings.pop(number, None)
        return [] if asked is None else [Pong(number, (now - asked) * 1000)]

    def _ack(self, request_id: int) -> Send:
        return Send(json.dumps({"t": "ack", "ids": [request_id]}))

    def _finish(self, request_id: int, incoming: Incoming) -> list[Effect]:
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
