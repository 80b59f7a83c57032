"""Drives Firefox over WebDriver BiDi.

Firefox has no debugging pipe: its port is on loopback, open to the machine's other users until the one session that
it grants is ours (docs/limitations.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from typing import TYPE_CHECKING, Any

import psutil

from pytest_webaccel.browsers import content, startup_cache
from pytest_webaccel.browsers.bidi import Connection, from_remote
from pytest_webaccel.browsers.content_process import ContentProcess, end
from pytest_webaccel.browsers.preferences import firefox_arguments, firefox_environment, user_js
from pytest_webaccel.browsers.process import OwnedProcess, status_text
from pytest_webaccel.browsers.process_driver import ProcessDriver
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import Symptom

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_webaccel.browsers.locate import Installation
    from pytest_webaccel.browsers.profiles import Profile

__all__ = ["FirefoxDriver"]

_ENDPOINT = re.compile(rb"WebDriver BiDi listening on (ws://\S+)\r?\n")
_EVENTS = ("browsingContext.navigationCommitted", "browsingContext.contextDestroyed")
#: Where a tab is led whose process died.
_CRASHED = "about:tabcrashed"
#: Seconds that are given to closing a page that is being replaced; a crashed one may not answer.
_CLOSE_DEADLINE = 2.0
#: Seconds that a first Firefox of a build may take to end in good order, which writes its startup cache.
_GOOD_ORDER = 3.0
#: Seconds within which a page that lives answers, after a process that was its own has ended.
_ANSWERS = 1.0


class FirefoxDriver(ProcessDriver[Connection]):
    """One Firefox process tree and its one page.

    ``debugging_port`` changes nothing: Firefox has only the port that this driver uses, and grants it one session.
    """

    def __init__(self, installation: Installation, *, headed: bool = False, debugging_port: bool = False) -> None:
        del debugging_port
        super().__init__(installation)
        self._headed = headed
        # So it is in every headless Firefox, whatever the preferences say.
        self._no_gpu_process = "" if headed else "; headless, it runs WebGPU in its root process"
        self._context = ""
        self._url = ""
        self._page = ContentProcess(self._where, self._page_ended)
        self._crashed = False

    @property
    def takes_files(self) -> bool:
        """Whether :meth:`offer_files` is to be had: it is."""
        return True

    @property
    def endpoint(self) -> str | None:
        """None: there is no address at which a second client, such as Playwright, could join."""
        return None

    @property
    def page_process(self) -> int | None:
        """Process id of the page's process, while it lives."""
        process = self._page.process
        return None if process is None else process.pid

    # -- start -------------------------------------------------------------------------------

    async def _launch(self, profile: Profile, deadline: float) -> None:
        (profile.path / "user.js").write_text(user_js(), encoding="utf-8")
        await asyncio.to_thread(startup_cache.restore, self._installation, profile.path)
        arguments = [
            str(self._installation.executable),
            *firefox_arguments(headed=self._headed),
            "--profile",
            str(profile.path),
            "about:blank",
        ]
        # Firefox writes there even with a profile of its own; so it goes away with the profile.
        environment = {
            **firefox_environment(),
            **self._installation.environment,
            "XDG_CONFIG_HOME": str(profile.path / "config"),
        }
        process = self._own(OwnedProcess(arguments, environment, pipe=False))
        await process.listen()
        address = await self._address(process, deadline)
        connection = self._connection = Connection(self._where)
        connection.listen(self._event)
        await connection.connect(f"{address}/session", deadline=deadline)
        session = await connection.call(
            "session.new",
            # A dialog of a page is closed, so that it hangs nothing.
            {"capabilities": {"alwaysMatch": {"unhandledPromptBehavior": {"default": "dismiss"}}}},
            deadline=deadline,
        )
        self._version = str(session["capabilities"]["browserVersion"])
        await connection.call("session.subscribe", {"events": list(_EVENTS)}, deadline=deadline)

    async def _address(self, process: OwnedProcess, deadline: float) -> str:
        line = asyncio.ensure_future(process.error_match(_ENDPOINT, deadline=deadline))
        either: set[asyncio.Future[Any]] = {line, process.exited}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not line.done():
            line.cancel()
            await asyncio.gather(line, return_exceptions=True)
            raise BrowserError(f"{self._where}: it ended with {status_text(process.exited.result())}")
        return line.result()

    def _forget_page(self) -> None:
        self._context, self._crashed = "", False
        self._page.forget()

    def _event(self, method: str, parameters: Mapping[str, Any]) -> None:
        context = str(parameters.get("context", ""))
        if not context or self._connection is None:
            return
        if method == "browsingContext.contextDestroyed":
            self._connection.fail_context(context, "the page was closed")
        elif str(parameters.get("url", "")).startswith(_CRASHED) and context == self._context:
            self._page_died(self._connection)

    def _page_died(self, connection: Connection) -> None:
        if not self._crashed:
            self._crashed = True
            # What waits for that page is never answered.
            connection.fail_context(self._context, "the page crashed")
            self._report(Symptom.PAGE_CRASHED, "the page's process died")

    async def _page_ended(self) -> None:
        """See a crash of the page also where Firefox does not tell of it."""
        connection = self._connection
        if self.pid is None or connection is None or self._stopping:
            return
        with contextlib.suppress(BrowserError):
            await self.evaluate("1", deadline=_ANSWERS)
            return  # the page lives: it went to another address, and so to another process
        self._page_died(connection)

    def _attached(self) -> tuple[Connection, str]:
        connection = self._running()
        if not self._context:
            raise BrowserError(f"{self._where} shows no page; open one first")
        return connection, self._context

    # -- the page ----------------------------------------------------------------------------

    async def open(self, url: str, *, deadline: float) -> None:
        """Show ``url`` in a fresh tab, wait for its load event, and close the page that was there."""
        connection, stopped = self._running(), self._page.stopped
        old = self._page.forget()
        self._context, self._crashed = "", False
        try:
            async with asyncio.timeout(deadline):
                # In the background: Firefox would ask the old page, which may be hung, whether it is hidden by now.
                created = await connection.call(
                    "browsingContext.create", {"type": "tab", "background": True}, deadline=deadline
                )
                # The old page goes before the new one loads: two pages of one lane must never meet. As the only
                # tab, the new one is in front then, and its timers are not throttled.
                await self._close_others(connection, created["context"], deadline)
                if stopped and old is not None:
                    await end(old, deadline)
                self._context, self._url = created["context"], url
                await self._navigate(url, deadline)
                await self._find_page(old, deadline)
        except TimeoutError:
            raise BrowserError(f"{self._where}: {url} did not load within {deadline:.1f} s") from None
        finally:
            # A page that was hung leaves its process behind, which would burn a processor for ever.
            if old is not None and old != self._page.process:
                await end(old, 0.0)

    async def _close_others(self, connection: Connection, kept: str, deadline: float) -> None:
        tree = await connection.call("browsingContext.getTree", {"maxDepth": 0}, deadline=deadline)
        for context in [entry["context"] for entry in tree["contexts"] if entry["context"] != kept]:
            # A crashed or hung page may refuse; the new page does not depend on it.
            with contextlib.suppress(BrowserError):
                await connection.call("browsingContext.close", {"context": context}, deadline=_CLOSE_DEADLINE)

    async def _navigate(self, url: str, deadline: float) -> None:
        connection, context = self._attached()
        try:
            await connection.call(
                "browsingContext.navigate",
                {"context": context, "url": url, "wait": "complete"},
                context=context,
                deadline=deadline,
            )
        except BrowserError as error:
            reason = str(error).removeprefix(f"{self._where}: ").removeprefix("browsingContext.navigate ")
            raise BrowserError(f"{self._where}: {url} could not be opened: {reason}") from error

    async def _find_page(self, leaving: psutil.Process | None, deadline: float) -> None:
        await self._page.find(self.pid, leaving, functools.partial(self.evaluate, deadline=deadline))

    async def reload(self, *, deadline: float) -> None:
        """Have the lane's page navigate away and back to its own address: the same tab, another document."""
        self._attached()
        try:
            async with asyncio.timeout(deadline):
                await self._navigate("about:blank", deadline)
                await self._navigate(self._url, deadline)
                await self._find_page(None, deadline)
        except TimeoutError:
            raise BrowserError(f"{self._where}: {self._url} was not back within {deadline:.1f} s") from None

    async def evaluate(self, expression: str, *, deadline: float) -> object:
        """Return the JSON value of ``expression`` (promises awaited) in the lane's page.

        Raises BrowserError with the page's own message when the expression throws.
        """
        connection, context = self._attached()
        answer = await connection.call(
            "script.evaluate",
            {
                "expression": expression,
                "target": {"context": context},
                "awaitPromise": True,
                "resultOwnership": "none",
                "userActivation": True,
            },
            context=context,
            deadline=deadline,
        )
        if answer.get("type") == "exception":
            text = str(answer.get("exceptionDetails", {}).get("text", "no message"))
            raise BrowserError(f"{self._where}: the page threw: {text}")
        try:
            return from_remote(answer["result"])
        except (ValueError, KeyError) as error:
            raise BrowserError(f"{self._where}: the page's answer cannot be read: {error}") from error

    async def offer_files(self, paths: Sequence[Path], *, deadline: float) -> None:
        """Hand local files to the page's ``<input type=file id=webaccel-files>`` as file handles."""
        connection, context = self._attached()
        for path in paths:
            if not path.is_file():
                raise BrowserError(f"{self._where}: {path} is no file that could be offered to the page")
        found = await connection.call(
            "browsingContext.locateNodes",
            {
                "context": context,
                "locator": {"type": "css", "value": "input[type=file]#webaccel-files"},
                "maxNodeCount": 1,
            },
            context=context,
            deadline=deadline,
        )
        if not found["nodes"]:
            raise BrowserError(f"{self._where}: the page has no <input type=file id=webaccel-files>")
        await connection.call(
            "input.setFiles",
            {
                "context": context,
                "element": {"sharedId": found["nodes"][0]["sharedId"]},
                "files": [str(path.resolve()) for path in paths],
            },
            context=context,
            deadline=deadline,
        )

    # -- harm --------------------------------------------------------------------------------

    def _page_root(self) -> int | None:
        """Return the process below which the page's is; None where the page has crashed."""
        self._attached()
        return None if self._crashed else self.pid

    async def page_processes(self, *, deadline: float) -> Sequence[int]:
        """Return the id of the page's process; ``deadline`` is not needed."""
        del deadline
        return [self._page.known(self._page_root()).pid]

    def crash_page(self) -> None:
        """SIGKILL the page's process, at once and without waiting; seen as ``page_crashed`` damage."""
        page = self._page.known(self._page_root())
        with contextlib.suppress(psutil.NoSuchProcess):
            page.kill()

    async def stop_page(self, *, deadline: float) -> None:
        """SIGSTOP the page's process: it answers nothing, and nothing is closed."""
        await self._page.stop(self._page_root(), deadline=deadline)

    def resume_page(self) -> None:
        """SIGCONT what :meth:`stop_page` stopped and still is there; harmless otherwise."""
        self._page.resume()

    async def gpu_process(self, *, deadline: float) -> int | None:
        """Return the process id of the GPU process, None while there is none; ``deadline`` is not needed."""
        del deadline
        self._running()
        root = self.pid
        found = [] if root is None else content.role(root, "gpu")
        return found[0].pid if found else None

    # -- end ---------------------------------------------------------------------------------

    async def _end(self, deadline: float) -> None:
        self._stopping = True
        profile, connection, stands = self._profile, self._connection, self._page.stopped
        self._page.forget()
        kept = not stands and await self._end_in_good_order(min(deadline, _GOOD_ORDER))
        await super()._end(deadline)
        if connection is not None:
            await connection.end()
        if kept and profile is not None:
            await asyncio.to_thread(startup_cache.keep, self._installation, profile.path)

    async def _end_in_good_order(self, deadline: float) -> bool:
        """Have a first Firefox of its build end by itself, for its startup cache; return whether it did."""
        process, connection = self._process, self._connection
        if process is None or connection is None or process.exited.done() or not self._context or self._crashed:
            return False
        if startup_cache.is_kept(self._installation):
            return False
        try:
            async with asyncio.timeout(deadline):
                await connection.call("browser.close", deadline=deadline)
                await asyncio.shield(process.exited)
        except (BrowserError, TimeoutError):
            return False
        return True
