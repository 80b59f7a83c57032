"""What the pool asks of a browser, whichever it is and however it is driven.

A driver owns one browser process tree and one page: the page in which a lane lives. Everything that
knows which browser it is stands behind this Protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from pytest_webaccel.terms import Browser, Damage

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DamageListener", "Driver"]

DamageListener = Callable[[Damage], None]


class Driver(Protocol):
    """One browser process tree and its one page.

    Every coroutine takes ``deadline`` in seconds from now and raises
    :class:`~pytest_webaccel.errors.BrowserError` when it passes or when the browser is gone. All
    of them run in one event loop; none is safe to call from another thread.
    """

    @property
    def browser(self) -> Browser:
        """Which browser this drives."""
        ...

    @property
    def takes_files(self) -> bool:
        """Whether :meth:`offer_files` is to be had; where it is not, the page fetches files from the bridge."""
        ...

    @property
    def version(self) -> str:
        """Version as the running browser reports it; empty before :meth:`start`."""
        ...

    @property
    def pid(self) -> int | None:
        """Process id of the root process while it runs."""
        ...

    def on_damage(self, listener: DamageListener) -> None:
        """Have ``listener`` called, in the loop, for a crashed page, a lost GPU process or an exited browser.

        Symptoms: ``page_crashed``, ``device_lost`` (where the driver sees the GPU process end before the page
        does), ``browser_exited``. An exit that :meth:`stop` asked for is none.
        """
        ...

    async def start(self, *, deadline: float) -> None:
        """Start the process with a profile of its own (mode 0700) and attach to it."""
        ...

    async def open(self, url: str, *, deadline: float) -> None:
        """Show ``url`` in the lane's page; a page that was there, crashed or not, is replaced."""
        ...

    async def evaluate(self, expression: str, *, deadline: float) -> object:
        """Return the JSON value of ``expression`` (promises awaited) in the lane's page."""
        ...

    async def page_runs(self, *, deadline: float) -> bool:
        """Return whether the page's script answers its driver within ``deadline`` seconds."""
        ...

    async def offer_files(self, paths: Sequence[Path], *, deadline: float) -> None:
        """Hand local files to the page's ``<input type=file id=webaccel-files>`` as file handles."""
        ...

    async def crash_gpu(self, *, deadline: float) -> None:
        """Kill the browser's GPU process; returns once that process is gone."""
        ...

    async def gpu_process(self, *, deadline: float) -> int | None:
        """Return the process id of the GPU process, None while there is none."""
        ...

    async def page_processes(self, *, deadline: float) -> Sequence[int]:
        """Return the ids of the processes that the page runs in, or may run in where that cannot be told."""
        ...

    def crash_page(self) -> None:
        """Have the page's process die, at once and without waiting; seen as ``page_crashed`` damage."""
        ...

    async def reload(self, *, deadline: float) -> None:
        """Have the lane's page navigate away and back to its own address: the same tab, another document."""
        ...

    async def stop_page(self, *, deadline: float) -> None:
        """SIGSTOP the page's process or processes: it answers nothing, and nothing is closed.

        :meth:`resume_page`, :meth:`open`, :meth:`kill` and :meth:`stop` work on a stopped page all the same.
        """
        ...

    def resume_page(self) -> None:
        """SIGCONT what :meth:`stop_page` stopped and still is there; harmless otherwise."""
        ...

    def kill(self) -> None:
        """SIGKILL the whole process tree, at once. The exit is reported as damage."""
        ...

    async def stop(self, *, deadline: float) -> None:
        """End the whole process tree and remove the profile. Never raises, may be called twice."""
        ...
