"""Where in a stream of bytes the payload is: of tensors in WebSocket frames, of files in HTTP answers. Pure.

Faults aim at payload. A flipped bit in a frame's header would be noticed by whoever reads frames; what must notice a
flipped bit in a tensor is its checksum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_webaccel.bridge.frames import HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Body", "Frames", "Nothing", "Scanner", "Span"]

#: Start and end of payload within the bytes scanned.
Span = tuple[int, int]

_BINARY = 0x2
_CONTROL = 0x8


class Scanner(Protocol):
    """Follows one stream from its start."""

    def scan(self, data: bytes, budget: int | None = None) -> tuple[int, list[Span]]:
        """Go on with ``data``, until ``budget`` bytes of payload have passed and another comes.

        Returns how many bytes were gone over, and where among them payload is.
        """
        ...


class Nothing:
    """A stream without payload."""

    def scan(self, data: bytes, budget: int | None = None) -> tuple[int, list[Span]]:
        """Go over all of it."""
        del budget
        return len(data), []


class _Head:
    """Finds the end of an HTTP head, which may come in pieces."""

    def __init__(self) -> None:
        self._tail = b""
        self.passed = False

    def length(self, data: bytes) -> int:
        """Return how many bytes at the start of ``data`` still belong to the head."""
        joined = self._tail + data
        found = joined.find(b"\r\n\r\n")
        if found < 0:
            self._tail = joined[-3:]
            return len(data)
        self.passed = True
        return found + 4 - len(self._tail)


class Body:
    """One HTTP answer: all that follows its head is payload."""

    def __init__(self) -> None:
        self._head = _Head()

    def scan(self, data: bytes, budget: int | None = None) -> tuple[int, list[Span]]:
        """See :class:`Scanner`."""
        start = 0 if self._head.passed else self._head.length(data)
        end = len(data) if budget is None else min(len(data), start + budget)
        return end, [(start, end)] if end > start else []


class Frames:
    """WebSocket frames, after an HTTP head if ``head``. Payload is that of binary messages past the chunk's header."""

    def __init__(self, *, head: bool) -> None:
        self._head: _Head | None = _Head() if head else None
        self._header = bytearray()
        self._left = 0
        self._binary = False
        self._counts = False
        self._position = 0

    def scan(self, data: bytes, budget: int | None = None) -> tuple[int, list[Span]]:
        """See :class:`Scanner`."""
        spans: list[Span] = []
        at, end = 0, len(data)
        if self._head is not None:
            at = self._head.length(data)
            if self._head.passed:
                self._head = None
        while at < end:
            if not self._left:
                at = self._take_header(data, at)
                continue
            step = min(self._left, end - at)
            if self._counts:
                step, within = self._count(at, step, budget, spans.append)
                budget = None if budget is None else budget - within
                if not step:
                    break
            self._left -= step
            at += step
        return at, spans

    def _count(self, at: int, step: int, budget: int | None, note: Callable[[Span], None]) -> tuple[int, int]:
        """Return how many of ``step`` bytes of a binary message may pass, and how many of them are payload."""
        before = min(step, max(0, HEADER_BYTES - self._position))
        within = step - before
        if budget is not None and within > budget:
            within, step = budget, before + budget
        if within:
            note((at + before, at + before + within))
        self._position += step
        return step, within

    def _take_header(self, data: bytes, at: int) -> int:
        """Read on in a frame's header; return where it ends, or the end of ``data``."""
        header = self._header
        while at < len(data):
            header.append(data[at])
            at += 1
            if len(header) < 2:
                continue
            short = header[1] & 0x7F
            extended = 2 if short == 126 else 8 if short == 127 else 0
            if len(header) < 2 + extended + (4 if header[1] & 0x80 else 0):
                continue
            self._begin(header[0] & 0x0F, int.from_bytes(header[2 : 2 + extended], "big") if extended else short)
            header.clear()
            break
        return at

    def _begin(self, opcode: int, length: int) -> None:
        self._left = length
        if opcode >= _CONTROL:
            self._counts = False
            return
        if opcode:
            self._binary = opcode == _BINARY
            self._position = 0
        self._counts = self._binary
