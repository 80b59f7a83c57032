"""Whether a run has anything to do with us, found out cheaply before workers start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pytest_webaccel.options import Settings

__all__ = ["MAX_FILES", "likely"]

#: Files looked into before the answer is "yes, for all we know".
MAX_FILES = 2000

_WORD = b"webaccel"
_SKIPPED = frozenset({"node_modules", "site-packages", "__pycache__", "build", "dist"})


def likely(arguments: Iterable[str], settings: Settings) -> bool:
    """Return whether some setting of ours was given, or a Python file under ``arguments`` mentions us.

    A wrong yes costs one cached probe; a wrong no costs a worker the same probe later.
    """
    if settings.given:
        return True
    for number, path in enumerate(_files(arguments)):
        if number >= MAX_FILES:
            return True
        try:
            if _WORD in path.read_bytes():
                return True
        except OSError:
            continue
    return False


def _files(arguments: Iterable[str]) -> Iterator[Path]:
    for argument in arguments:
        path = Path(argument.split("::")[0])
        if path.is_file():
            yield path
        elif path.is_dir():
            yield from _below(path)


def _below(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.is_dir():
            if not entry.name.startswith(".") and entry.name not in _SKIPPED and not entry.is_symlink():
                yield from _below(entry)
        elif entry.suffix == ".py":
            yield entry
