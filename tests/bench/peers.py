"""Peers that stand beside ours in a benchmark, used as their own documentation shows."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, Self

from pytest_webaccel.pool.worker import installation_of

if TYPE_CHECKING:
    from pytest_webaccel.terms import ProbeResult


class PlaywrightPage(contextlib.AbstractContextManager["PlaywrightPage"]):
    """A page of the same browser build, launched and driven by Playwright's synchronous API."""

    def __init__(self, probe: ProbeResult) -> None:
        self._installation = installation_of(probe)

    def __enter__(self) -> Self:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path=str(self._installation.executable),
            env={**os.environ, **self._installation.environment},
            chromium_sandbox=False,
        )
        self._page = self._browser.new_page()
        self._page.goto("about:blank")
        return self

    def __exit__(self, *error: object) -> None:
        self._browser.close()
        self._playwright.stop()

    def round_trips(self, n: int) -> list[float]:
        return self._timed(lambda: self._page.evaluate("value => value", 1), n)

    def transfers(self, floats: int, n: int) -> list[float]:
        """An array there and back, as JSON: the only way that ``evaluate`` has."""
        data = [float(index) for index in range(floats)]
        return self._timed(lambda: self._page.evaluate("data => data", data), n)

    def contexts(self, n: int) -> list[float]:
        """A new context and page, which is what pytest-playwright's ``page`` fixture makes for each test."""

        def fresh() -> None:
            context = self._browser.new_context()
            context.new_page()
            contexts.append(context)

        contexts: list[Any] = []
        times = self._timed(fresh, n)
        for context in contexts:
            context.close()
        return times

    @staticmethod
    def _timed(work: Any, n: int) -> list[float]:
        times = []
        for _ in range(n):
            begun = time.perf_counter()
            work()
            times.append((time.perf_counter() - begun) * 1000)
        return times
