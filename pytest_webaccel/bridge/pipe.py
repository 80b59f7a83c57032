"""One direction of one connection under toxics: bytes in, with the time; bytes out, when they are due. No I/O.

What spoils a stream is ordered on its :class:`Flow`, which all connections of a link share, so that an order outlives
a reconnect. Bytes leave in the order in which they came, always.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import deque
from typing import TYPE_CHECKING

from pytest_webaccel.bridge.stages import LimitData, ResetPeer, Stage, Timeout, Toxic, stage_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from pytest_webaccel.bridge.payload import Scanner, Span

__all__ = ["End", "Flow", "Gate", "Pipe"]


class End(enum.Enum):
    """How a toxic ends a connection."""

    CLOSE = enum.auto()
    RESET = enum.auto()


@dataclasses.dataclass(slots=True)
class Gate:
    """Lets ``left`` more bytes of payload pass, then calls ``reached`` and holds the stream."""

    left: int
    reached: Callable[[], None]
    closed: bool = False


@dataclasses.dataclass(slots=True)
class _Corruption:
    """Payload to alter: ``flips`` bytes, once ``after`` have passed."""

    after: int
    flips: int


@dataclasses.dataclass(slots=True)
class Flow:
    """What is ordered on one stream of a link. ``toxics`` come with the time at which each was laid."""

    chance: random.Random
    toxics: dict[str, tuple[Toxic, float]] = dataclasses.field(default_factory=dict)
    gate: Gate | None = None
    corruptions: deque[_Corruption] = dataclasses.field(default_factory=deque)
    cut: int | None = None
    corrupted: int = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is ordered, so that bytes pass as they come."""
        return not self.toxics and self.gate is None and not self.corruptions and self.cut is None

    def corrupt(self, after: int, flips: int) -> None:
        """Order ``flips`` bytes of payload to be altered, once ``after`` more have passed."""
        self.corruptions.append(_Corruption(after, flips))

    def budget(self) -> int | None:
        """Return how many bytes of payload may pass before something happens; None where nothing will."""
        waits = [wait for wait in (self.gate.left if self.gate else None, self.cut) if wait is not None]
        return min(waits, default=None)

    def passed(self, data: bytes, spans: list[Span]) -> bytes:
        """Note payload that passes; return ``data`` with the alterations that are due in it."""
        count = sum(end - start for start, end in spans)
        if count and self.corruptions:
            data = self._altered(data, [at for start, end in spans for at in range(start, end)])
        if self.cut is not None:
            self.cut -= count
        if self.gate is not None and not self.gate.closed:
            self.gate.left -= count
            if self.gate.left <= 0:
                self.gate.closed = True
                self.gate.reached()
        return data

    def _altered(self, data: bytes, places: list[int]) -> bytes:
        spoilt = bytearray(data)
        for order in list(self.corruptions):
            open_to = [at for at in places[order.after :] if spoilt[at] == data[at]]  # never the same bit back
            order.after = max(0, order.after - len(places))
            if not open_to:
                continue
            for at in self.chance.sample(open_to, min(order.flips, len(open_to))):
                spoilt[at] ^= 1 << self.chance.randrange(8)
                self.corrupted += 1
            self.corruptions.remove(order)
        return bytes(spoilt)


