"""A page without a browser: the operations of ``page/main.mjs`` over a WebSocket to the real bridge."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import numpy as np

from pytest_webaccel.bridge.frames import DTYPES
from pytest_webaccel.bridge.server import CHECKSUM_HEADER
from pytest_webaccel.errors import ProtocolError
from pytest_webaccel.terms import Backend
from pytest_webaccel.testing.engine import OperationError, ReferenceEngine
from pytest_webaccel.testing.harm import PageHarm
from pytest_webaccel.testing.session import Answer, Backoff, PageRequest, PageSession

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import ClientSession, ClientWebSocketResponse

__all__ = ["FakePage", "Latency", "Sleep", "no_wait"]

T = TypeVar("T")

Sleep = Callable[[float], Awaitable[None]]
Outcome = tuple[Any, Mapping[str, np.ndarray[Any, Any]]]

_TAKE_S = 30.0
#: Attempts at fetching a file, with pauses between them.
_FETCHES = 5
_FETCH_PAUSE_S = 0.05
#: A connection that ends sooner counts as a failure, or one that is refused at once would be tried without a pause.
_SETTLED_S = 0.1
_SUBPROTOCOL = "webaccel.1"

_log = logging.getLogger(__name__)


async def no_wait(seconds: float) -> None:
    """Let others run, and do not wait: a ``sleep`` for latencies that are reported and not lived."""
    del seconds
    await asyncio.sleep(0)


@dataclasses.dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that things take in the fake, each times a seeded factor of 1 to 1 + ``jitter``."""

    start_s: float = 0.15
    open_s: float = 0.05
    operation_s: float = 0.0002
    renew_s: float = 0.02
    load_s: float = 0.1
    run_s: float = 0.01
    exit_s: float = 0.02
    jitter: float = 0.5

    def of(self, what: str, chance: random.Random) -> float:
        """Return the seconds that ``what`` (an operation, or start, open, exit) takes this time."""
        base: float = getattr(self, f"{what}_s", self.operation_s)
        return base * (1.0 + self.jitter * chance.random())


