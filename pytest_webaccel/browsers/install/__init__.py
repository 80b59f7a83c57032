"""Brings a browser here when it is missing; onnxruntime-web comes by :mod:`.ort`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.errors import ConfigurationError, InstallError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["SOURCES", "install"]

#: Where a browser can come from, in the order in which ``auto`` tries them.
SOURCES = ("npm", "playwright", "debian")


def install(
    browser: str = "chromium",
    source: str = "auto",
    *,
    force: bool = False,
    echo: Callable[[str], None] = lambda _: None,
) -> Path | None:
    """Provide ``browser`` from ``source``; return its executable where it lies in our cache, None otherwise.

    Returns at once when our cache has it already, unless ``force`` is set. ``echo`` is told what was done
    and where. Raises InstallError with the reason of each source that failed, ConfigurationError for an
    unknown browser or source.
    """
    if browser != "chromium":
        raise ConfigurationError(f"{browser!r} cannot be installed here; known: chromium")
    if source not in ("auto", *SOURCES):
        raise ConfigurationError(f"unknown source {source!r}; known: auto, {', '.join(SOURCES)}")
    reasons = []
    for candidate in SOURCES if source == "auto" else (source,):
        try:
            return _install_from(candidate, force=force, echo=echo)
        except InstallError as error:
            if source != "auto":
                raise
            echo(f"{candidate}: not possible")
            reasons.append(f"{candidate}: {error}")
    raise InstallError(f"No browser could be installed. {' '.join(reasons)}")


def _install_from(source: str, *, force: bool, echo: Callable[[str], None]) -> Path | None:
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
