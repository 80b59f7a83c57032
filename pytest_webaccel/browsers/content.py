"""Which of Firefox's processes runs the lane's page: read from the process tree, since no protocol tells.

Every process but the root's says at the end of its command line what it is for (``tab``, ``gpu``, ...). Those for
pages also carry a name for the kind of page.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pytest_webaccel.browsers.process import lives

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["hosts", "processor_time", "role"]

#: Names of processes for the pages of one site (Linux keeps 15 characters).
_OF_A_SITE = frozenset({"Isolated Web Co", "file:// Content", "WebCOOP+COEP Co"})
#: Name of a process for pages of no server in particular: an empty page's, or one kept ready.
_GENERAL = "Web Content"
#: Names of processes for pages that are never the lane's: the browser's own pages, extensions, a process kept ready.
_OTHERS = frozenset({"Privileged Cont", "WebExtensions", "Preallocated Co", "Isolated Servic", "Privileged Mozi"})


def role(root: int, wanted: str) -> list[psutil.Process]:
    """Return the processes below ``root`` that are there for ``wanted``, such as ``tab`` or ``gpu``."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(root).children(recursive=True):
            with contextlib.suppress(psutil.Error, IndexError):
                if lives(process) and process.cmdline()[-1] == wanted:
                    found.append(process)
    return found


def hosts(root: int, leaving: Collection[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that may run the lane's page, one in nearly every case; none of ``leaving``, if possible."""
    named: list[tuple[psutil.Process, str]] = []
    for process in role(root, "tab"):
        with contextlib.suppress(psutil.Error):
            named.append((process, process.name()))
    # A process that is being made has no such name yet, on some systems none ever has: those come last.
    choices = [
        [process for process, name in named if name in _OF_A_SITE],
        [process for process, name in named if name == _GENERAL],
        [process for process, name in named if name not in _OTHERS],
    ]
    for choice in choices:
        if fresh := [process for process in choice if process not in leaving]:
            return fresh
    return next((choice for choice in choices if choice), [])


def processor_time(process: psutil.Process) -> float:
    """Return the seconds of processor time of ``process``, of its main thread alone where the system tells finely."""
    try:
        return int(Path(f"/proc/{process.pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        pass
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
