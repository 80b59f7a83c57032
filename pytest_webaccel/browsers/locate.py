"""Finds the browsers of this machine: named ones, our cache's, packages', the system's, Playwright's.

Nothing is started here but ``BROWSER --version``. Whether a lane works is for the probe to say.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_webaccel.browsers.install.cache import Entry, cache_root
from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.terms import Browser

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["CHROMIUM_FAMILY", "Installation", "find", "find_all"]

#: Browsers that the CDP driver drives.
CHROMIUM_FAMILY = frozenset({Browser.CHROMIUM, Browser.CHROME, Browser.EDGE})

_VERSION_DEADLINE = 15.0
_NUMBER = re.compile(r"\d+(?:\.\d+)+")

_ON_PATH: Mapping[Browser, tuple[str, ...]] = {
    Browser.CHROMIUM: ("chromium-headless-shell", "chromium", "chromium-browser"),
    Browser.CHROME: ("google-chrome", "google-chrome-stable", "google-chrome-beta", "chrome"),
    Browser.EDGE: ("microsoft-edge", "microsoft-edge-stable", "msedge"),
    Browser.FIREFOX: ("firefox", "firefox-esr"),
    Browser.DENO: ("deno",),
}
_MAC: Mapping[Browser, str] = {
    Browser.CHROMIUM: "Chromium.app/Contents/MacOS/Chromium",
    Browser.CHROME: "Google Chrome.app/Contents/MacOS/Google Chrome",
    Browser.EDGE: "Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    Browser.FIREFOX: "Firefox.app/Contents/MacOS/firefox",
}
_WINDOWS: Mapping[Browser, str] = {
    Browser.CHROMIUM: "Chromium/Application/chrome.exe",
    Browser.CHROME: "Google/Chrome/Application/chrome.exe",
    Browser.EDGE: "Microsoft/Edge/Application/msedge.exe",
    Browser.FIREFOX: "Mozilla Firefox/firefox.exe",
}
#: Inside Playwright's cache, newest build first wins.
_PLAYWRIGHT: Mapping[Browser, tuple[str, ...]] = {
    Browser.CHROMIUM: (
        "chromium_headless_shell-*/*/*headless*shell",
        "chromium-*/chrome-linux*/chrome",
        "chromium-*/chrome-mac*/*.app/Contents/MacOS/*",
        "chromium-*/chrome-win*/chrome.exe",
    ),
    Browser.FIREFOX: ("firefox-*/firefox/firefox",),
}


@dataclasses.dataclass(frozen=True)
class Installation:
    """A browser found on this machine.

    ``source`` is ``explicit``, ``cache``, ``package``, ``system`` or ``playwright``; ``environment`` is added to the
    environment that the browser is started with. ``version`` is empty where it could not be read. ``software`` has it
    kept off a GPU that cannot serve it, as the probe found.
    """

    browser: Browser
    executable: Path
    version: str
    source: str
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    software: bool = False


def find(browser: Browser, executable: Path | None = None) -> Installation | None:
    """Return the installation to use for ``browser``; None when there is none.

    ``executable`` names one explicitly. Otherwise our cache comes first (Deno has its Python package in its place),
    then the system, then Playwright's cache. Raises ConfigurationError when ``executable`` is no program.
    """
    if executable is not None:
        return _explicit(browser, executable)
    return next(_candidates(browser), None)


def find_all() -> tuple[Installation, ...]:
    """Return every installation found, in the order in which :func:`find` prefers them, each file once."""
    found: dict[Path, Installation] = {}
    for browser in (Browser.CHROMIUM, Browser.CHROME, Browser.EDGE, Browser.FIREFOX, Browser.DENO):
        for installation in _candidates(browser):
            found.setdefault(installation.executable.resolve(), installation)
    return tuple(found.values())


def _explicit(browser: Browser, executable: Path) -> Installation:
    path = executable.expanduser()
    if not path.is_file() and (on_path := shutil.which(str(executable))):
        path = Path(on_path)
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ConfigurationError(
            f"--webaccel-executable {executable} is no program that can be run. "
            "Name the browser's own binary, such as /usr/bin/chromium."
        )
    path = path.absolute()
    for known in _candidates(browser):
        if known.executable == path:  # keeps the environment that a cached browser needs
            return dataclasses.replace(known, source="explicit")
    return Installation(browser, path, read_version(path), "explicit")


def _candidates(browser: Browser) -> Iterator[Installation]:
    if browser is Browser.CHROMIUM:
        yield from _cached()
    if browser is Browser.DENO:
        yield from _packaged()
    for path in _system_paths(browser):
        yield Installation(browser, path, read_version(path), "system")
    for path in _playwright_paths(browser):
        yield Installation(browser, path, read_version(path), "playwright")


def _cached() -> Iterator[Installation]:
    """Yield the browsers of our cache, newest version first."""
    entries = [entry for path in (cache_root() / "chromium").glob("*") if (entry := Entry.read(path)) is not None]
    for entry in sorted(entries, key=lambda entry: _version_key(entry.version), reverse=True):
        executable = entry.folder / entry.main
        if not os.access(executable, os.X_OK):
            continue
        environment = {}
        if (entry.folder / "lib").is_dir():
            # First the folder with the graphics libraries, then the system libraries that came along.
            known = os.environ.get("LD_LIBRARY_PATH")
            parts = [str(entry.folder), str(entry.folder / "lib"), *([known] if known else [])]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(parts)
        if (entry.folder / "fonts.conf").is_file() and not _has_fonts():
            environment["FONTCONFIG_FILE"] = str(entry.folder / "fonts.conf")
        yield Installation(Browser.CHROMIUM, executable, entry.version, "cache", environment)


def _packaged() -> Iterator[Installation]:
    """Yield the Deno of the Python package ``deno``, where that is installed."""
    try:
        from deno import find_deno_bin

        path = Path(find_deno_bin())
    except (ImportError, FileNotFoundError):
        return
    yield Installation(Browser.DENO, path, read_version(path), "package")


def _has_fonts() -> bool:
    """Return whether the system has fonts; without any, a page draws no text at all."""
    roots = (
        Path("/usr/share/fonts"),
        Path("/usr/local/share/fonts"),
        Path.home() / ".fonts",
        Path.home() / ".local/share/fonts",
    )
    return any(any(root.rglob(f"*.{kind}")) for root in roots for kind in ("ttf", "otf", "ttc", "pfb") if root.is_dir())


def _system_paths(browser: Browser) -> Iterator[Path]:
    on_path = [Path(path) for name in _ON_PATH.get(browser, ()) if (path := shutil.which(name)) is not None]
    yield from (path for path in on_path if not _leads_to_another(path, on_path))
    places: list[Path] = []
    if sys.platform == "darwin" and browser in _MAC:
        places = [Path(root).expanduser() / _MAC[browser] for root in ("/Applications", "~/Applications")]
    elif sys.platform == "win32" and browser in _WINDOWS:
        roots = [os.environ.get(name) for name in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")]
        places = [Path(root) / _WINDOWS[browser] for root in roots if root]
    yield from (place for place in places if place.is_file())


def _leads_to_another(path: Path, others: list[Path]) -> bool:
    """Return whether ``path`` is a script that runs another program of the list, as Debian's ``firefox`` is."""
    try:
        with path.open("rb") as stream:
            start = stream.read(4096)
    except OSError:
        return False
    names = [other.name.encode() for other in others if other != path]
    return start.startswith(b"#!") and any(b"exec " + name + b" " in start for name in names)


