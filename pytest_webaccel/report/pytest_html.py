"""Glue with pytest-html: our section, what happened to each test, and tests whose worker crashed.

Register with :func:`register`; nothing happens where pytest-html is absent or writes no report.
Only the controller has such a report.
"""

from __future__ import annotations

import copy
from html import escape
from typing import TYPE_CHECKING, Any

import pytest

from pytest_webaccel.errors import WebAccelError
from pytest_webaccel.history.columns import row_problem
from pytest_webaccel.report.data import ReportData
from pytest_webaccel.report.extra import test_extra
from pytest_webaccel.report.section import section
from pytest_webaccel.rows import Row, decode_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


__all__ = ["HtmlReport", "register"]

#: What pytest-xdist writes in place of a phase when a worker died in a test.
_CRASH = "???"


def register(config: pytest.Config, collect: Callable[[], ReportData]) -> HtmlReport | None:
    """Register an :class:`HtmlReport` where pytest-html will write a report, and return it."""
    wanted = config.pluginmanager.hasplugin("html") and config.getoption("htmlpath", None)
    if not wanted or hasattr(config, "workerinput"):
        return None
    plugin = HtmlReport(collect)
    config.pluginmanager.register(plugin, "webaccel-html")
    return plugin


class HtmlReport:
    """Hooks that add to pytest-html's report; ``collect`` gives the run's data when it ends."""

    def __init__(self, collect: Callable[[], ReportData]) -> None:
        self._collect = collect
        self._data: ReportData | None = None
        self._crashes: list[pytest.TestReport] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Show what happened to the test; keep a crash for the end, when its spool has been read."""
        if report.when == _CRASH:
            self._crashes.append(report)
        elif report.when == "teardown":
            # By teardown every fixture has spoken, so the report's properties are complete.
            _show(report, _rows(report.user_properties))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand the crashed tests to pytest-html, which by itself drops them."""
        for report in self._crashes:
            self._hand_over(session.config, report)
        self._crashes.clear()

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, postfix: list[str]) -> None:
        """Put the section under pytest-html's own summary."""
        postfix.append(section(self._gathered()))

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_html_results_table_row(self, report: pytest.TestReport, cells: list[str]) -> None:
        """Escape the test id, which pytest-html writes into the page as it is."""
        name = report.nodeid if report.when == "call" else f"{report.nodeid}::{report.when}"
        raw = f'<td class="col-testId">{name}</td>'
        cells[:] = [f'<td class="col-testId">{escape(name)}</td>' if cell == raw else cell for cell in cells]

    def _gathered(self) -> ReportData:
        if self._data is None:
            try:
                self._data = self._collect()
            except WebAccelError as error:
                # The page of everybody's results must not be lost with ours.
                self._data = ReportData(notes=(f"There is no record of this run: {error}",))
        return self._data

    def _hand_over(self, config: pytest.Config, report: pytest.TestReport) -> None:
        """Give pytest-html, and nothing else, the phases that it waits for before it shows a test."""
        manager = config.pluginmanager
        others = [plugin for plugin in manager.get_plugins() if not type(plugin).__module__.startswith("pytest_html.")]
        show = manager.subset_hook_caller("pytest_runtest_logreport", others)
        call, teardown = copy.copy(report), copy.copy(report)
        call.when, teardown.when = "call", "teardown"
        teardown.outcome, teardown.longrepr, teardown.sections = "passed", None, []
        _show(call, self._gathered().of_test(report.nodeid))
        show(report=call)
        show(report=teardown)


def _show(report: pytest.TestReport, rows: Sequence[Row]) -> None:
    """Attach what happened to the test to its report."""
    html = test_extra(rows)
    if html:
        from pytest_html import extras

        held: list[Any] = list(getattr(report, "extras", []))
        report.extras = [*held, extras.html(html)]  # type: ignore[attr-defined]


def _rows(properties: Sequence[tuple[str, object]]) -> list[Row]:
    """Return the rows among a report's properties; what is none belongs to someone else."""
    found: dict[str, Row] = {}
    for name, value in properties:
        if str(name).startswith("webaccel_") and isinstance(value, str):
            try:
                row = decode_row(value)
            except ValueError:
                continue
            if not row_problem(row):
                found[row.row_id] = row
    return list(found.values())
