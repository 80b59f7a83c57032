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
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

from pytest_webaccel.browsers.cdp import Connection
from pytest_webaccel.browsers.preferences import vulkan_driver
from pytest_webaccel.browsers.process import OwnedProcess, suspend
from pytest_webaccel.browsers.process_driver import ProcessDriver
from pytest_webaccel.browsers.settings import Setting
from pytest_webaccel.errors import BrowserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_webaccel.browsers.locate import Installation
    from pytest_webaccel.browsers.profiles import Profile

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


class DenoDriver(ProcessDriver[Connection]):
    """One process of Deno, another for each page. ``headed`` and ``debugging_port`` change nothing."""

    _installer = "pip install deno"
    _no_gpu_process = "; it runs WebGPU in the one process that there is"

    def __init__(self, installation: Installation, *, headed: bool = False, debugging_port: bool = False) -> None:
        del headed, debugging_port
        super().__init__(installation)
        self._shown = False

    @property
    def takes_files(self) -> bool:
        """Whether :meth:`offer_files` is to be had: it is not."""
        return False

    # -- start and page ----------------------------------------------------------------------

    async def _launch(self, profile: Profile, deadline: float) -> None:
        connection = await self._run("", profile)
        self._version = str(await self._answer(connection, "version", {}, deadline))

    async def _run(self, url: str, profile: Profile) -> Connection:
        entry = resources.files("pytest_webaccel") / "page" / "deno.mjs"
        cache = str(profile.path)
        process = self._own(
            OwnedProcess(
                [str(self._installation.executable), "run", *deno_arguments(url), str(entry)],
                {**deno_environment(), **self._installation.environment, "DENO_DIR": cache, "XDG_CACHE_HOME": cache},
                standard=True,
            )
        )
        connection = self._connection = Connection(self._where)
        connection.attach(await process.connect(connection))
        return connection

    def _profile_now(self) -> Profile:
        if self._profile is None:
            raise BrowserError("it was stopped meanwhile")
        return self._profile

    def _forget_page(self) -> None:
        self._shown = False

    async def open(self, url: str, *, deadline: float) -> None:
        """Run the page at ``url`` in a process of its own; that of the page before it is ended first.

        A page of a web server is the lane's: what is run is that server's ``/page/main.mjs``. Any other is empty.
        """
        self._running().close("its page was closed")
        try:
            async with asyncio.timeout(deadline):
                await self._end(deadline)
                connection = await self._run(url, self._profile_now())
                await self._answer(connection, "open", {"url": url}, deadline)
        except TimeoutError:
            raise BrowserError(f"{self._where}: {url} did not load within {deadline:.1f} s") from None
        except BrowserError as error:
            reason = str(error).removeprefix(f"{self._where}: ")
            raise BrowserError(f"{self._where}: {url} could not be opened: {reason}") from error
        self._shown = True

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
        (pid,) = await self.page_processes(deadline=deadline)
        await suspend(pid, self._where, deadline=deadline)

    def resume_page(self) -> None:
        """SIGCONT the process where it was stopped; harmless otherwise."""
        if (pid := self.pid) is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).resume()
