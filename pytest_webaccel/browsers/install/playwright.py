"""Chromium's headless shell by Playwright's own download, where Playwright is installed."""

from __future__ import annotations

import importlib.util
import sys

from pytest_webaccel.browsers.install import commands
from pytest_webaccel.errors import InstallError

__all__ = ["install_chromium"]

_DEADLINE = 900.0


def install_chromium() -> None:
    """Have Playwright download its headless shell into its own cache. Raises InstallError."""
    if importlib.util.find_spec("playwright") is None:
        raise InstallError(
            "Playwright is not installed, so it cannot download a browser. Run "
            "`python -m pip install playwright` first, or choose another source."
        )
    finished = commands.run(
        [sys.executable, "-m", "playwright", "install", "chromium-headless-shell"], deadline=_DEADLINE
    )
    if finished.status:
        lines = [line.strip() for line in (finished.errors + finished.output).splitlines() if "rror" in line]
        raise InstallError(
            f"Playwright could not download its browser: {' | '.join(lines[:3]) or f'exit status {finished.status}'}. "
            "Its download host must be reachable from here; choose another source otherwise."
        )
