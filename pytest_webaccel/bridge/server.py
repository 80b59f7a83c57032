"""The bridge's one HTTP server a worker: page modules, onnxruntime-web, files, and the socket.

Loopback alone is no defence, so before anything changes state: the Host is the exact one of this
server, the Origin of a socket or file request likewise, the token is compared in constant time, and
one token has one live connection. Static modules are public code and need no token.
"""

from __future__ import annotations

import hmac
import mimetypes
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aiohttp import web

from pytest_webaccel.bridge.channel import Channel
from pytest_webaccel.bridge.handover import checksum
from pytest_webaccel.bridge.messages import Limits
from pytest_webaccel.errors import BridgeError
from pytest_webaccel.shipped import shipped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import TypeAlias

    from pytest_webaccel.terms import Backend

    Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

__all__ = ["SUBPROTOCOL", "Bridge"]

SUBPROTOCOL = "webaccel.1"
#: Carries the CRC-32 of a file that a page fetches, as 8 hexadecimal digits.
CHECKSUM_HEADER = "X-Webaccel-Crc32"
_FILE_CHUNK_BYTES = 1 << 18
_IMMUTABLE = "public, max-age=31536000, immutable"
#: Folders of this version of the package: another one serves others under the same names.
_OURS = frozenset({"page", "kernels"})


