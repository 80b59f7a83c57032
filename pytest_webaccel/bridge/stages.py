"""Toxics: how the way between a page and the bridge may be spoilt, in Toxiproxy's terms and units. Pure.

Names, attributes and their meaning are those of https://github.com/Shopify/toxiproxy#toxics, except that nothing
is ever lost or changes places within a stream that goes on: what TCP carries, it carries in order.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

from pytest_webaccel.errors import BridgeError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

__all__ = [
    "KB",
    "Bandwidth",
    "Latency",
    "LimitData",
    "ResetPeer",
    "Slicer",
    "Stage",
    "Stream",
    "Timeout",
    "Toxic",
    "stage_of",
]

#: Bytes of a KB in a rate: Toxiproxy lets ``rate`` bytes pass in each millisecond.
KB = 1000

#: Seconds of sending that one piece under a bandwidth limit stands for at most, so that the flow is even.
_PIECE_S = 0.02


class Stream(enum.StrEnum):
    """The two directions of a connection. ``upstream`` is from the page to the bridge."""

    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Toxic:
    """What all toxics share: the stream that they are laid on, and a name, by default ``KIND_STREAM``."""

    kind: ClassVar[str] = ""
    stream: Stream = Stream.DOWNSTREAM
    name: str = ""

    def __post_init__(self) -> None:
        """Give the default name, and refuse numbers that mean nothing."""
        object.__setattr__(self, "stream", Stream(self.stream))
        if not self.name:
            object.__setattr__(self, "name", f"{self.kind}_{self.stream}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
                raise BridgeError(f"toxic {self.name}: {field.name} is {value!r}; it must be a number of 0 or more")


@dataclasses.dataclass(frozen=True, slots=True)
class Latency(_Toxic):
    """Delays all data by ``latency`` ± ``jitter`` milliseconds, drawn evenly."""

    kind: ClassVar[str] = "latency"
    latency: float
    jitter: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Bandwidth(_Toxic):
    """Limits each connection to ``rate`` KB a second. A rate of 0 lets nothing pass."""

    kind: ClassVar[str] = "bandwidth"
    rate: float


@dataclasses.dataclass(frozen=True, slots=True)
class Timeout(_Toxic):
    """Stops all data, and closes the connection after ``timeout`` milliseconds; 0: never. Data waits meanwhile."""

    kind: ClassVar[str] = "timeout"
    timeout: float


@dataclasses.dataclass(frozen=True, slots=True)
class ResetPeer(_Toxic):
    """Stops all data, and resets the connection (TCP RST) after ``timeout`` milliseconds."""

    kind: ClassVar[str] = "reset_peer"
    timeout: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Slicer(_Toxic):
    """Slices data into pieces of ``average_size`` ± ``size_variation`` bytes, ``delay`` microseconds apart."""

    kind: ClassVar[str] = "slicer"
    average_size: int
    size_variation: int = 0
    delay: float = 0.0

    def __post_init__(self) -> None:
        """Refuse slices that may have no byte."""
        super(Slicer, self).__post_init__()  # a class with slots is made anew, which plain super() misses
        if self.average_size - self.size_variation < 1:
            raise BridgeError(f"toxic {self.name}: slices of {self.average_size} ± {self.size_variation} may be empty")


@dataclasses.dataclass(frozen=True, slots=True)
class LimitData(_Toxic):
    """Closes the connection once ``bytes`` bytes have passed."""

    kind: ClassVar[str] = "limit_data"
    bytes: int


Toxic: TypeAlias = Latency | Bandwidth | Timeout | ResetPeer | Slicer | LimitData


class Stage(Protocol):
    """What a toxic does to the data of one connection. Times are seconds of one monotonic clock."""

    def pass_on(self, at: float, data: bytes) -> Iterator[tuple[float, bytes]]:
        """Yield what becomes of ``data`` that comes at ``at``, each part with its time, which never goes back."""
        ...


def stage_of(toxic: Toxic, since: float, chance: random.Random) -> Stage | None:
    """Return what ``toxic`` does to data from ``since`` on; None where it only counts bytes."""
    match toxic:
        case Latency():
            return _Delay(toxic, chance)
        case Bandwidth():
            return _Narrow(toxic, since) if toxic.rate else _Wall()
        case Slicer():
            return _Slice(toxic, chance)
        case Timeout() | ResetPeer():
            return _Wall()
        case LimitData():
            return None


class _Delay:
    """Latency, jitter."""

    def __init__(self, toxic: Latency, chance: random.Random) -> None:
        self._toxic = toxic
        self._chance = chance
        self._last = -math.inf

    def pass_on(self, at: float, data: bytes) -> Iterator[tuple[float, bytes]]:
        drawn = self._toxic.latency + self._toxic.jitter * self._chance.uniform(-1.0, 1.0)
        self._last = max(self._last, at + max(drawn, 0.0) / 1000)
        yield self._last, data


class _Narrow:
    """Bandwidth."""

    def __init__(self, toxic: Bandwidth, since: float) -> None:
        self._rate = toxic.rate * KB
        self._free = since

    def pass_on(self, at: float, data: bytes) -> Iterator[tuple[float, bytes]]:
        size = max(1, int(self._rate * _PIECE_S))
        for start in range(0, len(data), size):
            part = data[start : start + size]
            self._free = max(self._free, at) + len(part) / self._rate
            yield self._free, part


class _Slice:
    """Slicer."""

    def __init__(self, toxic: Slicer, chance: random.Random) -> None:
        self._toxic = toxic
        self._chance = chance
        self._free = -math.inf

    def pass_on(self, at: float, data: bytes) -> Iterator[tuple[float, bytes]]:
        start, toxic = 0, self._toxic
        while start < len(data):
            size = toxic.average_size + self._chance.randint(-toxic.size_variation, toxic.size_variation)
            at = max(at, self._free)
            yield at, data[start : start + size]
            self._free = at + toxic.delay / 1_000_000
            start += size


class _Wall:
    """Lets nothing pass."""

    def pass_on(self, at: float, data: bytes) -> Iterator[tuple[float, bytes]]:
        del at
        yield math.inf, data