class Pipe:
    """The bytes of one direction of one connection, on ``flow``, from ``now`` on."""

    def __init__(self, flow: Flow, scanner: Scanner, now: float) -> None:
        self.scanner = scanner
        self.stalled = False
        self.waiting = 0
        self._flow = flow
        self._since = now
        self._entry: deque[bytes] = deque()
        self._due: deque[tuple[float, float, bytes | End]] = deque()
        self._cut = False
        self._ended = False
        self._stages: list[Stage] = []
        self._limits: dict[str, int] = {}
        self._deadline: tuple[float, End] | None = None
        self.rearrange(now)

    @property
    def idle(self) -> bool:
        """Whether bytes may go past this pipe as they come; its scanner must see them all the same."""
        return not self.waiting and self._flow.idle and not (self.stalled or self._ended or self._due)

    def feed(self, data: bytes) -> None:
        """Take bytes that came."""
        if self._ended or self._cut or not data:
            return
        self._entry.append(data)
        self.waiting += len(data)

    def rearrange(self, now: float) -> None:
        """Take note that toxics were laid or taken away: what waits is subject to those there are now."""
        toxics = self._flow.toxics.values()
        stages = (stage_of(toxic, now, self._flow.chance) for toxic, _ in toxics)
        self._stages = [stage for stage in stages if stage is not None]
        limits = [toxic for toxic, _ in toxics if isinstance(toxic, LimitData)]
        self._limits = {limit.name: self._limits.get(limit.name, limit.bytes) for limit in limits}
        self._deadline = min(
            (
                (max(laid, self._since) + toxic.timeout / 1000, End.RESET if toxic.kind == "reset_peer" else End.CLOSE)
                for toxic, laid in toxics
                if isinstance(toxic, ResetPeer) or (isinstance(toxic, Timeout) and toxic.timeout)
            ),
            key=lambda deadline: deadline[0],
            default=None,
        )
        old, self._due = self._due, deque()
        for _, came, what in old:
            self._schedule(came, what)

    def due(self, now: float) -> tuple[list[bytes], End | None]:
        """Return the bytes to pass on at ``now``, and how the connection ends after them, if it does."""
        self._admit(now)
        ready: list[bytes] = []
        end = None
        while self._due and self._due[0][0] <= now and end is None and not self.stalled:
            _, _, what = self._due.popleft()
            if isinstance(what, End):
                end = what
                break
            self.waiting -= len(what)
            allowed = min(self._limits.values(), default=len(what))
            for name in self._limits:
                self._limits[name] -= min(len(what), allowed)
            if what[:allowed]:
                ready.append(what[:allowed])
            if self._limits and min(self._limits.values()) <= 0:
                end = End.CLOSE
        if end is None and self._deadline is not None and self._deadline[0] <= now and not self.stalled:
            end = self._deadline[1]
        if end is not None:
            self._ended = True
            self._entry.clear()
            self._due.clear()
            self.waiting = 0
        return ready, end

    def next_due(self) -> float | None:
        """Return when :meth:`due` will have something, as things are; None where that takes another event."""
        if self.stalled or self._ended:
            return None
        moments = [self._due[0][0]] if self._due else []
        if self._deadline is not None:
            moments.append(self._deadline[0])
        return min((moment for moment in moments if moment < math.inf), default=None)

    # -- inside ------------------------------------------------------------------------------

    def _admit(self, now: float) -> None:
        """Let what came pass gate, cut and corruption, as far as they let it."""
        flow = self._flow
        while self._entry and not self.stalled and not self._cut and not (flow.gate and flow.gate.closed):
            data = self._entry.popleft()
            count, spans = self.scanner.scan(data, flow.budget())
            rest = data[count:]
            passing = flow.passed(data[:count], spans)
            if rest:
                self._entry.appendleft(rest)
            if passing:
                self._schedule(now, passing)
            if rest and flow.cut is not None and flow.cut <= 0:
                self._cut_short(now)

    def _cut_short(self, now: float) -> None:
        self._flow.cut = None
        self._cut = True
        self.waiting -= sum(map(len, self._entry))
        self._entry.clear()
        self._schedule(now, End.RESET)

    def _schedule(self, came: float, what: bytes | End) -> None:
        last = self._due[-1][0] if self._due else -math.inf
        if isinstance(what, End):
            self._due.append((max(came, last), came, what))
            return
        pieces = [(came, what)]
        for stage in self._stages:
            pieces = [passed for at, part in pieces for passed in stage.pass_on(at, part)]
        for at, part in pieces:
            last = max(at, last)
            self._due.append((last, came, part))