class FakePage:
    """One page's life at ``url``, a lane's address with its token in the fragment.

    ``sleep`` waits for made-up latencies, ``before`` is called with each operation that begins, ``die`` has the
    browser end the page as a crash does.
    Everything runs in one event loop: :meth:`open` begins, :meth:`close` ends, with no closing
    handshake, as a page does that is killed.
    """

    def __init__(
        self,
        url: str,
        *,
        seed: int | str = 0,
        sleep: Sleep = asyncio.sleep,
        latency: Latency | None = None,
        before: Callable[[str], None] = lambda op: None,
        die: Callable[[], None] = lambda: None,
    ) -> None:
        self.url = url
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        self.backend = Backend(query.get("backend", ["cpu"])[0])
        self._beat_s = float(query.get("beat", ["250"])[0]) / 1000
        self._host = parts.netloc
        self._token = parts.fragment
        self._random = random.Random(f"page\0{seed}")
        self.instance = f"fake-{self._random.getrandbits(64):016x}"
        self.session = PageSession(self.instance, self._put, self._take_up)
        self.generation = 0
        self.device_lost = False
        self._sleep = sleep
        self._latency = latency or Latency()
        self._before = before
        self._backoff = Backoff(seed)
        self.engine = ReferenceEngine()
        self.die = die
        self._harm = PageHarm(self)
        self._lost: asyncio.Future[None] | None = None
        self._files: dict[str, asyncio.Future[bytes]] = {}
        self._outbox: asyncio.Queue[str | bytes] | None = None
        self._awake = asyncio.Event()
        self._awake.set()
        self._http: ClientSession | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to connect, and connect again whenever the connection is lost."""
        self._spawn(self._live())
        self._spawn(self._beats())

    async def close(self) -> None:
        """End the page at once: work stops, the connection is cut."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._end())
        await asyncio.shield(self._closing)

    def stall(self) -> None:
        """Stop as a page does whose thread is taken: nothing is read, sent, computed or closed."""
        self._awake.clear()

    @property
    def stalled(self) -> bool:
        """Whether it is stopped."""
        return not self._awake.is_set()

    def wake(self) -> None:
        """Go on after :meth:`stall`."""
        self._awake.set()

    def take_files(self, paths: Sequence[Path]) -> None:
        """Take local files, as the page's file input does."""
        for path in paths:
            arrived = self._file(path.name)
            if not arrived.done():
                arrived.set_result(path.read_bytes())

    def lose_device(
        self, reason: str = "unknown", message: str = "the GPU process is gone", *, any_backend: bool = False
    ) -> None:
        """Lose the WebGPU device, if the page has one: an event, and the end of what runs on it.

        With ``any_backend`` whatever the page works with is lost, a WebNN context too.
        """
        fitting = any_backend or self.backend is Backend.WEBGPU
        if not fitting or self.device_lost or self._lost is None:
            return
        self.device_lost = True
        self.session.event("device_lost", {"reason": reason, "message": message, "generation": self.generation})
        if not self._lost.done():
            self._lost.set_result(None)

    # -- the connection ----------------------------------------------------------------------

    async def _live(self) -> None:
        import aiohttp

        self._http = aiohttp.ClientSession(headers={"Origin": f"http://{self._host}"})
        failures = 0
        while True:
            try:
                address = f"ws://{self._host}/socket?instance={self.instance}"
                socket = await self._http.ws_connect(
                    address, protocols=(_SUBPROTOCOL, self._token), compress=0, max_msg_size=0, autoping=True
                )
            except aiohttp.ClientError as error:
                failures += 1
                _log.debug("fake page on %s: %s", self.backend, type(error).__name__)
            else:
                opened = asyncio.get_running_loop().time()
                await self._converse(socket)
                failures = 0 if asyncio.get_running_loop().time() - opened >= _SETTLED_S else failures + 1
            await asyncio.sleep(self._backoff.pause(failures))

    async def _converse(self, socket: ClientWebSocketResponse) -> None:
        from aiohttp import WSMsgType

        outbox: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._outbox = outbox
        writer = asyncio.ensure_future(self._write(socket, outbox))
        try:
            self.session.opened()
            async for message in socket:
                await self._awake.wait()
                if message.type is WSMsgType.TEXT:
                    self.session.text(message.data)
                elif message.type is WSMsgType.BINARY:
                    self.session.binary(message.data)
                else:
                    break
        except (ProtocolError, ValueError) as error:
            self.session.event("protocol_error", {"message": str(error)[:300]})
            await socket.close(code=4000)
        finally:
            self._outbox = None
            self.session.closed()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            await socket.close()

    async def _write(self, socket: ClientWebSocketResponse, outbox: asyncio.Queue[str | bytes]) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                frame = await outbox.get()
                await self._awake.wait()
                await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(self._beat_s)
            await self._awake.wait()
            self.session.beat()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def _put(self, frame: str | bytes) -> None:
        if self._outbox is not None:
            self._outbox.put_nowait(frame)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- operations --------------------------------------------------------------------------

    def _take_up(self, request: PageRequest) -> None:
        self._spawn(self._answer(request))

    async def _answer(self, request: PageRequest) -> None:
        seconds = self._latency.of(request.op, self._random)
        try:
            value, tensors = await self._perform(request, seconds)
            answer = Answer(value, tensors, ms=seconds * 1000)
        except OperationError as error:
            answer = Answer(error=(error.kind, str(error)), ms=seconds * 1000)
        await self._awake.wait()
        self.session.answer(request.id, answer)

    async def _perform(self, request: PageRequest, seconds: float) -> Outcome:
        self._before(request.op)
        await self._awake.wait()
        args = request.args
        match request.op:
            case "renew":
                await self._sleep(seconds)
                return {"generation": self._renew()}, {}
            case "ping":
                lost = self.device_lost or self._harm.gpu_hangs
                return {"generation": self.generation, "lost": lost, **self.engine.statistics()}, {}
            case "harm":
                return await self._harm.do(args["kind"], args), {}
            case "load":
                data = await self._fetch(request.files[0])
                return await self._unless_lost(self.engine.load(args, data), seconds, "model"), {}
            case "run":
                large = [await self._tensor(file, args["large"][index]) for index, file in enumerate(request.files)]
                feeds = {**request.tensors, **dict(large)}
                return None, await self._unless_lost(self.engine.run(args, feeds), seconds, "operator")
            case "unload":
                self.engine.unload(args["model"])
                return None, {}
            case "hold":
                large = [await self._tensor(file, args["large"][index]) for index, file in enumerate(request.files)]
                (tensor,) = {**request.tensors, **dict(large)}.values()
                return self.engine.hold(args["key"], tensor), {}
            case "free":
                return self.engine.free(args["keys"]), {}
            case "echo":
                return args.get("value"), request.tensors
            case "sink":
                files = [len(await self._fetch(file)) for file in request.files]
                return {"bytes": sum(files) + sum(array.nbytes for array in request.tensors.values())}, {}
            case "source":
                return None, {"data": np.full(args["bytes"], 7, np.uint8)}
        raise OperationError("usage", f"no operation {request.op}")

    def _renew(self) -> int:
        self.engine.reset()
        self.generation += 1
        self.device_lost = False
        self._harm.renewed()
        self._lost = asyncio.get_running_loop().create_future()
        return self.generation

    async def _unless_lost(self, work: Any, seconds: float, kind: str) -> Any:
        """Return what ``work`` gives after its latency, unless the device is lost before."""
        lost = self._lost
        if lost is None:
            work.close()
            raise OperationError(kind, "no device yet")
        task = asyncio.ensure_future(self._after(seconds, work))
        try:
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                raise OperationError("device_lost", "the device was lost")
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _after(self, seconds: float, work: Awaitable[T]) -> T:
        begun = asyncio.ensure_future(work)
        try:
            await self._sleep(seconds)
            await self._awake.wait()
            await self._harm.meet()
            return await begun
        finally:
            begun.cancel()
            await asyncio.gather(begun, return_exceptions=True)

    def _file(self, key: str) -> asyncio.Future[bytes]:
        return self._files.setdefault(key, asyncio.get_running_loop().create_future())

    async def _tensor(self, file: Mapping[str, Any], spec: Mapping[str, Any]) -> tuple[str, np.ndarray[Any, Any]]:
        array = np.frombuffer(await self._fetch(file), DTYPES[spec["dtype"]]).reshape(spec["shape"])
        return str(file["name"]), array

    async def _fetch(self, file: Mapping[str, Any]) -> bytes:
        try:
            async with asyncio.timeout(_TAKE_S):
                data = await (self._file(file["key"]) if file["via"] == "file" else self._get(file["key"]))
        except TimeoutError:
            raise OperationError("page", f"no file was handed in within {_TAKE_S:g} s") from None
        finally:
            self._files.pop(file["key"], None)
        if len(data) != file["bytes"]:
            raise OperationError("page", f"{file['name']}: {len(data)} bytes came, {file['bytes']} were announced")
        return data

    async def _get(self, key: str) -> bytes:
        """Fetch a file, again where its connection was cut or its bytes are not those that were sent."""
        import aiohttp

        for attempt in range(1, _FETCHES + 1):
            try:
                return await self._get_once(key)
            except aiohttp.ClientError as error:
                _log.debug("fake page on %s: fetch %d of a file: %s", self.backend, attempt, type(error).__name__)
            await asyncio.sleep(_FETCH_PAUSE_S * attempt)
        raise OperationError("page", f"a file could not be fetched whole in {_FETCHES} attempts")

    async def _get_once(self, key: str) -> bytes:
        import aiohttp

        assert self._http is not None
        headers = {"Authorization": f"Bearer {self._token}"}
        async with self._http.get(f"http://{self._host}/blob/{key}", headers=headers) as response:
            if response.status != 200:
                raise OperationError("page", f"the bridge answered {response.status} for a file")
            data = await response.read()
            if f"{zlib.crc32(data):08x}" != response.headers.get(CHECKSUM_HEADER):
                raise aiohttp.ClientPayloadError("the file arrived damaged")
            return data
