"""Drives browsers of the Chromium family (Chromium, Chrome, Edge; full and headless-shell builds) over CDP."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any

from pytest_webaccel.browsers.cdp import Connection, UnansweredError
from pytest_webaccel.browsers.chromium_processes import GpuWatch, Renderers, process_ids
from pytest_webaccel.browsers.process import OwnedProcess
from pytest_webaccel.browsers.process_driver import ProcessDriver
from pytest_webaccel.browsers.settings import chromium_arguments
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import Symptom

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pytest_webaccel.browsers.locate import Installation
    from pytest_webaccel.browsers.profiles import Profile

__all__ = ["ChromiumDriver"]

_ENDPOINT = re.compile(rb"DevTools listening on (ws://\S+)\r?\n")
#: Numbers that JSON lacks, as the protocol writes them.
_SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf"), "-0": -0.0}
#: The element through which local files are handed to the page.
_FILE_INPUT = "document.getElementById('webaccel-files')"
#: Address that a page is sent to on its way back to its own.
_ELSEWHERE = "about:blank"
#: Seconds in which a page closes that is well. One that hangs would be there for half a second more; it is killed.
_CLOSE_S = 0.08
#: Seconds in which a page crashes that is told to; the process of one that cannot is killed.
_CRASH_S = 0.25


class ChromiumDriver(ProcessDriver[Connection]):
    """One Chromium process tree and its one page.

    ``debugging_port`` also opens a port for other clients, such as Playwright; see :attr:`endpoint`.
    That port is open to every user of the machine, so nothing opens it unasked. ``arguments`` go to the browser
    beside those that every lane has.
    """

    def __init__(
        self,
        installation: Installation,
        *,
        headed: bool = False,
        debugging_port: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        super().__init__(installation)
        self._headed = headed
        self._debugging_port = debugging_port
        self._arguments = tuple(arguments)
        self._endpoint: str | None = None
        self._target = ""
        self._session = ""
        self._mute = False
        self._unused = ""
        self._url = ""
        self._crashed: set[str] = set()
        self._closing: dict[str, asyncio.Future[None]] = {}
        self._renderers = Renderers()
        self._gpu: GpuWatch | None = None
        self._crashing: asyncio.Task[None] | None = None

    @property
    def takes_files(self) -> bool:
        """True: the protocol hands files over."""
        return True

    @property
    def endpoint(self) -> str | None:
        """WebSocket address for other debugging clients; None unless asked for."""
        return self._endpoint

    async def _launch(self, profile: Profile, deadline: float) -> None:
        self._crashed.clear()
        arguments = [
            str(self._installation.executable),
            *chromium_arguments(headed=self._headed, gpu=False if self._installation.software else None),
            *self._arguments,
            "--remote-debugging-pipe",
            f"--user-data-dir={profile.path}",
            *(["--remote-debugging-port=0"] if self._debugging_port else []),
            "--no-startup-window" if self._headed else _ELSEWHERE,
        ]
        # What the desktop's libraries remember goes into the profile, and away with it.
        environment = {**self._installation.environment, "XDG_CONFIG_HOME": str(profile.path)}
        process = self._own(OwnedProcess(arguments, environment))
        connection = self._connection = Connection(self._where)
        connection.listen(self._event)
        connection.attach(await process.connect(connection))
        self._gpu = GpuWatch(connection, process.pid, self._gpu_ended)
        answers: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = await asyncio.gather(
            connection.call("Browser.getVersion", deadline=deadline),
            connection.call("Target.getTargets", deadline=deadline),
            connection.call("Target.setDiscoverTargets", {"discover": True}, deadline=deadline),
        )
        about, targets, _ = answers
        self._version = str(about["product"]).partition("/")[2]
        # The empty page that the browser started with becomes the lane's: a second one would cost another process.
        empty = [each for each in targets["targetInfos"] if each["type"] == "page" and each["url"] == _ELSEWHERE]
        self._unused = empty[0]["targetId"] if len(empty) == 1 else ""
        if self._debugging_port:
            self._endpoint = await process.error_match(_ENDPOINT, deadline=deadline)

    def _forget_page(self) -> None:
        self._target = self._session = ""
        self._mute = False

    def _gpu_ended(self, pid: int) -> None:
        if not self._stopping and self.pid is not None:
            self._report(Symptom.DEVICE_LOST, f"its GPU process {pid} ended")

    def _event(self, method: str, parameters: Mapping[str, Any], session: str) -> None:
        if method == "Inspector.targetCrashed" and session and session == self._session:
            self._page_crashed(self._target)
        elif method == "Target.targetCrashed":
            self._page_crashed(parameters.get("targetId", ""))
        elif method == "Target.detachedFromTarget" and self._connection is not None:
            self._connection.fail_session(parameters.get("sessionId", ""), "the page was closed")
        elif method == "Target.targetDestroyed":
            closed = self._closing.get(parameters.get("targetId", ""))
            if closed is not None and not closed.done():
                closed.set_result(None)

    def _page_crashed(self, target: str) -> None:
        if not target or target != self._target or target in self._crashed:
            return
        self._crashed.add(target)
        if self._connection is not None:
            self._connection.fail_session(self._session, "the page crashed")
        self._report(Symptom.PAGE_CRASHED, "the page's process died")

    def _attached(self) -> tuple[Connection, str]:
        connection = self._running()
        if not self._session:
            raise BrowserError(f"{self._where} shows no page; open one first")
        return connection, self._session

    async def open(self, url: str, *, deadline: float) -> None:
        """Show ``url`` in a fresh page, wait for its load event; the page that was there is closed before.

        One that was found not to run (:meth:`page_runs`) is not asked to close: its process is ended.
        """
        connection, old, mute = self._running(), self._target, self._mute
        self._forget_page()
        self._url = url
        self._renderers.kill_stopped()
        try:
            async with asyncio.timeout(deadline):
                if mute and old:
                    await self._renderers.kill(connection, deadline=deadline)
                    self._unused = ""
                target = self._unused or await self._create(connection, deadline)
                self._unused = ""
                # The old page goes before the new one loads: two pages of one lane must never meet.
                if not await self._close(connection, old, deadline):
                    await self._renderers.kill(connection, deadline=deadline)  # the new page's may be among them
                    dead, target = target, await self._create(connection, deadline)
                    await self._close(connection, dead, deadline)  # not before: without a page, some builds end
                attached = await connection.call(
                    "Target.attachToTarget", {"targetId": target, "flatten": True}, deadline=deadline
                )
                self._target, self._session = target, attached["sessionId"]
                await self._navigate(connection, self._session, url, deadline)
        except TimeoutError:
            raise BrowserError(f"{self._where}: {url} did not load within {deadline:.1f} s") from None
        if self._gpu is not None:
            self._gpu.begin()

    async def _create(self, connection: Connection, deadline: float) -> str:
        created = await connection.call("Target.createTarget", {"url": _ELSEWHERE}, deadline=deadline)
        return str(created["targetId"])

    async def _close(self, connection: Connection, target: str, deadline: float) -> bool:
        """Close a page; return whether it was gone within the time that one takes which is well."""
        if not target:
            return True
        self._crashed.discard(target)
        closed = self._closing[target] = asyncio.get_running_loop().create_future()
        try:
            await connection.call("Target.closeTarget", {"targetId": target}, deadline=deadline)
            async with asyncio.timeout(_CLOSE_S):
                await closed
        except TimeoutError:
            return False
        except BrowserError:
            return True  # it is gone already
        finally:
            del self._closing[target]
        return True

    def led_to(self, url: str) -> None:
        """Take note that another client, or the page itself, has led it to ``url``: :meth:`reload` returns there."""
        self._url = url

    async def reload(self, *, deadline: float) -> None:
        """Have the page navigate away and back to its own address: the same tab, another document."""
        connection, session = self._attached()
        try:
            async with asyncio.timeout(deadline):
                for url in (_ELSEWHERE, self._url):
                    await self._navigate(connection, session, url, deadline)
        except TimeoutError:
            raise BrowserError(f"{self._where}: {self._url} was not there again within {deadline:.1f} s") from None

    async def _navigate(self, connection: Connection, session: str, url: str, deadline: float) -> None:
        loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def look(method: str, _: Mapping[str, Any], source: str) -> None:
            if source == session and not loaded.done():
                if method == "Page.loadEventFired":
                    loaded.set_result(None)
                elif method == "Inspector.targetCrashed":
                    loaded.set_exception(BrowserError(f"{self._where}: the page crashed while {url} loaded"))

        await asyncio.gather(
            connection.call("Page.enable", session=session, deadline=deadline),
            connection.call("Inspector.enable", session=session, deadline=deadline),
        )
        forget = connection.listen(look)
        forget_exit = self._fail_on_exit(loaded)
        try:
            result = await connection.call("Page.navigate", {"url": url}, session=session, deadline=deadline)
            if error := result.get("errorText"):
                raise BrowserError(f"{self._where}: {url} could not be opened: {error}")
            await loaded
        finally:
            forget()
            forget_exit()
            if loaded.done() and not loaded.cancelled():
                loaded.exception()  # seen, so that the loop does not complain about an unread one

    def _fail_on_exit(self, waiting: asyncio.Future[None]) -> Callable[[], None]:
        process = self._process
        assert process is not None

        def ended(_: asyncio.Future[int]) -> None:
            if not waiting.done():
                waiting.set_exception(BrowserError(f"{self._where}: the browser ended while a page loaded"))

        process.exited.add_done_callback(ended)

        def forget() -> None:
            process.exited.remove_done_callback(ended)

        return forget

    async def evaluate(self, expression: str, *, deadline: float) -> object:
        """Return the JSON value of ``expression`` (promises awaited) in the lane's page.

        Raises BrowserError with the page's own message when the expression throws.
        """
        connection, session = self._attached()
        answer = await connection.call(
            "Runtime.evaluate",
            {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True},
            session=session,
            deadline=deadline,
        )
        if (details := answer.get("exceptionDetails")) is not None:
            raise BrowserError(f"{self._where}: the page threw: {_exception_text(details)}")
        return _value(answer["result"])

    async def page_runs(self, *, deadline: float) -> bool:
        """Return whether the page's script answers within ``deadline`` seconds.

        One that does not is ended, not asked to close, when another page is opened in its place, unless it answers
        this before.
        """
        session = self._session
        try:
            await self.evaluate("1", deadline=deadline)
        except UnansweredError:
            self._mute = session == self._session
            return False
        except BrowserError:
            return False
        self._mute = self._mute and session != self._session
        return True

    async def offer_files(self, paths: Sequence[Path], *, deadline: float) -> None:
        """Hand local files to the page's ``<input type=file id=webaccel-files>`` as file handles."""
        connection, session = self._attached()
        for path in paths:
            if not path.is_file():
                raise BrowserError(f"{self._where}: {path} is no file that could be offered to the page")
        found = await connection.call(
            "Runtime.evaluate", {"expression": _FILE_INPUT}, session=session, deadline=deadline
        )
        if (handle := found["result"].get("objectId")) is None:
            raise BrowserError(f"{self._where}: the page has no <input type=file id=webaccel-files>")
        await connection.call(
            "DOM.setFileInputFiles",
            {"files": [str(path.resolve()) for path in paths], "objectId": handle},
            session=session,
            deadline=deadline,
        )
        with contextlib.suppress(BrowserError):
            connection.post("Runtime.releaseObject", {"objectId": handle}, session=session)

    def crash_page(self) -> None:
        """Have the page's process crash, and kill it where it does not. Seen as ``page_crashed`` damage."""
        connection, session = self._attached()
        connection.post("Page.crash", session=session)  # never answered
        if self._renderers.stopped:
            self._renderers.kill_stopped()
        else:
            self._crashing = asyncio.get_running_loop().create_task(self._crash_surely(connection, self._target))

    async def _crash_surely(self, connection: Connection, target: str) -> None:
        await asyncio.sleep(_CRASH_S)
        if target == self._target and target not in self._crashed:
            with contextlib.suppress(BrowserError):  # the browser is gone, and the page with it
                await self._renderers.kill(connection, deadline=_CRASH_S)

    async def stop_page(self, *, deadline: float) -> None:
        """SIGSTOP the processes of pages: none answers, nothing is closed, the browser itself goes on."""
        connection, _ = self._attached()
        await self._renderers.stop(connection, deadline=deadline)

    def resume_page(self) -> None:
        """SIGCONT what :meth:`stop_page` stopped and still is there."""
        self._renderers.resume()

    @property
    def watched_gpu_process(self) -> int | None:
        """Process id of the GPU process whose end would be reported now."""
        return None if self._gpu is None else self._gpu.watched

    async def page_processes(self, *, deadline: float) -> Sequence[int]:
        """Return the ids of the processes of pages: the lane's, and those of pages that other clients opened."""
        connection, _ = self._attached()
        return await process_ids(connection, "renderer", deadline=deadline)

    async def gpu_process(self, *, deadline: float) -> int | None:
        """Return the process id of the GPU process, None while there is none."""
        return next(iter(await process_ids(self._running(), "GPU", deadline=deadline)), None)

    async def _end(self, deadline: float) -> None:
        if self._crashing is not None:
            self._crashing.cancel()
        if self._gpu is not None:
            self._gpu.end()
        await super()._end(deadline)
        self._endpoint = self._gpu = self._crashing = None
        self._unused = ""
        self._renderers = Renderers()


def _value(result: Mapping[str, Any]) -> object:
    if (special := result.get("unserializableValue")) is not None:
        return int(special[:-1]) if special.endswith("n") else _SPECIAL.get(special, special)
    return result.get("value")


def _exception_text(details: Mapping[str, Any]) -> str:
    exception = details.get("exception", {})
    return str(exception.get("description") or exception.get("value") or details.get("text", "no message"))
