"""What both halves of the bridge hand each other: bounds, requests, replies, and the effects of the protocol. Pure."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.bridge.frames import chunks, seal, spec_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_webaccel.terms import Damage

__all__ = [
    "Answered",
    "Damaged",
    "Doubted",
    "Effect",
    "Limits",
    "Observed",
    "Pong",
    "Progress",
    "Reply",
    "Request",
    "Send",
    "Started",
    "Transmit",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a page may say; over one of them its connection is closed.

    Bytes, counts, and seconds. ``heartbeat_s`` bounds silence while the page's thread is free, also while a request is
    held at the barrier; ``busy_heartbeat_s`` bounds it while a request runs, when the thread may be taken. A page
    beats every ``beat_ms`` milliseconds. The last ``doubt_s`` of such a silence, a quarter of it at most, are there to
    ask elsewhere whether the page still runs. A request is sent ``resends`` times more at most to a page that received
    it damaged.
    """

    text_bytes: int = 16 << 20
    tensor_bytes: int = 1 << 30
    tensors: int = 1024
    pending: int = 64
    remembered: int = 1024
    heartbeat_s: float = 2.0
    busy_heartbeat_s: float = 60.0
    doubt_s: float = 0.25
    beat_ms: int = 250
    resends: int = 3

    def doubtful(self, silence: float) -> float:
        """Return the seconds of silence after which a page is doubted that may be silent for ``silence`` seconds."""
        return silence - min(self.doubt_s, silence / 4)


class Progress(enum.Enum):
    """How far a request has come."""

    QUEUED = enum.auto()
    SENT = enum.auto()
    STARTED = enum.auto()
    RECEIVING = enum.auto()
    DAMAGED = enum.auto()


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
    state: Progress = Progress.QUEUED
    sends: int = 0
    resends: int = 0

    @property
    def busy(self) -> bool:
        """Whether the page's thread may be taken by it: it was sent, and does not wait at the barrier."""
        return self.sends > 0 and not (self.hold and self.state is Progress.STARTED)

    def frames(self, via: str) -> Iterator[str | bytes]:
        """Yield the message and then the chunks of its tensors; files come ``via`` ``file`` or ``http``."""
        specs = [spec_of(name, array) for name, array in self.tensors.items()]
        files = [{"name": name, "key": key, "bytes": size, "via": via} for name, (key, size) in self.files.items()]
        message = {"t": "request", "id": self.id, "op": self.op, "args": self.args, "hold": self.hold}
        yield seal(json.dumps({**message, "tensors": [spec.to_json() for spec in specs], "files": files}))
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


@dataclasses.dataclass(frozen=True, slots=True)
class Pong:
    """Effect: the page's JavaScript answered ping ``number``, ``milliseconds`` after it was asked."""

    number: int
    milliseconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Doubted:
    """Effect: the page was silent for so long that it may not run any more. No damage yet."""


Effect = Send | Transmit | Started | Answered | Damaged | Observed | Pong | Doubted
