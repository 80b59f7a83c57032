"""Drives Deno, which is no browser: it runs the page's modules, on a WebGPU of its own, and shows nothing.

One process is one page. What a process may reach is fixed at its start, so each page gets a process of its own, and
that may reach the server of its page and nothing else: no file, no variable, no other address. The words between
driver and process, over standard input and output, have the form of the debugging pipe of :mod:`.cdp`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

from pytest_webaccel.browsers.cdp import Connection
from pytest_webaccel.browsers.preferences import vulkan_driver
from pytest_webaccel.browsers.process import OwnedProcess, status_text
from pytest_webaccel.browsers.profiles import Profile, sweep
from pytest_webaccel.browsers.settings import Setting
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import Browser, Damage, Symptom

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_webaccel.browsers.driver import DamageListener
    from pytest_webaccel.browsers.locate import Installation

__all__ = ["INTERFACE_VARIABLE", "DenoDriver", "deno_arguments", "deno_environment", "deno_settings"]

#: Variable by which a user has wgpu, Deno's WebGPU, take another interface to the GPU.
INTERFACE_VARIABLE = "DENO_WEBGPU_BACKEND"
_NO_PAGE = "Deno has no page apart from its process"


def deno_settings(url: str) -> tuple[Setting, ...]:
    """Return the flags for Deno whose page is at ``url``; one that is of no web server may reach nothing at all."""
    server = urlsplit(url).netloc
    return (
        Setting("--quiet", "standard error is kept for messages"),
        Setting("--no-prompt", "what is not allowed is refused, and nobody is asked"),
        Setting("--no-config", "no configuration of the folder it is started in is read"),
        Setting("--no-lock", "likewise, and no lock file is written"),
        Setting("--no-npm", "nothing is fetched that the test did not ask for"),
        *(
            (
                Setting(f"--allow-net={server}", "the page's own server is all that it may reach"),
                Setting(f"--allow-import={server}", "likewise for modules"),
            )
            if server
            else (Setting("--deny-import", "an empty page imports nothing"),)
        ),
    )


def deno_arguments(url: str) -> tuple[str, ...]:
    """Return the flags of :func:`deno_settings`."""
    return tuple(setting.flag for setting in deno_settings(url))


def deno_environment(*, gpu: bool | None = None) -> dict[str, str]:
    """Return what is added to Deno's environment; see :func:`vulkan_driver` for ``gpu``."""
    given = sys.platform != "linux" or os.environ.get(INTERFACE_VARIABLE)
    return {
        # Nobody is asked whether there is a newer one.
        "DENO_NO_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
        # The one server that it may reach is on this machine.
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        # OpenGL would be tried as well, and might be taken in place of the driver that was chosen.
        **({} if given else {INTERFACE_VARIABLE: "vulkan"}),
        **vulkan_driver(gpu=gpu),
    }


