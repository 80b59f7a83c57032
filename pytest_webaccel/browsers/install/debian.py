"""Chromium from the packages of Debian and its descendants, where this process is root."""

from __future__ import annotations

import os
import shutil

from pytest_webaccel.browsers.install import commands
from pytest_webaccel.errors import InstallError

__all__ = ["install_chromium"]

_DEADLINE = 900.0
#: Tried in this order: the small build first.
_PACKAGES = ("chromium-headless-shell", "chromium")


def install_chromium() -> None:
    """Install a Chromium with apt-get. Raises InstallError."""
    apt = shutil.which("apt-get")
    if apt is None:
        raise InstallError("There is no apt-get here, so Debian's packages cannot be used; choose another source.")
    if os.geteuid() != 0:
        raise InstallError(
            "Debian's packages need root: run `apt-get install chromium` as root, or choose another source."
        )
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    updated = commands.run([apt, "update"], deadline=_DEADLINE, environment=quiet)
    said = updated.errors
    for package in _PACKAGES:
        finished = commands.run(
            [apt, "install", "--yes", "--no-install-recommends", package], deadline=_DEADLINE, environment=quiet
        )
        if finished.status == 0:
            return
        said = finished.errors
    lines = [line.strip() for line in said.splitlines() if line.startswith("E:")]
    raise InstallError(
        f"apt-get could not install any of {', '.join(_PACKAGES)}: {' | '.join(lines[:3]) or 'no reason given'}. "
        "Check the package sources and the network, or choose another source."
    )
