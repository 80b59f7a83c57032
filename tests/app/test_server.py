"""The server of an app's folder, asked by a client that keeps to no rules."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_webaccel.app.server import AppServer, _inside

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "app"
    for name in ("index.html", "main.mjs", "model.onnx", "a/index.html", "a/b.wasm", ".env", ".well-known/x.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "out").symlink_to(tmp_path / "secret.txt")
    (folder / "within.mjs").symlink_to(folder / "main.mjs")
    ort = tmp_path / "ort"
    ort.mkdir()
    (ort / "ort.mjs").write_text("of the run")
    (ort / "ort.wasm").write_text("of the run")
    return folder


@contextlib.asynccontextmanager
async def serving(root) -> AsyncIterator[AppServer]:
    server = AppServer(root, lambda: root.parent / "ort")
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def get(server: AppServer, target: str, *, method="GET", host=None) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body; ``target`` goes out as it is, as no browser would send it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    host = host or f"127.0.0.1:{server.port}"
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).decode().partition("\r\n\r\n")
    writer.close()
    status, *lines = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


def ask(root, *targets, **options):
    async def asked():
        async with serving(root) as server:
            return [await get(server, target, **options) for target in targets]

    return asyncio.run(asked())


def test_files_come_with_their_types_isolated_and_never_cached(root):
    answers = ask(root, "/", "/main.mjs?v=1", "/a/b.wasm", "/a/", "/within.mjs", "/.well-known/x.json", "/model.onnx")
    assert [status for status, _, _ in answers] == [200] * 7
    types = ["text/html", "text/javascript", "application/wasm", "text/html", "text/javascript", "application/json"]
    assert [headers["Content-Type"] for _, headers, _ in answers] == [*types, "application/octet-stream"]
    assert [body for _, _, body in answers[:4]] == ["index.html", "main.mjs", "a/b.wasm", "a/index.html"]
    for _, headers, _ in answers:
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "credentialless"


def test_a_folder_without_its_slash_leads_to_the_one_with(root):
    ((status, headers, _),) = ask(root, "/a?x=1")
    assert (status, headers["Location"]) == (302, "/a/?x=1")


@pytest.mark.parametrize(
    "target",
    [
        "/../secret.txt",
        "/a/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/..%5csecret.txt",
        "//secret.txt/../../secret.txt",
        "/out",
        "/.env",
        "/a/%00",
        "/missing.js",
        "/onnxruntime-web/../secret.txt",
        "/onnxruntime-web/%2e%2e/secret.txt",
        "/onnxruntime-web/missing.mjs",
        "/" + "x" * 5000,
    ],
)
def test_what_is_not_the_apps_is_not_found(root, target):
    ((status, _, body),) = ask(root, target)
    assert status in {400, 404}
    assert body != "secret"


def test_onnxruntime_is_offered_where_the_app_has_none(root):
    ((status, headers, body),) = ask(root, "/onnxruntime-web/ort.mjs")
    assert (status, headers["Content-Type"], body) == (200, "text/javascript", "of the run")
    (root / "onnxruntime-web").mkdir()
    (root / "onnxruntime-web" / "ort.mjs").write_text("the app's own")
    own, other = ask(root, "/onnxruntime-web/ort.mjs", "/onnxruntime-web/ort.wasm")
    assert (own[2], other[2]) == ("the app's own", "of the run")


def test_only_reads_are_answered_and_only_to_the_servers_own_name(root):
    ((status, _, _),) = ask(root, "/index.html", method="POST")
    assert status == 405
    ((status, _, _),) = ask(root, "/index.html", host="rebound.example")
    assert status == 403


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["..", ".", "", "a", "app", "secret.txt", "index.html", "\\", "\0", "~"])).map("/".join)
)
def test_no_path_leads_out_of_the_folder(tmp_path_factory, name):
    outer = tmp_path_factory.getbasetemp() / "traversal"
    root = outer / "app"
    (root / "a").mkdir(parents=True, exist_ok=True)
    (outer / "secret.txt").touch()
    (root / "index.html").touch()
    found = _inside(root.resolve(), name)
    assert found is None or found.is_relative_to(root.resolve())