class DenoDriver:
    """One process of Deno, another for each page. ``headed`` and ``debugging_port`` change nothing."""

    def __init__(self, installation: Installation, *, headed: bool = False, debugging_port: bool = False) -> None:
        del headed, debugging_port
        self._installation = installation
        self._listeners: list[DamageListener] = []
        self._process: OwnedProcess | None = None
        self._connection: Connection | None = None
        self._profile: Profile | None = None
        self._version = ""
        self._shown = self._stopping = False

    @property
    def browser(self) -> Browser:
        """Which browser this drives."""
        return self._installation.browser

    @property
    def takes_files(self) -> bool:
        """Whether :meth:`offer_files` is to be had: it is not."""
        return False

    @property
    def installation(self) -> Installation:
        """Where Deno was found."""
        return self._installation

    @property
    def version(self) -> str:
        """Version as the running Deno reports it; empty before :meth:`start`."""
        return self._version

    @property
    def pid(self) -> int | None:
        """Process id of the page's process while it runs; another after each :meth:`open`."""
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
        """Have ``listener`` called, in the loop, when Deno exits."""
        self._listeners.append(listener)

    # -- start and page ----------------------------------------------------------------------

    async def start(self, *, deadline: float) -> None:
        """Start a process that may reach nothing, with a profile of its own (mode 0700), and attach to it.

        Raises BrowserError, with the end of its error output, when it does not answer within ``deadline`` seconds.
        Nothing is left running then.
        """
        if self.pid is not None:
            raise BrowserError(f"{self._where} is running already; stop it before starting it again")
        await self.stop(deadline=deadline)
        self._stopping = False
        sweep()
        try:
            async with asyncio.timeout(deadline):
                self._profile = Profile()
                connection = await self._launch("")
                self._version = str(await self._answer(connection, "version", {}, deadline))
        except (TimeoutError, BrowserError, OSError) as error:
            lines = self._process.error_output.splitlines()[-6:] if self._process else []
            await self.stop(deadline=5.0)
            cause = str(error).removeprefix(f"{self._where}: ") or f"no answer within {deadline:.1f} s"
            said = f" It said: {' | '.join(lines)}." if lines else ""
            raise BrowserError(
                f"{self._where} did not start: {cause}.{said} Run it by hand with --version, or bring another one with "
                "`pip install deno`."
            ) from error
        except asyncio.CancelledError:
            await self.stop(deadline=5.0)
            raise

    async def _launch(self, url: str) -> Connection:
        assert self._profile is not None
        entry = resources.files("pytest_webaccel") / "page" / "deno.mjs"
        cache = str(self._profile.path)
        process = self._process = OwnedProcess(
            [str(self._installation.executable), "run", *deno_arguments(url), str(entry)],
            {**deno_environment(), **self._installation.environment, "DENO_DIR": cache, "XDG_CACHE_HOME": cache},
            standard=True,
        )
        process.exited.add_done_callback(lambda exited: self._exited(process, exited.result()))
        connection = self._connection = Connection(self._where)
        connection.attach(await process.connect(connection))
        return connection

    def _exited(self, process: OwnedProcess, status: int) -> None:
        if process is not self._process:
            return
        reason = f"it ended with {status_text(status)}"
        if self._connection is not None:
            self._connection.close(reason)
        self._shown = False
        if not self._stopping:
            damage = Damage(Symptom.BROWSER_EXITED, f"{self._where}: {reason}", asyncio.get_running_loop().time())
            for listener in list(self._listeners):
                listener(damage)

    def _running(self) -> Connection:
        if self._connection is None or self.pid is None:
            raise BrowserError(f"{self._where} is not running; start it first")
        return self._connection

    async def open(self, url: str, *, deadline: float) -> None:
        """Run the page at ``url`` in a process of its own; that of the page before it is ended first.

        A page of a web server is the lane's: what is run is that server's ``/page/main.mjs``. Any other is empty.
        """
        self._running()
        try:
            async with asyncio.timeout(deadline):
                await self._end_process(deadline)
                connection = await self._launch(url)
                await self._answer(connection, "open", {"url": url}, deadline)
        except TimeoutError:
            raise BrowserError(f"{self._where}: {url} did not load within {deadline:.1f} s") from None
        except BrowserError as error:
            reason = str(error).removeprefix(f"{self._where}: ")
            raise BrowserError(f"{self._where}: {url} could not be opened: {reason}") from error
        self._shown = True

    async def _end_process(self, deadline: float) -> None:
        """End the process, which is no damage."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        self._shown = False
        if connection is not None:
            connection.close("its page was closed")
        if process is not None:
            await process.end(deadline=deadline)

    async def evaluate(self, expression: str, *, deadline: float) -> object:
        """Return the JSON value of ``expression`` (promises awaited) in the lane's page.

        Raises BrowserError with the page's own message when the expression throws.
        """
        connection = self._running()
        if not self._shown:
            raise BrowserError(f"{self._where} shows no page; open one first")
        return await self._answer(connection, "evaluate", {"expression": expression}, deadline)

    async def _answer(self, connection: Connection, call: str, parameters: dict[str, str], deadline: float) -> object:
        """Return the value of a call; raises BrowserError with the page's own message where it throws."""
        result = await connection.call(call, parameters, deadline=deadline)
        if "threw" in result:
            raise BrowserError(f"{self._where}: the page threw: {result['threw']}")
        return result.get("value")

    async def page_runs(self, *, deadline: float) -> bool:
        """Return whether the page's script answers within ``deadline`` seconds."""
        try:
            await self.evaluate("1", deadline=deadline)
        except BrowserError:
            return False
        return True

    async def offer_files(self, paths: Sequence[Path], *, deadline: float) -> None:
        """Raise BrowserError: the page fetches files."""
        del paths, deadline
        raise BrowserError(f"{self._where}: {_NO_PAGE}, so no file can be handed to it")

    # -- harm --------------------------------------------------------------------------------

    async def gpu_process(self, *, deadline: float) -> int | None:
        """Return None: WebGPU runs in the one process that there is."""
        del deadline
        self._running()
        return None

    async def crash_gpu(self, *, deadline: float) -> None:
        """Raise BrowserError: there is no GPU process."""
        del deadline
        raise BrowserError(f"{self._where} has no GPU process that could be crashed")

    async def page_processes(self, *, deadline: float) -> Sequence[int]:
        """Return the id of the one process; ``deadline`` is not needed."""
        del deadline
        self._running()
        return [] if self.pid is None else [self.pid]

    def crash_page(self) -> None:
        """Raise BrowserError: what ends the page ends all of it."""
        raise BrowserError(f"{self._where}: {_NO_PAGE}, so that alone cannot be crashed")

    async def reload(self, *, deadline: float) -> None:
        """Raise BrowserError: nothing navigates."""
        del deadline
        raise BrowserError(f"{self._where}: {_NO_PAGE}, so none can be reloaded")

    async def stop_page(self, *, deadline: float) -> None:
        """SIGSTOP the process; returns once it stands still."""
        self._running()
        assert self._process is not None
        until = time.monotonic() + deadline
        try:
            process = psutil.Process(self._process.pid)
            process.suspend()
            while process.status() != psutil.STATUS_STOPPED:
                if time.monotonic() >= until:
                    raise BrowserError(f"{self._where} did not stop within {deadline:.1f} s")
                await asyncio.sleep(0.001)
        except psutil.NoSuchProcess:
            raise BrowserError(f"{self._where} ended before it could be stopped") from None

    def resume_page(self) -> None:
        """SIGCONT the process where it was stopped; harmless otherwise."""
        if (pid := self.pid) is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).resume()

    # -- end ---------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL the process, at once. The exit is reported as damage."""
        if self._process is not None:
            self._process.kill()

    async def stop(self, *, deadline: float) -> None:
        """End the process and remove the profile. Never raises, may be called twice."""
        self._stopping = True
        await self._end_process(deadline)
        if self._profile is not None:
            await self._profile.remove(deadline=max(1.0, deadline / 2))
        self._profile = None