class Bridge:
    """HTTP server on an ephemeral loopback port, shared by the lanes of one worker.

    Files on their way into pages wait below ``folder``, by default the temporary directory. ``chance`` draws what
    faults on the channels' links leave open.
    """

    def __init__(
        self, limits: Limits | None = None, folder: Path | None = None, chance: random.Random | None = None
    ) -> None:
        self.folder = folder
        self._chance = chance or random.Random()
        self.limits = limits or Limits()
        self.port = 0
        self._channels: dict[str, Channel] = {}
        self._folders: dict[str, Path] = {"page": shipped("page")}
        self._folders |= {f"kernels/{part.name}": part for part in shipped("kernels").iterdir() if part.is_dir()}
        self._runner: web.AppRunner | None = None

    @property
    def origin(self) -> str:
        """Origin of every page that may talk to this bridge."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        app = web.Application()
        app.router.add_get("/lane", self._guarded(self._lane))
        app.router.add_get("/socket", self._guarded(self._socket))
        app.router.add_get("/blob/{key}", self._guarded(self._blob))
        app.router.add_get("/{folder}/{name}", self._guarded(self._static))
        app.router.add_get("/{folder:kernels/[a-z_]+}/{name}", self._guarded(self._static))
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = cast("tuple[str, int]", self._runner.addresses[0])[1]

    async def stop(self) -> None:
        """Close every channel and stop listening."""
        for channel in list(self._channels.values()):
            await self.close(channel)
        if self._runner is not None:
            await self._runner.cleanup()

    def open(self, name: str) -> Channel:
        """Return a new channel; the page that carries its token joins it."""
        channel = Channel(name, self.limits, self.folder, random.Random(self._chance.getrandbits(64)))
        self._channels[channel.token] = channel
        return channel

    async def close(self, channel: Channel) -> None:
        """End a channel; its token admits nobody any more."""
        self._channels.pop(channel.token, None)
        await channel.close()

    def page_url(self, channel: Channel, backend: Backend) -> str:
        """Return the address of the lane's page; the token is in the fragment, which is never sent."""
        return f"{self.origin}/lane?backend={backend}&beat={self.limits.beat_ms}#{channel.token}"

    def share(self, key: str, folder: Path) -> str:
        """Serve the files directly in ``folder`` (public code, cacheable for ever under ``key``).

        Returns the base path, which ends in a slash. Raises BridgeError for a key in other use.
        """
        if self._folders.setdefault(key, folder) != folder:
            raise BridgeError(f"the bridge serves {self._folders[key]} under {key!r} already, not {folder}")
        return f"/{key}/"

    # -- handlers ----------------------------------------------------------------------------

    def _guarded(self, handler: Handler) -> Handler:
        """Return ``handler`` for requests to our own address only.

        That is no middleware, since aiohttp 3.14 keeps the last 1,024 applications that have one, with all they hold.
        """

        async def guarded(request: web.Request) -> web.StreamResponse:
            if request.headers.getall("Host", []) != [f"127.0.0.1:{self.port}"]:
                raise web.HTTPForbidden(text="the bridge answers to its own address only")
            return await handler(request)

        return guarded

    async def _lane(self, request: web.Request) -> web.StreamResponse:
        del request
        return web.FileResponse(self._folders["page"] / "lane.html", headers=self._headers("no-store"))

    async def _static(self, request: web.Request) -> web.StreamResponse:
        folder, name = request.match_info["folder"], request.match_info["name"]
        path = self._folders.get(folder, Path()) / name
        if folder not in self._folders or name.startswith(".") or "/" in name or "\\" in name or not _is_file(path):
            raise web.HTTPNotFound
        ours = folder.partition("/")[0] in _OURS
        response = web.FileResponse(path, headers=self._headers("no-cache" if ours else _IMMUTABLE))
        kind = "text/javascript" if path.suffix in {".mjs", ".js"} else mimetypes.guess_type(name)[0]
        response.content_type = "application/wasm" if path.suffix == ".wasm" else kind or "application/octet-stream"
        return response

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        channel = self._channel_of(token) if scheme == "Bearer" else None
        path = channel.file(request.match_info["key"]) if channel is not None else None
        if request.headers.get("Origin", self.origin) != self.origin or channel is None:
            raise web.HTTPForbidden(text="no such token")
        if path is None:
            raise web.HTTPNotFound
        return await self._send_file(request, channel, path)

    async def _send_file(self, request: web.Request, channel: Channel, path: Path) -> web.StreamResponse:
        """Answer with a file over the channel's link, its checksum in the head, and close the connection."""
        response = web.StreamResponse(headers=self._headers("no-store"))
        response.force_close()
        response.content_type = "application/octet-stream"
        try:
            with path.open("rb") as file:
                response.headers[CHECKSUM_HEADER] = f"{await checksum(path):08x}"
                response.content_length = os.fstat(file.fileno()).st_size
                channel.link.carry_file(request)
                await response.prepare(request)
                while data := file.read(_FILE_CHUNK_BYTES):
                    await response.write(data)
                await response.write_eof()
        except FileNotFoundError:  # its request was abandoned meanwhile
            raise web.HTTPNotFound from None
        except ConnectionError:
            pass  # the page went, or a fault cut it off: it fetches again what it still wants
        return response

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if request.headers.getall("Origin", []) != [self.origin]:
            raise web.HTTPForbidden(text="not our origin")
        offered = [word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if len(offered) != 2 or offered[0] != SUBPROTOCOL:
            raise web.HTTPForbidden(text=f"a socket offers {SUBPROTOCOL} and its token")
        channel = self._channel_of(offered[1])
        if channel is None:
            raise web.HTTPForbidden(text="no such token")
        instance = request.query.get("instance", "")
        if not channel.may_join(instance):
            raise web.HTTPConflict(text="another page is connected with this token")
        response = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,),
            compress=False,
            max_msg_size=self.limits.text_bytes,
            timeout=1.0,
        )
        opened = False
        try:
            relay = channel.link.carry_socket(request)
            await response.prepare(request)
            opened = True
            if relay is not None and request.transport is not None:
                await channel.serve(response, relay, instance)
        except ConnectionError:
            # The browser died while its socket opened or was written to: the page is told nothing, and the
            # channel sees the loss as it sees every other.
            if not opened:  # a socket that never opened cannot be closed, so aiohttp gets something that can
                unheard = web.Response(status=503)
                unheard.force_close()
                return unheard
        return response

    def _channel_of(self, token: str) -> Channel | None:
        given = token.encode("utf-8", "surrogateescape")
        found = None
        for known, channel in self._channels.items():  # every one is looked at: time must not tell which
            if hmac.compare_digest(known.encode(), given):
                found = channel
        return found

    def _headers(self, cache: str) -> dict[str, str]:
        return dict(self._header_items(cache))

    def _header_items(self, cache: str) -> Iterator[tuple[str, str]]:
        yield "Cache-Control", cache
        yield "Cross-Origin-Opener-Policy", "same-origin"
        yield "Cross-Origin-Embedder-Policy", "require-corp"
        yield "Cross-Origin-Resource-Policy", "same-origin"
        yield "X-Content-Type-Options", "nosniff"
        yield "Referrer-Policy", "no-referrer"
        yield (
            "Content-Security-Policy",
            # onnxruntime-web evaluates strings when it sets WebNN up
            (
                "default-src 'none'; img-src data:; script-src 'self' blob: 'unsafe-eval'; worker-src 'self' blob:; "
                f"connect-src 'self' ws://127.0.0.1:{self.port} blob: data:"
            ),
        )


def _is_file(path: Path) -> bool:
    """Whether ``path`` is a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
