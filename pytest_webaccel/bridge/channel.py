"""A lane's channel: the protocol session with its socket, its clock and its waiting callers.

This is the thin shell with I/O around :class:`~pytest_webaccel.bridge.protocol.ServerSession`.
Everything here runs in one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_webaccel.bridge.frames import DTYPES, seal
from pytest_webaccel.bridge.handover import Handover
from pytest_webaccel.bridge.messages import (
    Answered,
    Damaged,
    Doubted,
    Effect,
    Limits,
    Observed,
    Pong,
    Reply,
    Request,
    Send,
    Started,
    Transmit,
)
from pytest_webaccel.bridge.protocol import ServerSession
from pytest_webaccel.bridge.toxics import Link
from pytest_webaccel.errors import BridgeError, BrowserError, DamagedLaneError, ProtocolError, RemoteError
from pytest_webaccel.terms import Damage, Symptom

if TYPE_CHECKING:
    import random

    import numpy as np
    from aiohttp import web

    from pytest_webaccel.bridge.relay import Relay

__all__ = ["LARGE_BYTES", "Channel", "FileOffer"]

#: Inputs of at least this many bytes go in as files: a file handle beats the socket from about here.
LARGE_BYTES = 1 << 20

#: Half a frame: a message that begins and never ends.
_HALF_A_FRAME = b"\x81\x7e\x10"

#: A timer that fires so many seconds late says that the loop was held up, not that the page was silent.
_LATE_S = 0.1

FileOffer = Callable[[Sequence[Path], float], Awaitable[None]]


class Channel:
    """Requests to one lane's page, over any number of connections and page lives.

    ``token`` admits the page's socket and its file requests; it is never logged. ``offer`` hands
    local files to the page; without it they are fetched from the bridge over HTTP. Files wait in a folder
    of the channel's own below ``folder``, by default the temporary directory. ``link`` is the network path of the
    page, where faults are laid; it outlives connections. ``chance`` draws what these leave open.
    """

    def __init__(
        self,
        name: str,
        limits: Limits | None = None,
        folder: Path | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.name = name
        self.link = Link(name, chance)
        self.token = secrets.token_hex(32)
        self.session = ServerSession(limits)
        self.offer: FileOffer | None = None
        self.on_damage: Callable[[Damage], None] = lambda damage: None
        self.on_doubt: Callable[[], object] = lambda: None
        self.on_event: Callable[[str, Mapping[str, Any]], None] = lambda name, data: None
        self._loop = asyncio.get_running_loop()
        self._answers: dict[int, asyncio.Future[Reply]] = {}
        self._started: dict[int, asyncio.Event] = {}
        self._pongs: dict[int, asyncio.Future[float]] = {}
        self.handover = Handover(folder)
        self._socket: web.WebSocketResponse | None = None
        self._relay: Relay | None = None
        self._outbox: asyncio.Queue[Effect] | None = None
        self._joined = asyncio.Condition()
        self._timer: asyncio.TimerHandle | None = None
        self.statistics = {"requests": 0, "answers": 0, "damages": 0}

    # -- asking ------------------------------------------------------------------------------

    async def request(self, op: str, args: Mapping[str, Any] | None = None, *, deadline: float, **more: Any) -> Reply:
        """Send a request and wait for its answer; see :meth:`send` and :meth:`answer`.

        Where the lane breaks first the request is abandoned: nobody comes back for its answer.
        """
        request_id = self.send(op, args, deadline=deadline, **more)
        try:
            return await self.answer(request_id)
        except DamagedLaneError:
            self.abandon(request_id)
            raise

    def send(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        *,
        deadline: float,
        tensors: Mapping[str, np.ndarray[Any, Any]] | None = None,
        files: Mapping[str, Path] | None = None,
        hold: bool = False,
    ) -> int:
        """Take up a request and return its id; it leaves now, or when a page joins.

        ``deadline`` is seconds from now until waiting callers are told ``deadline_passed``. Large
        ``tensors`` travel as files beside the given ``files``. ``hold`` stops the page before the
        work, after it said that it took the request up, until :meth:`release`.
        """
        body = dict(args or {})
        try:
            json.dumps(body, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BridgeError(f"{self.name}: the arguments of {op} are not JSON: {error}") from error
        small: dict[str, np.ndarray[Any, Any]] = {}
        large: dict[str, np.ndarray[Any, Any]] = {}
        for name, given in (tensors or {}).items():
            array = self._sendable(name, given)
            (large if array.nbytes >= LARGE_BYTES and array.dtype.kind not in "UOT" else small)[name] = array
        placed = {name: self.handover.place(path) for name, path in (files or {}).items()}
        placed.update((name, self.handover.place_array(array)) for name, array in large.items())
        if large:
            body["large"] = [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in large.values()]
        request, effects = self.session.request(
            op,
            body,
            deadline_at=self._loop.time() + deadline,
            tensors=small,
            files={name: (path.name, path.stat().st_size) for name, path in placed.items()},
            hold=hold,
        )
        self.handover.keep(request.id, placed.values())
        self._answers[request.id] = self._loop.create_future()
        self._started[request.id] = asyncio.Event()
        self.statistics["requests"] += 1
        self._carry_out(effects)
        return request.id

    async def answer(self, request_id: int) -> Reply:
        """Wait for the answer to a request that is pending.

        Raises DamagedLaneError when the lane breaks first (the request stays pending, so this may
        be awaited again after a reconnect), or broke it before in a way that waits for :meth:`again`;
        RemoteError when the page did the work and it failed, BridgeError when no such request is pending.
        """
        future = self._answers.get(request_id)
        if future is None:
            raise BridgeError(f"{self.name}: request {request_id} is not pending")
        if self.session.awaits_again(request_id):
            detail = "what was sent arrived damaged, and was not asked for again"
            raise DamagedLaneError(Damage(Symptom.RESULT_DAMAGED, detail, self._loop.time()), self.name)
        try:
            return await future
        except asyncio.CancelledError:
            self.abandon(request_id)
            raise
        finally:
            if self._answers.get(request_id) is future:
                self._forget(request_id)

    async def started(self, request_id: int, *, deadline: float) -> None:
        """Wait until the page took the request up; raises DamagedLaneError after ``deadline`` seconds."""
        event = self._started.get(request_id)
        if event is None:
            return
        try:
            async with asyncio.timeout(deadline):
                await event.wait()
        except TimeoutError:
            damage = Damage(Symptom.DEADLINE_PASSED, "the page did not take the request up", self._loop.time())
            raise DamagedLaneError(damage, self.name) from None

    def is_pending(self, request_id: int) -> bool:
        """Whether the present page may still answer this request."""
        return request_id in self.session.pending

    def release(self, request_id: int) -> None:
        """Let a held request go on."""
        self._carry_out(self.session.release(request_id))

    def again(self, request_id: int) -> None:
        """Have what arrived damaged sent again, the answer or the request; nothing is computed anew.

        Does nothing where it is on its way anyhow, after a reconnect for one.
        """
        self._carry_out(self.session.again(request_id))

    async def round_trip(self, *, deadline: float) -> float:
        """Return the milliseconds that a word to the page's JavaScript and back takes now.

        It is no operation and waits for none; what is being sent goes first. A page that is nearly out of time is
        doubted, as one that is silent by itself. Raises BridgeError when no page is connected, DamagedLaneError when
        the connection ends first, TimeoutError after ``deadline`` seconds.
        """
        try:
            number, effects = self.session.ping(self._loop.time())
        except ProtocolError as error:
            raise BridgeError(f"{self.name}: {error}") from error
        answered: asyncio.Future[float] = self._loop.create_future()
        self._pongs[number] = answered
        self._carry_out(effects)
        doubt = self._loop.call_later(self.session.limits.doubtful(deadline), lambda: self.on_doubt())
        try:
            async with asyncio.timeout(deadline):
                return await answered
        finally:
            doubt.cancel()
            del self._pongs[number]

    def abandon(self, request_id: int) -> None:
        """Stop waiting for a request; a late answer is dropped."""
        effects = self.session.abandon(request_id)
        self._forget(request_id)
        self._carry_out(effects)

    # -- the connection ----------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether a page is connected and was welcomed."""
        return self._outbox is not None and self.session.greeted

    @property
    def welcomes(self) -> int:
        """How many connections were welcomed so far."""
        return self.session.instances + self.session.resumes

    async def wait_connected(
        self, *, deadline: float, new_instance_since: int | None = None, welcomes_since: int = 0
    ) -> None:
        """Wait for a welcomed page, one of a later life than ``new_instance_since`` if given.

        With ``welcomes_since`` it must be a later connection than that many.

        Raises DamagedLaneError after ``deadline`` seconds.
        """

        def here() -> bool:
            later = new_instance_since is None or self.session.instances > new_instance_since
            return self.connected and later and self.welcomes > welcomes_since

        try:
            async with asyncio.timeout(deadline), self._joined:
                await self._joined.wait_for(here)
        except TimeoutError:
            damage = Damage(Symptom.SOCKET_CLOSED, f"no page connected within {deadline:.1f} s", self._loop.time())
            raise DamagedLaneError(damage, self.name) from None

    def damaged(self, damage: Damage) -> None:
        """Tell every waiting caller of damage that was seen outside the bridge."""
        self._carry_out([Damaged(damage, tuple(self.session.pending))])

    def abort(self) -> None:
        """Reset the page's connections: its socket in mid-message, half a frame and then RST, and any file's.

        Raises BridgeError when no page is connected.
        """
        if self._relay is None:
            raise BridgeError(f"{self.name}: no page is connected, so there is no connection to lose")
        self._relay.reset(_HALF_A_FRAME)
        self.link.reset()

    def may_join(self, instance: str) -> bool:
        """Whether a page may connect: none is, or it is the connected one that came back.

        A page may also take the place of one whose connection a fault has silenced: it cannot show that it is gone.
        """
        return self._socket is None or instance == self.session.instance or self.link.obstructed

    def file(self, key: str) -> Path | None:
        """Return the file that the page may fetch under ``key``."""
        return self.handover.find(key)

    async def serve(self, response: web.WebSocketResponse, relay: Relay, instance: str) -> None:
        """Live on the admitted socket of the page ``instance``, which ``relay`` carries, until it closes."""
        from aiohttp import WSMsgType

        if not self.may_join(instance):  # another page joined while this one's socket was being opened
            await response.close(code=1008, message=b"another page is connected with this token")
            return
        if self._relay is not None:
            # What is still on its way on the old connection must not mix with the new one's.
            self._relay.reset(_HALF_A_FRAME)
            await self._leave("the page connected again")
        self._socket, self._relay = response, relay
        outbox: asyncio.Queue[Effect] = asyncio.Queue()
        self._outbox = outbox
        self._carry_out(self.session.opened(self._loop.time(), instance))
        writer = asyncio.create_task(self._write(response, outbox))
        detail = "the socket closed"
        try:
            async for message in response:
                if self._socket is not response:
                    break
                now = self._loop.time()
                if message.type is WSMsgType.TEXT:
                    effects = self.session.text(message.data, now)
                elif message.type is WSMsgType.BINARY:
                    effects = self.session.binary(message.data, now)
                else:
                    break
                self._carry_out(effects)
                if any(isinstance(effect, Send) and '"welcome"' in effect.text for effect in effects):
                    async with self._joined:
                        self._joined.notify_all()
        except ProtocolError as error:
            detail = f"the page broke the protocol: {error}"
            # a reason is at most 123 bytes of UTF-8, and the page's own words may be anything
            await response.close(code=1008, message=str(error).encode("ascii", "backslashreplace")[:120])
        finally:
            writer.cancel()
            if self._socket is response:
                await self._leave(detail)
            await asyncio.gather(writer, return_exceptions=True)

    async def close(self) -> None:
        """End the channel: the socket is closed, files are removed, waiting callers are told."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._socket.close(code=1001)
        damage = Damage(Symptom.SOCKET_CLOSED, "the lane's channel was closed", self._loop.time())
        for future in self._answers.values():
            if not future.done():
                future.set_exception(DamagedLaneError(damage, self.name))
                future.exception()
        for request_id in list(self.session.pending):
            self.session.abandon(request_id)
        self._answers.clear()
        if self._timer is not None:
            self._timer.cancel()
        self.link.clear()
        self.link.reset()
        self.handover.close()

    # -- inside ------------------------------------------------------------------------------

    async def _leave(self, detail: str) -> None:
        self._socket = self._relay = self._outbox = None
        for answered in self._pongs.values():
            if not answered.done():
                damage = Damage(Symptom.SOCKET_CLOSED, f"a ping stayed unanswered: {detail}", self._loop.time())
                answered.set_exception(DamagedLaneError(damage, self.name))
                answered.exception()  # seen here: nobody may be waiting any more
        self._carry_out(self.session.closed(self._loop.time(), detail))

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send() | Transmit():
                    if self._outbox is not None:
                        self._outbox.put_nowait(effect)
                case Started(id):
                    if id in self._started:
                        self._started[id].set()
                case Answered(id, reply, error):
                    self._settle(id, reply, error)
                case Damaged(damage, ids):
                    self._tell(damage, ids)
                case Observed(name, data):
                    self.on_event(name, data)
                case Doubted():
                    self.on_doubt()
                case Pong(number, milliseconds):
                    if (answered := self._pongs.get(number)) is not None and not answered.done():
                        answered.set_result(milliseconds)
        self._schedule_tick()

    def _settle(self, request_id: int, reply: Reply | None, error: tuple[str, str] | None) -> None:
        future = self._answers.get(request_id)
        if future is None or future.done():
            return
        self.statistics["answers"] += 1
        if reply is not None:
            future.set_result(reply)
        elif error is not None and error[0] == "device_lost":
            damage = Damage(Symptom.DEVICE_LOST, error[1], self._loop.time())
            future.set_exception(DamagedLaneError(damage, self.name))
            future.exception()  # seen here: nobody may be waiting any more
        elif error is not None:
            future.set_exception(RemoteError(*error))
            future.exception()

    def _tell(self, damage: Damage, ids: tuple[int, ...]) -> None:
        self.statistics["damages"] += 1
        for request_id in ids:
            future = self._answers.get(request_id)
            if future is None:
                continue
            if request_id in self.session.pending:
                self._answers[request_id] = self._loop.create_future()
            if not future.done():
                future.set_exception(DamagedLaneError(damage, self.name))
                future.exception()  # seen here: whoever waits sees it too, and nobody else must
        self.on_damage(damage)

    def _forget(self, request_id: int) -> None:
        self._answers.pop(request_id, None)
        self._started.pop(request_id, None)
        self.handover.forget(request_id)

    def _schedule_tick(self) -> None:
        moment = self.session.next_tick()
        if self._timer is not None:
            if moment is not None and self._timer.when() <= moment and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(moment, self._tick) if moment is not None else None

    def _tick(self) -> None:
        now = self._loop.time()
        if self._timer is not None and (late := now - self._timer.when()) > _LATE_S:
            self.session.excuse(late)  # what the page said meanwhile is still to be read
        self._timer = None
        effects = self.session.tick(now)
        for effect in effects:
            if isinstance(effect, Damaged) and effect.damage.symptom is Symptom.DEADLINE_PASSED:
                for request_id in effect.ids:
                    self.session.pending[request_id].deadline_at = float("inf")
        self._carry_out(effects)

    async def _write(self, response: web.WebSocketResponse, outbox: asyncio.Queue[Effect]) -> None:
        try:
            async with asyncio.TaskGroup() as offers:
                while True:
                    match await outbox.get():
                        case Send(text):
                            await response.send_str(seal(text))
                        case Transmit(request) if request.id in self.session.pending:
                            await self._transmit(response, request)
                            if request.files and self.offer is not None:
                                offers.create_task(self._offer(request, self.offer))
        except* ConnectionError:
            pass  # the reader sees the same loss, and tells of it
        finally:
            if not response.closed and self._socket is response and self._relay is not None:
                self._relay.tap.abort()  # nothing more can be sent on it, so it must not look alive

    async def _transmit(self, response: web.WebSocketResponse, request: Request) -> None:
        for frame in request.frames("http" if self.offer is None else "file"):
            if isinstance(frame, str):
                await response.send_str(frame)
            else:
                await response.send_bytes(frame)

    async def _offer(self, request: Request, offer: FileOffer) -> None:
        try:
            await offer([self.handover.folder / key for key, _ in request.files.values()], 30.0)
        except BrowserError as error:
            # The request would hang in the page, waiting for files that never come; one abandoned meanwhile is no loss.
            if request.id in self.session.pending:
                damage = Damage(Symptom.DEADLINE_PASSED, f"the page took no files: {error}", self._loop.time())
                self._carry_out([Damaged(damage, (request.id,))])

    def _sendable(self, name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return ``array`` in little-endian order; raises BridgeError for a dtype that cannot cross."""
        if array.dtype.kind not in "UOT" and array.dtype.name not in DTYPES:
            raise BridgeError(f"{self.name}: tensor {name!r}: dtype {array.dtype} cannot cross to a page")
        return array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.byteorder == ">" else array
