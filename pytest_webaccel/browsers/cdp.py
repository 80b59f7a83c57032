"""A small client of the Chrome DevTools Protocol over the debugging pipe.

The pipe carries one JSON object a message, each ended by a NUL byte. It is used rather than a port
because no other user of the machine can reach it, and because Chromium exits when it closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from pytest_webaccel.errors import BrowserError

__all__ = ["MESSAGE_LIMIT", "Connection", "EventListener", "UnansweredError", "split_messages"]

#: Bytes of one message at most; a browser that sends a longer one is not to be trusted with memory.
MESSAGE_LIMIT = 256 * 1024 * 1024

#: Called with the method, its parameters and the session it came from (empty: the browser itself).
EventListener = Callable[[str, Mapping[str, Any], str], None]


class UnansweredError(BrowserError):
    """A call was not answered within its deadline; nobody refused it, and nothing closed."""


def split_messages(buffer: bytearray, data: bytes, limit: int = MESSAGE_LIMIT) -> list[bytes]:
    """Add ``data`` to ``buffer``, take the whole messages out of it and return them, oldest first.

    Raises ValueError when a message is longer than ``limit`` bytes.
    """
    if 0 not in data:
        buffer += data
        messages: list[bytes] = []
    else:
        first, *others = data.split(b"\0")
        whole = [bytes(buffer) + first, *others[:-1]]
        buffer[:] = others[-1]
        messages = [message for message in whole if message]
    if len(buffer) > limit or any(len(message) > limit for message in messages):
        raise ValueError(f"a message is longer than {limit} bytes")
    return messages


class _Call:
    """One call that waits for its answer."""

    __slots__ = ("answer", "method", "session")

    def __init__(self, method: str, session: str, answer: asyncio.Future[dict[str, Any]]) -> None:
        self.method = method
        self.session = session
        self.answer = answer


class Connection(asyncio.Protocol):
    """One connection to a browser, with flat sessions.

    ``where`` names the browser in error messages.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._calls: dict[int, _Call] = {}
        self._listeners: list[EventListener] = []
        self._writing: asyncio.WriteTransport | None = None
        self._next = 0
        self._closed = ""

    def attach(self, writing: asyncio.WriteTransport) -> None:
        """Send through ``writing`` from now on."""
        self._writing = writing

    def listen(self, listener: EventListener) -> Callable[[], None]:
        """Have ``listener`` called with each event; return what ends that."""
        self._listeners.append(listener)

        def forget() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return forget

    def post(self, method: str, parameters: Mapping[str, Any] | None = None, *, session: str = "") -> int:
        """Send a call without waiting for an answer; return its id. Raises BrowserError on a closed pipe."""
        if self._closed or self._writing is None or self._writing.is_closing():
            raise BrowserError(f"{self._where}: {method} cannot be sent: {self._closed or 'the pipe is closed'}")
        self._next += 1
        message: dict[str, Any] = {"id": self._next, "method": method, "params": dict(parameters or {})}
        if session:
            message["sessionId"] = session
        self._writing.write(json.dumps(message, separators=(",", ":")).encode() + b"\0")
        return self._next

    async def call(
        self, method: str, parameters: Mapping[str, Any] | None = None, *, session: str = "", deadline: float
    ) -> dict[str, Any]:
        """Return the result of ``method``.

        Raises BrowserError when the browser refuses, when its pipe closes or the session ends, and UnansweredError
        when ``deadline`` seconds pass.
        """
        identifier = self.post(method, parameters, session=session)
        waiting = _Call(method, session, self._loop.create_future())
        self._calls[identifier] = waiting
        try:
            # Not wait_for, which before Python 3.12 loses a cancellation that comes together with the answer.
            async with asyncio.timeout(deadline):
                return await waiting.answer
        except TimeoutError:
            raise UnansweredError(f"{self._where}: {method} was not answered within {deadline:.1f} s") from None
        finally:
            self._calls.pop(identifier, None)

    def fail_session(self, session: str, reason: str) -> None:
        """Fail the calls that wait in ``session``: its page is gone and will not answer."""
        for call in [call for call in self._calls.values() if call.session == session]:
            if not call.answer.done():
                call.answer.set_exception(BrowserError(f"{self._where}: {call.method} failed: {reason}"))

    def close(self, reason: str) -> None:
        """Fail every waiting call, and every later one, with ``reason``."""
        if self._closed:
            return
        self._closed = reason
        for call in list(self._calls.values()):
            if not call.answer.done():
                call.answer.set_exception(BrowserError(f"{self._where}: {call.method} failed: {reason}"))
        if self._writing is not None:
            self._writing.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the pipe."""
        try:
            for message in split_messages(self._buffer, data):
                self._receive(json.loads(message))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            self.close(f"the browser sent what is not the protocol: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the pipe closed."""
        self.close(f"the browser closed its pipe{f' ({exc})' if exc else ''}")

    def _receive(self, message: Mapping[str, Any]) -> None:
        if "id" not in message:
            session = message.get("sessionId", "")
            for listener in list(self._listeners):
                listener(message["method"], message.get("params", {}), session)
            return
        call = self._calls.get(message["id"])
        if call is None or call.answer.done():
            return
        if (error := message.get("error")) is not None:
            text = f"{error.get('message', 'no reason given')} {error.get('data', '')}".strip()
            call.answer.set_exception(BrowserError(f"{self._where}: {call.method} was refused: {text}"))
        else:
            call.answer.set_result(message.get("result", {}))
