"""Folders that ship with the package and hold no Python."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

__all__ = ["shipped"]


def shipped(name: str) -> Path:
    """Return the folder ``name``: within the package where it is installed, in a checkout perhaps beside it."""
    package = Path(str(resources.files("pytest_webaccel")))
    return package / name if (package / name).is_dir() else package.parent / name
