"""What a test has of its app: the page, and the faults aimed at it. It ends always, and leaves nothing running."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import random
from typing import TYPE_CHECKING

from pytest_webaccel.app.faults import AppFaults, Belonging
from pytest_webaccel.app.host import AppHost
from pytest_webaccel.app.page import LOAD_MS, AppPage, Tab, missing
from pytest_webaccel.browsers.attach import unattachable
from pytest_webaccel.browsers.install.ort import ort_dist
from pytest_webaccel.errors import BrowserError, InstallError
from pytest_webaccel.pool.worker import installation_of
from pytest_webaccel.rows import LaneRow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Playwright

    from pytest_webaccel.app.source import Source
    from pytest_webaccel.pool.worker import Worker
    from pytest_webaccel.terms import Lane, ProbeResult

__all__ = ["AppLease", "Apps", "objection"]

_START_S = 120.0
_END_S = 60.0


def objection(app: object, probe: ProbeResult) -> str:
    """Return why a test of an app cannot be run on a lane; empty where it can."""
    if app is None:
        return "no app is given: --webaccel-app takes the folder with its index.html, or its address"
    if reason := unattachable(probe.lane.browser):
        return f"webaccel_page is not to be had on {probe.lane}: {reason}"
    return missing()


@dataclasses.dataclass(frozen=True, slots=True)
class AppLease:
    """The app of one test."""

    page: AppPage
    faults: AppFaults


class Apps:
    """Apps of one worker. ``ort`` is the user's own copy of onnxruntime-web, ``seed`` the run's."""

    def __init__(self, worker: Worker, *, headed: bool, ort: Path | None, seed: int) -> None:
        self._worker = worker
        self._headed = headed
        self._ort = ort
        self._seed = seed
        self._noted: set[Lane] = set()

    @contextlib.contextmanager
    def lease(
        self, source: Source, probe: ProbeResult, test_id: str, playwright: Playwright | None
    ) -> Iterator[AppLease]:
        """Show an app in a browser of its own until the block ends.

        ``playwright`` is one that runs in this thread already, since there can be no second; None: one is started.
        Raises LaneUnavailableError where the app's address does not answer or its page does not load.
        """
        worker = self._worker
        host = AppHost(
            source,
            probe,
            installation_of(probe),
            headed=self._headed,
            ort=self._find_ort,
            chance=random.Random(f"network\0{self._seed}\0{test_id}"),
        )
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: worker.call(host.end(), deadline=_END_S))
            worker.call(host.start(), deadline=_START_S)
            self._note(host)
            running = playwright if playwright is not None else stack.enter_context(_playwright())
            tab = Tab(host, worker.call, running)
            # Last in, first out: the browser ends before Playwright is told to leave it, since a page that hangs
            # would not let it go.
            stack.callback(tab.close)
            stack.callback(lambda: worker.call(host.end(), deadline=_END_S))
            tab.open(tab.url, timeout=LOAD_MS)
            page = AppPage(tab)
            belonging = Belonging(worker.run_id, test_id, worker.worker, self._seed)
            faults = AppFaults(host, tab, page, belonging, call=worker.call, record=worker.record)
            stack.callback(faults.roll_back)
            stack.callback(faults.finish)
            yield AppLease(page, faults)

    def _find_ort(self) -> Path | None:
        with contextlib.suppress(InstallError):
            return ort_dist(self._ort)
        return None

    def _note(self, host: AppHost) -> None:
        probe = host.probe
        if probe.lane in self._noted:
            return
        self._noted.add(probe.lane)
        self._worker.record(
            LaneRow(
                run_id=self._worker.run_id,
                evidence=probe.evidence,
                lane=str(probe.lane),
                browser=str(probe.lane.browser),
                browser_version=host.driver.version,
                backend=str(probe.lane.backend),
                adapter=probe.adapter,
                features=list(probe.features),
                worker=self._worker.worker,
                host=platform.node(),
            )
        )


@contextlib.contextmanager
def _playwright() -> Iterator[Playwright]:
    """Run Playwright in this thread until the block ends, and no longer: it would stand in the way of asyncio there."""
    from playwright.sync_api import Error, sync_playwright

    manager = sync_playwright()
    try:
        running = manager.start()
    except Error as error:
        raise BrowserError(
            f"Playwright could not be started in the test's thread: {error.message.strip()} Something else has an "
            "event loop running there: another Playwright, or a plugin for asynchronous tests. With pytest-playwright "
            "its own is used; of others end theirs first, or run such tests in another session."
        ) from error
    try:
        yield running
    finally:
        running.stop()
