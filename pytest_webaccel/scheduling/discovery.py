"""Whether a run is likely to use lanes at all, decided by a bounded look at its test files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["MAX_BYTES", "MAX_FILES", "mentions_webaccel"]

#: Files and bytes that are read at most; a larger suite is not searched further.
MAX_FILES = 2000
MAX_BYTES = 16 << 20

_WORD = re.compile(rb"\bwebaccel(_\w+)?\b")
_SKIPPED = frozenset({"node_modules", "build", "dist", "venv", "CVS", "__pycache__"})


def mentions_webaccel(arguments: Iterable[str], root: Path) -> bool:
    """Return whether a Python test file or ``conftest.py`` under pytest's ``arguments`` uses a name of ours.

    Arguments are paths, perhaps with ``::`` and a test's name; relative ones start from the current folder.
    ``conftest.py`` files between them and ``root`` count.
    """
    files, size = 0, 0
    for path in _files(arguments, root):
        files += 1
        if files > MAX_FILES or size > MAX_BYTES:
            return False
        try:
            text = path.read_bytes()
        except OSError:  # gone, or not ours to read: pytest will say so itself
            continue
        size += len(text)
        if _WORD.search(text):
            return True
    return False


def _files(arguments: Iterable[str], root: Path) -> Iterator[Path]:
    conftests: set[Path] = set()
    for argument in arguments:
        start = Path(argument.partition("::")[0]).absolute()
        if start.is_file():
            yield start
        elif start.is_dir():
            yield from _below(start)
        for parent in start.parents:
            if not parent.is_relative_to(root):
                break
            conftest = parent / "conftest.py"
            if conftest not in conftests and conftest.is_file():
                conftests.add(conftest)
                yield conftest


def _below(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SKIPPED)
        for name in sorted(names):
            if name.endswith(".py") and ("test" in name):
                yield Path(where, name)
