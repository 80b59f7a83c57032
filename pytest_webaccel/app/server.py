"""Serves an app's folder to the app's browser, and to nothing else.

Pages are isolated (COOP, COEP), so that SharedArrayBuffer and with it threaded WebAssembly work. Nothing is
cached: a test sees the files as they are now. The run's copy of onnxruntime-web is offered below
``/onnxruntime-web/`` where the app has no such file of its own.
"""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING, cast

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["ORT_PATH", "AppServer"]

#: Where the run's copy of onnxruntime-web is found.
ORT_PATH = "onnxruntime-web"

_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Not require-corp: pages may load what other hosts serve without a word about it, only without credentials.
    "Cross-Origin-Embedder-Policy": "credentialless",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: Types that a page depends on; the machine's own table may say otherwise, or nothing.
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".onnx": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}


class AppServer:
    """HTTP server of one folder on an ephemeral port of 127.0.0.1.

    ``ort`` says, when first asked for, where the run's copy of onnxruntime-web lies; None where there is none.
    """

    def __init__(self, folder: Path, ort: Callable[[], Path | None]) -> None:
        self._folder = folder.resolve()
        self._find_ort = ort
        self._ort: Path | None = None
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        app = web.Application()  # without a middleware: see Bridge._guarded
        app.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = cast("tuple[str, int]", self._runner.addresses[0])[1]

    async def stop(self) -> None:
        """Stop listening; may be called twice."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        # Else a page of another host, whose name is made to point here, could read the folder.
        if request.headers.getall("Host", []) != [f"127.0.0.1:{self.port}"]:
            raise web.HTTPForbidden(text="this server answers to its own address only")
        name = request.match_info["path"]
        path = _inside(self._folder, name)
        if path is not None and path.is_dir():
            if name and not name.endswith("/"):
                query = f"?{request.query_string}" if request.query_string else ""
                raise web.HTTPFound(f"{request.path}/{query}", headers=_HEADERS)
            path = _inside(self._folder, f"{name}index.html")
        if (path is None or not path.is_file()) and name.startswith(f"{ORT_PATH}/"):
            path = self._of_ort(name.removeprefix(f"{ORT_PATH}/"))
        if path is None or not path.is_file():
            raise web.HTTPNotFound(text=f"the app has no file {name!r}", headers=_HEADERS)
        response = web.FileResponse(path, headers=_HEADERS)
        known = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
        response.content_type = known or "application/octet-stream"
        return response

    def _of_ort(self, name: str) -> Path | None:
        self._ort = self._ort or self._find_ort()
        return None if self._ort is None else _inside(self._ort.resolve(), name)


def _inside(root: Path, name: str) -> Path | None:
    """Return the file or folder ``name`` below ``root``; None where it leads out, through a link as well.

    Hidden files are none of an app's (``.git``, ``.env``), ``.well-known`` apart.
    """
    parts = name.split("/")
    if any(part.startswith(".") and part != ".well-known" for part in parts) or "\\" in name or "\0" in name:
        return None
    try:
        path = root.joinpath(*[part for part in parts if part]).resolve()
        path.stat()
    except (OSError, ValueError, RuntimeError):
        return None
    return path if path.is_relative_to(root) else None
