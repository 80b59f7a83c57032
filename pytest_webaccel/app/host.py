"""The browser in which an app is shown for one test, the way to its server, and the server where it is ours.

Everything here runs in the worker's loop. The browser is one of its own, beside those of the pool, since a port is
open in it through which Playwright joins, and with it every user of this machine could.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from pytest_webaccel.app.network import AppNetwork
from pytest_webaccel.app.server import AppServer
from pytest_webaccel.app.target import AppTarget
from pytest_webaccel.browsers.attach import Attachable, attachable
from pytest_webaccel.errors import BrowserError, LaneUnavailableError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from pytest_webaccel.app.source import Source
    from pytest_webaccel.browsers.locate import Installation
    from pytest_webaccel.terms import ProbeResult

__all__ = ["MARK", "AppHost"]

#: Variable of a page's script by which a tab that was just opened is told from others.
MARK = "globalThis.__webaccelTab"

_CONNECT_S = 10.0
_START_S = 60.0
_OPEN_S = 20.0
_END_S = 20.0


class AppHost:
    """One app in one browser.

    ``ort`` finds the run's copy of onnxruntime-web, None where there is none; ``chance`` draws what faults of the
    network leave open.
    """

    def __init__(
        self,
        source: Source,
        probe: ProbeResult,
        installation: Installation,
        *,
        headed: bool,
        ort: Callable[[], Path | None],
        chance: random.Random,
    ) -> None:
        self.source = source
        self.probe = probe
        self._installation = installation
        self._headed = headed
        self._ort = ort
        self._chance = chance
        self._server: AppServer | None = None
        self._network: AppNetwork | None = None
        self._driver: Attachable | None = None
        self._target: AppTarget | None = None

    @property
    def url(self) -> str:
        """The address of the app."""
        return self.source.url if self._server is None else f"http://127.0.0.1:{self._server.port}/"

    @property
    def driver(self) -> Attachable:
        """The driver of the app's browser; BrowserError before :meth:`start`."""
        if self._driver is None:
            raise BrowserError("the app's browser was not started")
        return self._driver

    @property
    def target(self) -> AppTarget:
        """The app as faults see it; BrowserError before :meth:`start`."""
        if self._target is None:
            raise BrowserError("the app's browser was not started")
        return self._target

    async def start(self) -> None:
        """Serve the app where it is a folder, lay the way to it, start the browser.

        Raises LaneUnavailableError where nothing answers at the app's address, BrowserError where the browser does
        not start. Nothing is left running then.
        """
        try:
            host, port = await self._origin()
            self._network = AppNetwork(host, port, self._chance)
            await self._network.start()
            routes = {(host, port): self._network.port}
            self._driver = attachable(self._installation, headed=self._headed, routes=routes)
            self._target = AppTarget(self._driver, self.probe, self._network)
            await self._driver.start(deadline=_START_S)
        except BaseException:
            await self.end()
            raise

    async def _origin(self) -> tuple[str, int]:
        if self.source.folder is not None:
            self._server = AppServer(self.source.folder, self._ort)
            await self._server.start()
            return "127.0.0.1", self._server.port
        host, port = self.source.host, self.source.port
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError) as error:
            why = str(error) or f"no connection within {_CONNECT_S:g} s"
            raise LaneUnavailableError(
                f"app {self.source}: nothing answers at {host} port {port}: {why}. Start the app's server before the "
                "tests, or give --webaccel-app the folder with the app's files, which is then served here."
            ) from error
        writer.close()
        return host, port

    async def show(self, *, restart: bool = False) -> str:
        """Open a new tab in the place of the one that was there, in a browser that runs; return its mark.

        A browser that ended, or that ``restart`` says to end, is started again, with an empty profile. The tab is
        blank still: whoever joins the browser finds it by the value of :data:`MARK`.
        """
        if restart:
            await self.driver.stop(deadline=_END_S)
        if self.driver.pid is None:
            await self.driver.start(deadline=_START_S)
        self.driver.resume_page()
        await self.driver.open("about:blank?webaccel", deadline=_OPEN_S)
        mark = secrets.token_hex(8)
        await self.driver.evaluate(f"{MARK} = '{mark}'", deadline=_OPEN_S)
        return mark

    async def end(self) -> None:
        """End the browser, the server and every connection; may be called twice."""
        if self._target is not None:
            await self._target.leave()
            await self._target.roll_back_later()
        if self._driver is not None:
            await self._driver.stop(deadline=_END_S)
        if self._network is not None:
            await self._network.stop()
        if self._server is not None:
            await self._server.stop()
