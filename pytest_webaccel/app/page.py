"""The app's page in the hands of a test: an ordinary Playwright page, which outlives its tab and its browser."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from typing import TYPE_CHECKING, Any

from pytest_webaccel.app import script
from pytest_webaccel.app.host import MARK
from pytest_webaccel.errors import BrowserError, ConfigurationError, LaneUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, BrowserContext, Page, Playwright

    from pytest_webaccel.app.host import AppHost

    Call = Callable[..., Any]

__all__ = ["AppPage", "Tab", "missing"]

#: Milliseconds that the app has for its page's load event when a test does not say.
LOAD_MS = 30_000
_ATTACH_MS = 15_000
_FIND_S = 10.0
_CALL_S = 90.0


def missing() -> str:
    """Return what to install where Playwright is not; empty where it is."""
    if importlib.util.find_spec("playwright") is not None:
        return ""
    return "webaccel_page needs Playwright: pip install 'pytest-webaccel[page]' (its browsers are not needed)"


class Tab:
    """What Playwright has of the app: the browser it joined, and the page in it that is the app's.

    ``call`` runs a coroutine in the worker's loop. ``playwright`` is the caller's, and stays running. ``opened`` counts
    the tabs that were opened.
    """

    def __init__(self, host: AppHost, call: Call, playwright: Playwright) -> None:
        self._host = host
        self._call = call
        self._playwright = playwright
        self._browser: Browser | None = None
        self._context: BrowserContext | None = None
        self._endpoint = ""
        self.page: Page | None = None
        self.opened = 0

    @property
    def url(self) -> str:
        """The address of the app."""
        return self._host.url

    def open(self, url: str, *, timeout: float, restart: bool = False) -> Page:
        """Show ``url`` in a new tab, in the place of the one that was there; ``timeout`` is in milliseconds.

        ``restart`` ends the browser before that, so that a new one is started.

        Raises LaneUnavailableError where no page comes of it, with what the browser said.
        """
        mark = self._call(self._host.show(restart=restart), deadline=_CALL_S)
        page = self._find(self._joined(), mark)
        self.page = page
        self.opened += 1
        self._load(page, url, timeout)
        return page

    def close(self) -> None:
        """Leave the browser."""
        from playwright.sync_api import Error

        if self._browser is not None:
            with contextlib.suppress(Error):
                self._browser.close()
            self._browser = self._context = None

    def _joined(self) -> BrowserContext:
        from playwright.sync_api import Error

        endpoint = self._host.driver.endpoint
        if endpoint is None:
            raise BrowserError("the app's browser has no port through which Playwright could join it")
        if endpoint == self._endpoint and self._context is not None:
            return self._context
        self.close()
        try:
            self._browser = self._playwright.chromium.connect_over_cdp(endpoint, timeout=_ATTACH_MS)
        except Error as error:
            raise BrowserError(f"Playwright could not join the app's browser: {error.message}") from error
        self._context, self._endpoint = self._browser.contexts[0], endpoint
        self._context.add_init_script(script.init_script())
        return self._context

    def _find(self, context: BrowserContext, mark: str) -> Page:
        from playwright.sync_api import Error

        def is_it(page: Page) -> bool:
            # A page that crashed, or goes away at this very moment, is another one.
            with contextlib.suppress(Error):
                return bool(page.evaluate(MARK) == mark)
            return False

        until, why = time.monotonic() + _FIND_S, ""
        while time.monotonic() < until and not why:
            for page in reversed(context.pages):
                if page is not self.page and is_it(page):
                    return page
            try:
                context.cookies(self.url)  # Playwright hears of new tabs while it is asked for something
            except Error as error:
                why = f": {error.message}"
        raise BrowserError(f"Playwright does not show the tab that was opened for the app{why}")

    def _load(self, page: Page, url: str, timeout: float) -> None:
        from playwright.sync_api import Error

        try:
            response = page.goto(url, timeout=timeout)
        except Error as error:
            why = error.message.splitlines()[0]
            raise LaneUnavailableError(
                f"app {self._host.source}: its page {url} did not load on {self._host.probe.lane}: {why}"
            ) from error
        if response is not None and response.status >= 400:
            raise LaneUnavailableError(
                f"app {self._host.source}: {url} answered with status {response.status} {response.status_text}".rstrip()
            )


class AppPage:
    """The Playwright page of the app, whichever tab shows it now.

    Everything that a :class:`playwright.sync_api.Page` has is that of the present one. Handlers and routes that a
    test sets are the tab's, and go with it.
    """

    def __init__(self, tab: Tab) -> None:
        self._webaccel_tab = tab

    def webaccel_reopen(self, url: str | None = None, *, restart: bool = False, timeout: float = LOAD_MS) -> Page:
        """Do what a user does whose tab or browser crashed: open the app again; return its new page.

        A browser that is gone, or that ``restart`` says to end, is started again, with an empty profile. ``url`` is by
        default the address of the app, ``timeout`` milliseconds until its load event. Raises LaneUnavailableError
        where no page comes of it.
        """
        return self._webaccel_tab.open(url or self._webaccel_tab.url, timeout=timeout, restart=restart)

    @property
    def webaccel_url(self) -> str:
        """The address of the app."""
        return self._webaccel_tab.url

    @property  # type: ignore[misc]  # of an object it can be read and written; this one is only read
    def __class__(self) -> type:
        """That of the present page, so that ``expect(webaccel_page)`` takes it for what it stands for."""
        return type(self._webaccel_page())

    def __getattr__(self, name: str) -> Any:
        """Return what the present page has under ``name``."""
        return getattr(self._webaccel_page(), name)

    def __repr__(self) -> str:
        """Name the app and the present page."""
        return f"<AppPage of {self._webaccel_tab.url}: {self._webaccel_tab.page!r}>"

    def _webaccel_page(self) -> Page:
        page = self._webaccel_tab.page
        if page is None:
            raise ConfigurationError("the app's page is not open")
        return page
