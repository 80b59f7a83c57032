"""The page under test of the peers, and a small server for it: static files, cached as the lanes' own are."""

from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path
from typing import Any

from pytest_webaccel.browsers.install.ort import ort_dist, ort_version
from pytest_webaccel.browsers.settings import chromium_arguments
from pytest_webaccel.engines.onnx import AUTOMATIC_BUILDS, OrtCopy
from pytest_webaccel.terms import Lane
from tests.bench.matrix.work import model

__all__ = ["Site", "peer_arguments"]

_KINDS = {".html": "text/html", ".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}

#: Flags of ours without which a page that Playwright opens has no WebGPU or WebNN, or only until its first crash.
_NEEDED = (
    "--enable-unsafe-webgpu",
    "--enable-features=",
    "--disable-gpu-process-crash-limit",
    "--disable-domain-blocking-for-3d-apis",
    "--use-webgpu-adapter=",
    "--use-angle=",
    "--enable-unsafe-swiftshader",
)


def peer_arguments() -> list[str]:
    """Return the flags that a browser launched by Playwright is given beside Playwright's own."""
    return [flag for flag in chromium_arguments() if flag.startswith(_NEEDED)]


class Site:
    """Serves the page, onnxruntime-web and the model on a port of its own; from a thread, for whichever loop asks."""

    def __init__(self) -> None:
        folder = ort_dist(None)
        self._copy = OrtCopy(folder, ort_version(folder), "/ort/")
        served = functools.partial(_Handler, folder, Path(__file__).with_name("page.html").read_bytes())
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), served)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="bench-site", daemon=True)
        self._thread.start()

    def url(self, lane: str) -> str:
        """Return the address of the page for a lane's backend, with the build that our own lane would load."""
        backend = Lane.parse(lane).backend
        build = self._copy.module(AUTOMATIC_BUILDS[backend])
        return f"http://127.0.0.1:{self._server.server_address[1]}/?backend={backend}&build={build}"

    def stop(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, page: bytes, *given: Any) -> None:
        self._folder, self._page = folder, page
        super().__init__(*given)

    def do_GET(self) -> None:
        body, kind = self._find(self.path.partition("?")[0])
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "public, max-age=31536000, immutable")
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def _find(self, path: str) -> tuple[bytes | None, str]:
        if path == "/":
            return self._page, "text/html"
        if path == "/model.onnx":
            return model(), "application/octet-stream"
        name = path.removeprefix("/ort/")
        file = self._folder / name
        if path.startswith("/ort/") and "/" not in name and file.is_file():
            return file.read_bytes(), _KINDS.get(file.suffix, "application/octet-stream")
        return None, "text/plain"

    def log_message(self, format: str, *given: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""
