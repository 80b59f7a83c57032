"""What a browser's process tree costs: processor seconds and memory."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import psutil

__all__ = ["Usage", "tree_usage"]


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Processor seconds (user and system) spent so far, and bytes of memory held now.

    ``pss_bytes`` counts each page of memory shared by n processes as an n-th, so that sums over processes are true.
    Where the system does not tell, it is the resident set, which counts shared pages in full.
    """

    cpu_s: float = 0.0
    pss_bytes: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Return both together."""
        return Usage(self.cpu_s + other.cpu_s, self.pss_bytes + other.pss_bytes)


def tree_usage(pid: int | None) -> Usage:
    """Return the usage of process ``pid`` and all that descend from it; nothing for None or where it is gone.

    Processor time of children that ended and were waited for is counted with their parent.
    Reading it takes some milliseconds, since the kernel walks the tree's memory.
    """
    total = Usage()
    if pid is None:
        return total
    try:
        root = psutil.Process(pid)
        members = [root, *root.children(recursive=True)]
    except psutil.Error:
        return total
    for member in members:
        with contextlib.suppress(psutil.Error):
            times = member.cpu_times()
            seconds = times.user + times.system
            seconds += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            total += Usage(seconds, _memory(member))
    return total


def _memory(process: psutil.Process) -> int:
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "Pss":
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # another system, a process of another user's, or one that just ended
    return int(process.memory_info().rss)
