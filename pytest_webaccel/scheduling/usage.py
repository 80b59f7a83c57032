"""Whether a run has anything to do with us, found out cheaply before workers start."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["BUDGET_S", "likely"]

#: Seconds that looking may take before the answer is no.
BUDGET_S = 0.1

_WORD = re.compile(rb"\bwebaccel(_\w+)?\b")
_SKIPPED = frozenset({"node_modules", "site-packages", "__pycache__", "build", "dist"})


def likely(arguments: Iterable[str]) -> bool:
    """Return whether a test file or conftest under ``arguments`` names us.

    A wrong yes costs a probe that nobody needed; a wrong no costs workers the same probe later, and the
    binding of workers to lanes. What is not found within :data:`BUDGET_S` counts as no; any option of
    ours, in the ini file for one, makes it a yes without looking.
    """
    arguments = list(arguments)
    if any(argument.partition(".")[0] == "pytest_webaccel" for argument in arguments):  # --pyargs names our own tests
        return True
    until = time.perf_counter() + BUDGET_S
    for path in _entries(arguments):
        if time.perf_counter() > until:
            return False
        if path.suffix != ".py" or not ("test" in path.name or path.name == "conftest.py"):
            continue
        try:
            if _WORD.search(path.read_bytes()):
                return True
        except OSError:
            continue
    return False


def _entries(arguments: Iterable[str]) -> Iterator[Path]:
    """Yield every file below ``arguments``, and the conftests above them."""
    for argument in arguments:
        path = Path(argument.split("::")[0]).absolute()
        yield from (folder / "conftest.py" for folder in path.parents if (folder / "conftest.py").is_file())
        if path.is_file():
            yield path
        else:
            yield from _below(path)


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder as they come, then those of its folders: tests lie near the top."""
    folders = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    yield Path(entry.path)
                elif not entry.name.startswith(".") and entry.name not in _SKIPPED:
                    folders.append(Path(entry.path))
    except OSError:
        return
    for inner in sorted(folders):
        yield from _below(inner)
