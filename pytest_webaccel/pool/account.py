"""What one recovery cost beside its time: processor seconds and memory of browsers and of this process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_webaccel.browsers.usage import Usage, tree_usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_webaccel.browsers.driver import Driver

__all__ = ["Account"]


class Account:
    """Begun before a fault; :meth:`close` says what was spent since.

    ``running`` gives the drivers of the browsers that run. What a browser spent that died meanwhile is not known and
    not counted, and memory is looked at once, at the end: so both figures are lower bounds.
    """

    def __init__(self, running: Callable[[], Sequence[Driver]]) -> None:
        self._running = running
        self._own_s = time.process_time()
        self._before = self._usages()

    def _usages(self) -> dict[int, Usage]:
        return {driver.pid: tree_usage(driver.pid) for driver in self._running() if driver.pid is not None}

    def close(self) -> Usage:
        """Return the seconds spent, and the bytes that browsers hold beyond what they held (0 where less)."""
        after = self._usages()
        cpu_s = sum(usage.cpu_s - self._before.get(pid, Usage()).cpu_s for pid, usage in after.items())
        held = sum(usage.pss_bytes for usage in after.values())
        before = sum(usage.pss_bytes for usage in self._before.values())
        return Usage(max(cpu_s, 0.0) + time.process_time() - self._own_s, max(held - before, 0))
