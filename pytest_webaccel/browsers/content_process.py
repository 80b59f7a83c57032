"""The one process of Firefox that runs the lane's page: found, watched, stopped, ended."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from typing import TYPE_CHECKING

import psutil

from pytest_webaccel.browsers import content
from pytest_webaccel.browsers.process import lives, suspend, wait_gone
from pytest_webaccel.errors import BrowserError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["ContentProcess", "end"]

#: Seconds after the end of the page's process within which Firefox itself says so.
_TOLD_S = 1.0
#: Milliseconds that the page is kept busy to be told from other processes, where more than one might be its.
_BUSY_MS = 30
_SPIN = f"{{ const start = performance.now(); while (performance.now() - start < {_BUSY_MS}); }}"


class ContentProcess:
    """Whichever process runs the lane's page.

    ``ended`` is awaited about a second after the end of a process that still was the page's by then: Firefox's own
    word comes first, since it tells a crash from other ends.
    """

    def __init__(self, where: str, ended: Callable[[], Awaitable[None]]) -> None:
        self._where = where
        self._ended = ended
        self._process: psutil.Process | None = None
        self._guard: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def process(self) -> psutil.Process | None:
        """The process, where it is known and lives."""
        return self._process if self._process is not None and lives(self._process) else None

    @property
    def stopped(self) -> bool:
        """Whether it was stopped, and not resumed."""
        return self._stopped

    def watch(self, process: psutil.Process | None) -> None:
        """Take ``process`` as the page's, and see its end."""
        stands = self._stopped and process is not None and process == self._process
        self.forget()
        self._process, self._stopped = process, stands
        if process is not None and sys.platform == "linux":
            self._guard = asyncio.get_running_loop().create_task(self._see_end(process))

    def forget(self) -> psutil.Process | None:
        """Know of no process from here on; return the one that it was, dead or alive."""
        if self._guard is not None:
            self._guard.cancel()
        was, self._process, self._guard, self._stopped = self._process, None, None, False
        return was

    async def find(
        self, root: int | None, leaving: psutil.Process | None, spin: Callable[[str], Awaitable[object]]
    ) -> None:
        """Find the process of a page that has just loaded, below ``root``, and watch it.

        ``leaving`` is that of the page before it; ``spin`` evaluates an expression in the page.
        """
        gone = [] if leaving is None else [leaving]
        found = [] if root is None else await asyncio.to_thread(content.hosts, root, gone)
        if len(found) > 1:
            before = {process: content.processor_time(process) for process in found}
            await spin(_SPIN)
            found.sort(key=lambda process: content.processor_time(process) - before[process], reverse=True)
        self.watch(found[0] if found else None)

    def known(self, root: int | None) -> psutil.Process:
        """Return the page's process; raises BrowserError where it is gone or cannot be told from others."""
        if (process := self.process) is not None:
            return process
        # The page went to another address by itself, and another process took it over.
        found = [] if root is None else content.hosts(root, [])
        if len(found) != 1:
            raise BrowserError(f"{self._where}: the process of the page is not known; open the page anew")
        self.watch(found[0])
        return found[0]

    async def stop(self, root: int | None, *, deadline: float) -> None:
        """SIGSTOP it; returns once it stands still."""
        process = self.known(root)
        self._stopped = True
        try:
            await suspend(process, f"{self._where}: the page's process", deadline=deadline)
        except BrowserError:
            self._stopped = process.is_running()
            raise

    def resume(self) -> None:
        """SIGCONT it where it was stopped and still is there; harmless otherwise."""
        self._stopped = False
        if self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process.resume()

    async def _see_end(self, process: psutil.Process) -> None:
        await wait_gone([process.pid], deadline=math.inf)
        await asyncio.sleep(_TOLD_S)
        if self._process is process:
            await self._ended()


async def end(process: psutil.Process, deadline: float) -> None:
    """SIGKILL a process whose page is gone, and wait up to ``deadline`` seconds for its end."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
        if deadline:
            await wait_gone([process.pid], deadline=deadline)