def _playwright_paths(browser: Browser) -> Iterator[Path]:
    root = _playwright_root()
    for pattern in _PLAYWRIGHT.get(browser, ()):
        paths = [path for path in root.glob(pattern) if path.is_file() and os.access(path, os.X_OK)]
        yield from sorted(paths, key=lambda path: _version_key(path.relative_to(root).parts[0]), reverse=True)


def _playwright_root() -> Path:
    if (named := os.environ.get("PLAYWRIGHT_BROWSERS_PATH")) and named != "0":
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/ms-playwright"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "ms-playwright"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ms-playwright"


def _version_key(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def parse_version(output: str) -> str:
    """Return the first dotted number of ``output``, empty when there is none."""
    match = _NUMBER.search(output)
    return match[0] if match else ""


def read_version(executable: Path) -> str:
    """Return the version that ``executable --version`` prints; empty when it does not say within 15 s."""
    try:
        status = executable.stat()
    except OSError:
        return ""
    return _read_version(executable, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=64)
def _read_version(executable: Path, modified: int, size: int) -> str:  # noqa: ARG001 - keys of the cache
    if sys.platform == "win32":  # there, --version opens a window; the folder beside it is named by the version
        return max((entry.name for entry in executable.parent.glob("*.*.*.*")), key=_version_key, default="")
    if said := _application_version(executable):
        return said
    try:
        result = subprocess.run(
            [str(executable), "--version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_VERSION_DEADLINE,
            text=True,
            errors="replace",
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return parse_version(result.stdout)


def _application_version(executable: Path) -> str:
    """Return the version that Firefox keeps in a file beside its program; empty where there is no such file."""
    try:
        text = (executable.resolve().parent / "application.ini").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    match = re.search(r"^Version=(\S+)$", text[:65536], re.MULTILINE)
    return parse_version(match[1]) if match else ""


def describe(installation: Installation) -> str:
    """Return one line about ``installation`` for people."""
    version = installation.version or "unknown version"
    return f"{installation.browser} {version} ({installation.source}: {installation.executable})"
