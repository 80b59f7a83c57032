"""A small client of WebDriver BiDi over a WebSocket.

One JSON object a message. Calls carry ids, events do not. https://www.w3.org/TR/webdriver-bidi/ names both.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from pytest_webaccel.errors import BrowserError

__all__ = ["MESSAGE_LIMIT", "Connection", "EventListener", "from_remote"]

#: Bytes of one message at most; a browser that sends a longer one is not to be trusted with memory.
MESSAGE_LIMIT = 256 * 1024 * 1024
#: Seconds that a browser may take to say goodbye.
_GOODBYE = 0.5
#: Values nested deeper than this are not read.
_DEPTH = 200
#: How a call is refused whose page is gone, and where the browser's own empty page stands in its place.
_NO_PAGE = ("no such frame", "parent process browsing contexts")

#: Called with the name of an event and its parameters.
EventListener = Callable[[str, Mapping[str, Any]], None]

#: Numbers that JSON lacks, as the protocol writes them.
_SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf"), "-0": -0.0}


class _Call:
    """One call that waits for its answer; ``context`` is the page it was sent to."""

    __slots__ = ("answer", "context", "method")

    def __init__(self, method: str, context: str, answer: asyncio.Future[dict[str, Any]]) -> None:
        self.method = method
        self.context = context
        self.answer = answer


class Connection:
    """One connection to a browser. ``where`` names the browser in error messages."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, _Call] = {}
        self._listeners: list[EventListener] = []
        self._client: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._next = 0
        self._closed = ""

    async def connect(self, address: str, *, deadline: float) -> None:
        """Connect to ``address``, which must be on this machine. Raises BrowserError."""
        if not _is_loopback(address):
            raise BrowserError(f"{self._where}: it offers its debugging port at {address}, which is not loopback")
        # No environment: a proxy must not stand between. No compression: the other end is on this machine.
        self._client = aiohttp.ClientSession(trust_env=False)
        try:
            async with asyncio.timeout(deadline):
                self._socket = await self._client.ws_connect(
                    address,
                    max_msg_size=MESSAGE_LIMIT,
                    compress=0,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_GOODBYE),
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            await self.end()
            raise BrowserError(f"{self._where}: its debugging port at {address} did not answer: {error}") from error
        self._spawn(self._read(self._socket))

    def listen(self, listener: EventListener) -> Callable[[], None]:
        """Have ``listener`` called with each event; return what ends that."""
        self._listeners.append(listener)

        def forget() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return forget

    async def call(
        self, method: str, parameters: Mapping[str, Any] | None = None, *, context: str = "", deadline: float
    ) -> dict[str, Any]:
        """Return the result of ``method``; ``context`` is the page without which there will be no answer.

        Raises BrowserError when the browser refuses, when the connection or that page ends, and when
        ``deadline`` seconds pass.
        """
        socket = self._socket
        if self._closed or socket is None or socket.closed:
            raise BrowserError(f"{self._where}: {method} cannot be sent: {self._closed or 'it is not connected'}")
        self._next += 1
        identifier, waiting = self._next, _Call(method, context, self._loop.create_future())
        self._calls[identifier] = waiting
        try:
            async with asyncio.timeout(deadline):
                await socket.send_str(
                    json.dumps({"id": identifier, "method": method, "params": dict(parameters or {})})
                )
                return await waiting.answer
        except TimeoutError:
            raise BrowserError(f"{self._where}: {method} was not answered within {deadline:.1f} s") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise BrowserError(f"{self._where}: {method} cannot be sent: {error}") from error
        finally:
            self._calls.pop(identifier, None)

    def fail_context(self, context: str, reason: str) -> None:
        """Fail the calls that wait for ``context``: that page is gone and will not answer."""
        for call in [call for call in self._calls.values() if call.context == context]:
            self._fail(call, reason)

    def close(self, reason: str) -> None:
        """Fail every waiting call, and every later one, with ``reason``."""
        if self._closed:
            return
        self._closed = reason
        for call in list(self._calls.values()):
            self._fail(call, reason)

    async def end(self) -> None:
        """Close the connection, waiting half a second for the browser at most. Never raises."""
        self.close("the connection was closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(aiohttp.ClientError, OSError):
            if self._socket is not None:
                await self._socket.close()
        if self._client is not None:
            await self._client.close()
        self._client = self._socket = None

    def _fail(self, call: _Call, reason: str) -> None:
        if not call.answer.done():
            call.answer.set_exception(BrowserError(f"{self._where}: {call.method} failed: {reason}"))

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        try:
            async for message in socket:
                self._receive(json.loads(message.data))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            self.close(f"the browser sent what is not the protocol: {error}")
        except (aiohttp.ClientError, OSError) as error:
            self.close(f"the browser closed its connection ({error})")
        self.close("the browser closed its connection")

    def _receive(self, message: Mapping[str, Any]) -> None:
        if message.get("id") is None:
            if message.get("type") == "event":
                method, parameters = str(message["method"]), dict(message["params"])
                for listener in list(self._listeners):
                    listener(method, parameters)
            return
        call = self._calls.get(message["id"])
        if call is None or call.answer.done():
            return
        if message.get("type") == "success":
            call.answer.set_result(dict(message["result"]))
            return
        text = f"{message.get('error', 'unknown error')}: {message.get('message', '')}".strip(": ")
        if call.context and any(words in text for words in _NO_PAGE):
            self._fail(call, "the page crashed or was closed")
        else:
            self._fail(call, f"it was refused: {text[:1000]}")


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def from_remote(value: Mapping[str, Any], depth: int = 0) -> object:
    """Return the Python form of a value of a page: what JSON has, and large integers, NaN and infinities.

    What has no such form (a function, a node, a symbol) is None. Raises ValueError for a value that is malformed
    or nested deeper than 200 levels.
    """
    if depth > _DEPTH:
        raise ValueError(f"a value is nested deeper than {_DEPTH} levels")
    try:
        kind, inner = value["type"], value.get("value")
        match kind:
            case "string" | "boolean":
                return inner
            case "number":
                return _SPECIAL[inner] if isinstance(inner, str) else inner
            case "bigint":
                return int(str(inner))
            case "array" | "set" | "htmlcollection" | "nodelist":
                return [from_remote(item, depth + 1) for item in inner or ()]
            case "object" | "map":
                return {
                    key if isinstance(key, str) else str(from_remote(key, depth + 1)): from_remote(item, depth + 1)
                    for key, item in inner or ()
                }
            case "date":
                return inner
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a value of the page is malformed: {error}") from error
    return None
