"""Browsers from the packages of Debian and its descendants, where this process is root."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from typing import TYPE_CHECKING

from pytest_webaccel.browsers.install import commands
from pytest_webaccel.errors import InstallError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["install_chromium", "install_firefox", "vulkan_loader_found"]

_DEADLINE = 900.0
#: Tried in this order: the small build first.
_CHROMIUM = ("chromium-headless-shell", "chromium")
#: ``firefox`` is what descendants without long-term builds call it.
_FIREFOX = ("firefox-esr", "firefox")
#: The loader that WebGPU needs; Mesa's drivers bring it along.
_LOADER, _DRIVERS = "libvulkan1", "mesa-vulkan-drivers"
_QUIET = {"DEBIAN_FRONTEND": "noninteractive"}
#: A network that is closed is told soon, and another installation at work is waited for.
_PATIENCE = ("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30", "-o", "DPkg::Lock::Timeout=120")


def _apt(package: str) -> str:
    apt = shutil.which("apt-get")
    if apt is None:
        raise InstallError("There is no apt-get here, so Debian's packages cannot be used; choose another source.")
    if os.geteuid() != 0:
        raise InstallError(
            f"Debian's packages need root: run `apt-get install {package}` as root, or choose another source."
        )
    return apt


def _run(arguments: Sequence[str]) -> commands.Finished:
    return commands.run(arguments, deadline=_DEADLINE, environment=_QUIET)


def _try_each(apt: str, choices: Sequence[Sequence[str]]) -> str:
    """Install the first of ``choices`` that can be; return what apt said against the last one, empty when it went."""
    said = ""
    for packages in choices:
        finished = _run([apt, *_PATIENCE, "install", "--yes", "--no-install-recommends", *packages])
        if finished.status == 0:
            return ""
        said = finished.errors or f"exit status {finished.status}"
    return said


def _failure(names: Sequence[str], said: str) -> InstallError:
    lines = [line.strip() for line in said.splitlines() if line.startswith("E:")]
    return InstallError(
        f"apt-get could not install any of {', '.join(names)}: {' | '.join(lines[:3]) or 'no reason given'}. "
        "Check the package sources and the network, or choose another source."
    )


def install_chromium() -> None:
    """Install a Chromium with apt-get. Raises InstallError."""
    apt = _apt("chromium")
    updated = _run([apt, *_PATIENCE, "update"])
    said = _try_each(apt, [(package,) for package in _CHROMIUM])
    if said:
        raise _failure(_CHROMIUM, f"{said}\n{updated.errors}")


def install_firefox(*, software_driver: Path | None) -> None:
    """Install Firefox and what its WebGPU needs with apt-get. Raises InstallError.

    ``software_driver`` is a Vulkan driver that is here already: then its loader is enough, and Mesa's drivers,
    150 MB of them, are left out.
    """
    apt = _apt("firefox-esr")
    vulkan = _LOADER if software_driver is not None else _DRIVERS
    choices = [(package, vulkan) for package in _FIREFOX]
    # What apt knows already may do; lists that are empty or old are brought up to date first.
    if said := _try_each(apt, choices[:1]):
        updated = _run([apt, *_PATIENCE, "update"])
        if said := _try_each(apt, choices):
            raise _failure(_FIREFOX, f"{said}\n{updated.errors}")


def vulkan_loader_found() -> bool:
    """Return whether the library through which Firefox reaches every Vulkan driver is installed."""
    return ctypes.util.find_library("vulkan") is not None
