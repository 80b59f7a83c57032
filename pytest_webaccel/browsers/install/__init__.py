"""Brings a browser here when it is missing; onnxruntime-web comes by :mod:`.ort`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.errors import ConfigurationError, InstallError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["BROWSERS", "SOURCES", "install"]

#: Browsers that can be brought.
BROWSERS = ("chromium", "firefox")
#: Where a browser can come from, in the order in which ``auto`` tries them.
SOURCES = ("npm", "playwright", "debian")


def install(
    browser: str = "chromium",
    source: str = "auto",
    *,
    force: bool = False,
    echo: Callable[[str], None] = lambda _: None,
) -> Path | None:
    """Provide ``browser`` from ``source``; return its executable where that is known, None otherwise.

    Returns at once when it is there already (Chromium: in our cache), unless ``force`` is set. ``echo`` is told
    what was done and where. Raises InstallError with the reason of each source that failed, ConfigurationError
    for an unknown browser or source.
    """
    if browser not in BROWSERS:
        raise ConfigurationError(f"{browser!r} cannot be installed here; known: {', '.join(BROWSERS)}")
    if source not in ("auto", *SOURCES):
        raise ConfigurationError(f"unknown source {source!r}; known: auto, {', '.join(SOURCES)}")
    if browser == "firefox":
        return _install_firefox(source, force=force, echo=echo)
    reasons = []
    for candidate in SOURCES if source == "auto" else (source,):
        try:
            return _install_chromium(candidate, force=force, echo=echo)
        except InstallError as error:
            if source != "auto":
                raise
            echo(f"{candidate}: not possible")
            reasons.append(f"{candidate}: {error}")
    raise InstallError(f"No browser could be installed. {' '.join(reasons)}")


def _install_chromium(source: str, *, force: bool, echo: Callable[[str], None]) -> Path | None:
    # Deferred: finding browsers passes through this folder, and must not pay for unpacking archives.
    from pytest_webaccel.browsers.install import debian, npm, playwright

    if source == "npm":
        entry, fresh = npm.install_chromium(force=force)
        done = "installed" if fresh else "already there"
        echo(f"chromium {entry.version} ({entry.source}): {done}, {entry.folder}")
        return entry.folder / entry.main
    if source == "playwright":
        playwright.install_chromium()
        echo("chromium headless shell: installed by Playwright into its own cache")
    else:
        debian.install_chromium()
        echo("chromium: installed from Debian's packages")
    return None


def _install_firefox(source: str, *, force: bool, echo: Callable[[str], None]) -> Path | None:
    from pytest_webaccel.browsers.install import debian
    from pytest_webaccel.browsers.locate import find
    from pytest_webaccel.browsers.preferences import swiftshader
    from pytest_webaccel.terms import Browser

    if source not in ("auto", "debian"):
        raise ConfigurationError(
            f"Firefox does not come from {source}; use --source debian, or install it by hand from "
            "https://www.mozilla.org/firefox and put it on the PATH."
        )
    found = find(Browser.FIREFOX)
    if found is None or force or not debian.vulkan_loader_found():
        debian.install_firefox(software_driver=swiftshader())
        done, found = "installed from Debian's packages", find(Browser.FIREFOX)
    else:
        done = "already there"
    if found is None:
        raise InstallError("apt-get installed Firefox, but no `firefox` is on the PATH; check what it says by hand.")
    echo(f"firefox {found.version}: {done}, {found.executable}")
    return found.executable
