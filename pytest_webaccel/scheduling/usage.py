"""Whether a run has anything to do with us, found out cheaply before workers start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["MAX_FILES", "likely"]

#: Test files looked into before the answer is no.
MAX_FILES = 2000

_WORD = re.compile(rb"\bwebaccel(_\w+)?\b")
_SKIPPED = frozenset({"node_modules", "site-packages", "__pycache__", "build", "dist"})


def likely(arguments: Iterable[str]) -> bool:
    """Return whether a test file or conftest under ``arguments`` names us.

    A wrong yes costs a probe that nobody needed; a wrong no costs workers the same probe later, and the
    binding of workers to lanes. A suite too large to look through wholly counts as no.
    """
    for number, path in enumerate(_files(arguments)):
        if number >= MAX_FILES:
            return False
        try:
            if _WORD.search(path.read_bytes()):
                return True
        except OSError:
            continue
    return False


def _files(arguments: Iterable[str]) -> Iterator[Path]:
    for argument in arguments:
        path = Path(argument.split("::")[0]).absolute()
        yield from (folder / "conftest.py" for folder in path.parents if (folder / "conftest.py").is_file())
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
        elif entry.suffix == ".py" and "test" in entry.name:
            yield entry
