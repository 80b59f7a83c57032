"""What is the same in every driver that owns a process: how that is started, watched, ended and tidied up after."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Generic, TypeVar

from pytest_webaccel.browsers.process import start_failure, status_text, wait_gone
from pytest_webaccel.browsers.profiles import Profile, sweep
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import Browser, Damage, Symptom

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_webaccel.browsers import bidi, cdp
    from pytest_webaccel.browsers.driver import DamageListener
    from pytest_webaccel.browsers.locate import Installation
    from pytest_webaccel.browsers.process import OwnedProcess

__all__ = ["ProcessDriver"]

ConnectionT = TypeVar("ConnectionT", bound="bidi.Connection | cdp.Connection")


class ProcessDriver(abc.ABC, Generic[ConnectionT]):
    """One process tree of an installation, the profile that it has and the connection to it.

    Whoever derives from it launches the process and adds what is left of :class:`~.driver.Driver`: the page.
    """

    #: Command that brings another one where this one does not start.
    _installer = "python -m pytest_webaccel install"
    #: Why there is no GPU process, where there never is one.
    _no_gpu_process = ""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._listeners: list[DamageListener] = []
        self._process: OwnedProcess | None = None
        self._connection: ConnectionT | None = None
        self._profile: Profile | None = None
        self._version = ""
        self._stopping = False

    @property
    def browser(self) -> Browser:
        """Which browser this drives."""
        return self._installation.browser

    @property
    def installation(self) -> Installation:
        """Where the browser was found."""
        return self._installation

    @property
    def version(self) -> str:
        """Version as the running browser reports it; empty before :meth:`start`."""
        return self._version

    @property
    def pid(self) -> int | None:
        """Process id of the root process while it runs."""
        process = self._process
        return None if process is None or process.exited.done() else process.pid

    @property
    def profile(self) -> Path | None:
        """The profile folder while there is one."""
        return None if self._profile is None else self._profile.folder

    @property
    def _where(self) -> str:
        return f"{self.browser} ({self._installation.executable})"

    def on_damage(self, listener: DamageListener) -> None:
        """Have ``listener`` called, in the loop, for an exited browser and what else the driver sees."""
        self._listeners.append(listener)

    def _report(self, symptom: Symptom, detail: str) -> None:
        damage = Damage(symptom, f"{self._where}: {detail}", asyncio.get_running_loop().time())
        for listener in list(self._listeners):
            listener(damage)

    # -- start -------------------------------------------------------------------------------

    async def start(self, *, deadline: float) -> None:
        """Start the process with a profile of its own (mode 0700) and attach to it.

        Raises BrowserError, with the end of the browser's own error output, when it does not come up
        within ``deadline`` seconds. Nothing is left running then.
        """
        if self.pid is not None:
            raise BrowserError(f"{self._where} is running already; stop it before starting it again")
        await self.stop(deadline=deadline)
        sweep()
        try:
            async with asyncio.timeout(deadline):
                self._profile = Profile()
                await self._launch(self._profile, deadline)
        except (TimeoutError, BrowserError, OSError, KeyError, TypeError, ValueError) as error:
            output = self._process.error_output if self._process else ""
            await self.stop(deadline=5.0)
            cause = str(error).removeprefix(f"{self._where}: ") or f"no answer within {deadline:.1f} s"
            if isinstance(error, KeyError | TypeError | ValueError):
                cause = f"its answer cannot be read ({error!r})"
            raise BrowserError(start_failure(self._where, cause, output, self._installer)) from error
        except BaseException:
            await self.stop(deadline=5.0)
            raise

    @abc.abstractmethod
    async def _launch(self, profile: Profile, deadline: float) -> None:
        """Start the process (:meth:`_own`), connect to it and learn its version."""

    def _own(self, process: OwnedProcess) -> OwnedProcess:
        """Take ``process`` as the driver's: from now on its exit is damage, until :meth:`_end`."""
        self._process, self._stopping = process, False
        process.exited.add_done_callback(lambda exited: self._exited(process, exited.result()))
        return process

    def _exited(self, process: OwnedProcess, status: int) -> None:
        if process is not self._process:
            return
        reason = f"the browser ended with {status_text(status)}"
        if self._connection is not None:
            self._connection.close(reason)
        self._forget_page()
        if not self._stopping:
            self._report(Symptom.BROWSER_EXITED, reason)

    def _running(self) -> ConnectionT:
        if self._connection is None or self.pid is None:
            raise BrowserError(f"{self._where} is not running; start it first")
        return self._connection

    # -- the page and the GPU process --------------------------------------------------------

    @abc.abstractmethod
    def _forget_page(self) -> None:
        """Know of no page from here on: the process has ended."""

    @abc.abstractmethod
    async def evaluate(self, expression: str, *, deadline: float) -> object:
        """Return the JSON value of ``expression`` (promises awaited) in the lane's page.

        Raises BrowserError with the page's own message when the expression throws.
        """

    async def page_runs(self, *, deadline: float) -> bool:
        """Return whether the page's script answers within ``deadline`` seconds."""
        try:
            await self.evaluate("1", deadline=deadline)
        except BrowserError:
            return False
        return True

    @abc.abstractmethod
    async def gpu_process(self, *, deadline: float) -> int | None:
        """Return the process id of the GPU process, None while there is none."""

    async def crash_gpu(self, *, deadline: float) -> None:
        """SIGKILL the browser's GPU process; returns once that process is gone.

        Raises BrowserError when there is none, or when it does not end within ``deadline`` seconds.
        """
        pid = await self.gpu_process(deadline=deadline)
        if pid is None:
            raise BrowserError(f"{self._where} has no GPU process now, so none can be crashed{self._no_gpu_process}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if not await wait_gone([pid], deadline=deadline):
            raise BrowserError(f"{self._where}: GPU process {pid} did not end within {deadline:.1f} s")

    # -- end ---------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL the whole process tree, at once. The exit is reported as damage."""
        if self._process is not None:
            self._process.kill()

    async def stop(self, *, deadline: float) -> None:
        """End the whole process tree and remove the profile. Never raises, may be called twice."""
        await self._end(deadline)
        profile, self._profile = self._profile, None
        if profile is None:
            return
        try:
            await profile.remove(deadline=max(1.0, deadline / 2))
        except BaseException:  # cut off: another stop goes on
            self._profile = profile
            raise

    async def _end(self, deadline: float) -> None:
        """End the process tree and the connection, which is no damage."""
        self._stopping = True
        if self._process is not None:
            await self._process.end(deadline=deadline)
        if self._connection is not None:
            self._connection.close("the browser was stopped")
        self._process = self._connection = None
        self._forget_page()
