"""The processes of a Chromium that are stopped, ended or watched one by one: its renderers and its GPU process.

Which is which the browser itself says, over the debugging pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

import psutil

from pytest_webaccel.browsers.process import lives, wait_gone
from pytest_webaccel.errors import BrowserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_webaccel.browsers.cdp import Connection

__all__ = ["GpuWatch", "Renderers", "process_ids"]

#: Seconds for an answer of the browser's main process, which no page can hold up.
_ASK_S = 5.0
#: Seconds between two looks for a GPU process that is not there yet: a little more each time.
_FIRST_LOOK_S, _SLOWER = 0.01, 1.1
#: Looks without a find, about nine seconds, after which there is none to be watched until the next page opens.
_LOOKS = 48
#: Seconds that the root of a tree has to end in, after its GPU process did, for both to count as one exit.
_TOGETHER_S = 0.003
#: Seconds of a watch that ends with the browser.
_NEVER = 86_400.0


async def process_ids(connection: Connection, kind: str, *, deadline: float) -> list[int]:
    """Return the ids of the browser's processes of ``kind`` (``renderer``, ``GPU``), its root left out."""
    answer = await connection.call("SystemInfo.getProcessInfo", deadline=deadline)
    listed = [(str(process["type"]).lower(), int(process["id"])) for process in answer["processInfo"]]
    roots = {pid for name, pid in listed if name == "browser"}
    return [pid for name, pid in listed if name == kind.lower() and pid not in roots]


class Renderers:
    """The processes that run pages: stopped, let go on, ended.

    They are taken together, since nothing tells which of them is the lane's page. A psutil process knows whether an
    id has become someone else's, so no signal hits a stranger.
    """

    def __init__(self) -> None:
        self._stopped: list[psutil.Process] = []

    @property
    def stopped(self) -> bool:
        """Whether some were stopped and neither let go on nor ended since."""
        return bool(self._stopped)

    async def stop(self, connection: Connection, *, deadline: float) -> None:
        """SIGSTOP them all. Raises BrowserError where there is none."""
        for process in await self._all(connection, deadline):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                self._stopped.append(process)
        if not self._stopped:
            raise BrowserError("no process of a page is there that could be stopped")

    def resume(self) -> None:
        """SIGCONT those that were stopped and still are there."""
        stopped, self._stopped = self._stopped, []
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def kill_stopped(self) -> None:
        """SIGKILL those that were stopped, without waiting."""
        stopped, self._stopped = self._stopped, []
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    async def kill(self, connection: Connection, *, deadline: float) -> None:
        """SIGKILL them all, and wait until they are gone."""
        self._stopped.clear()
        processes = await self._all(connection, deadline)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await wait_gone([process.pid for process in processes], deadline=deadline)

    @staticmethod
    async def _all(connection: Connection, deadline: float) -> list[psutil.Process]:
        found = []
        for pid in await process_ids(connection, "renderer", deadline=deadline):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return found


class GpuWatch:
    """Sees the GPU process end as the kernel does, by a process descriptor, before any page is told.

    ``ended`` is called with the process id, once for each that ends while the root of the tree lives on. The browser
    starts another one, which is watched in its turn, some 10 ms after it is there. Does nothing where there are no
    process descriptors.
    """

    def __init__(self, connection: Connection, root: int, ended: Callable[[int], None]) -> None:
        self._connection = connection
        self._root = root
        self._ended = ended
        #: Process id of the GPU process that is watched now.
        self.watched: int | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Watch from now on, in the background; harmless where it watches already."""
        if sys.platform == "linux" and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._watch())

    def end(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        last: int | None = None
        with contextlib.suppress(BrowserError):  # a closed pipe: the browser is gone, and with it what was watched
            while (pid := await self._find(last)) is not None:
                self.watched = pid
                await wait_gone([pid], deadline=_NEVER)
                self.watched = None
                await asyncio.sleep(_TOGETHER_S)
                if not lives(self._root):
                    return
                self._ended(pid)
                last = pid

    async def _find(self, but: int | None) -> int | None:
        pause = _FIRST_LOOK_S
        for _ in range(_LOOKS):
            for pid in await process_ids(self._connection, "GPU", deadline=_ASK_S):
                if pid != but:
                    return pid
            await asyncio.sleep(pause)
            pause *= _SLOWER
        return None
