"""pytest's and xdist's hooks, and nothing else. Nothing heavy is imported when this module is."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from pytest_webaccel import hookspecs
from pytest_webaccel.errors import ConfigurationError, WebAccelError
from pytest_webaccel.fixtures import (
    _webaccel_item,
    _webaccel_lease,
    _webaccel_worker,
    webaccel,
    webaccel_faults,
    webaccel_pool,
)
from pytest_webaccel.markers import MARKERS, check, requirement
from pytest_webaccel.options import Settings, add_options
from pytest_webaccel.scheduling import parametrization
from pytest_webaccel.scheduling.lanes import lane_of, summary
from pytest_webaccel.scheduling.parametrization import webaccel_lane, webaccel_strategy
from pytest_webaccel.scheduling.recording import FAMILY_PROPERTY, Recorder
from pytest_webaccel.scheduling.session import LANE_PROPERTY, SESSION_KEY, SessionInfo
from pytest_webaccel.scheduling.usage import likely

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_webaccel.report.data import ReportData

__all__ = [
    "_webaccel_item",
    "_webaccel_lease",
    "_webaccel_worker",
    "webaccel",
    "webaccel_faults",
    "webaccel_lane",
    "webaccel_pool",
    "webaccel_strategy",
]

_WORKER_INPUT = "webaccel"
_DISTRIBUTION = "webaccel-distribution"
_ROWS_OUTPUT = "webaccel_rows"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the group ``webaccel``."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hooks of :mod:`pytest_webaccel.hookspecs`."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings, register markers and, in the controller, what records the run."""
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    given = getattr(config, "workerinput", {}).get(_WORKER_INPUT)
    if given is not None:
        session = SessionInfo.of_worker(given, config.workerinput["workerid"])  # type: ignore[attr-defined]
        config.stash[SESSION_KEY] = session
        config.pluginmanager.register(_Worker(session), "webaccel-worker")
        return
    session = SessionInfo.of_controller(_settings(config))
    config.stash[SESSION_KEY] = session
    config.pluginmanager.register(_Controller(config, session), "webaccel-controller")
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Distribution(config, session), _DISTRIBUTION)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With ``--webaccel-doctor``, say what works here instead of running tests."""
    if hasattr(config, "workerinput") or not _settings(config).doctor:
        return None
    from pytest_webaccel.browsers.doctor import examine

    found = examine()
    print(found.to_text())  # noqa: T201 - this is what the flag is for
    return 0 if found.healthy else 1


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests that use a lane one item for each lane that fits."""
    parametrization.generate(metafunc)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse markers that cannot be meant, for this test alone; note the lane for the record."""
    try:
        check(item)
        family = requirement(item).family
    except ConfigurationError as error:
        pytest.fail(str(error), pytrace=False)
    if "webaccel_lane" in getattr(item, "fixturenames", ()):
        item.user_properties.append((LANE_PROPERTY, str(lane_of(item.nodeid) or "none")))
        if family:
            item.user_properties.append((FAMILY_PROPERTY, family))


def _settings(config: pytest.Config) -> Settings:
    try:
        return Settings.from_config(config)
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from error


class _Controller:
    """Hooks of the process that reports: without xdist it is the one that runs the tests, too."""

    def __init__(self, config: pytest.Config, session: SessionInfo) -> None:
        self.config = config
        self.session = session
        self.recorder = Recorder(session)
        self.messages: list[str] = []
        self.lines: list[str] = []
        self.exit_status = 0
        # Only where there is a page to add to: the import takes longer than all else here.
        if config.getoption("htmlpath", None):
            from pytest_webaccel.report import pytest_html

            pytest_html.register(config, lambda: self._data(self.exit_status))

    def pytest_report_header(self) -> list[str] | None:
        """Say what lanes there are, where workers will need them: xdist's controller collects nothing itself."""
        distribution = self.config.pluginmanager.get_plugin(_DISTRIBUTION)
        return self._lanes() if distribution is not None and distribution.used else None

    def pytest_report_collectionfinish(self) -> list[str] | None:
        """Say what lanes there are, once a collected test has had them looked for."""
        return self._lanes() if self.session.probed and self.config.get_verbosity() >= 0 else None

    def _lanes(self) -> list[str]:
        return [f"webaccel: {summary(self.session.table)}", f"webaccel: seed {self.session.settings.seed}"]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep every phase."""
        self.recorder.report(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take the rows that a worker had no report for."""
        self.recorder.texts(getattr(node, "workeroutput", {}).get(_ROWS_OUTPUT, ()))

    @pytest.hookimpl(wrapper=True, trylast=True)  # inside the terminal's own wrapper, which prints our summary
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Iterator[None]:
        """Store the run, draw the report, look at the gates; runs after Ctrl-C as well."""
        self.exit_status = int(exitstatus)
        try:
            yield
        finally:
            self.recorder.texts(self.session.loose)
            self.recorder.spools()
            if self.recorder.used:
                self._finish(session)
            self.session.close()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what came of it."""
        if self.lines or self.messages:
            terminalreporter.section("webaccel")
            for line in self.lines:
                terminalreporter.line(line)
            for message in self.messages:
                terminalreporter.line(f"ERROR: {message}", red=True)

    def _data(self, exit_status: int) -> ReportData:
        from pytest_webaccel.report.data import ReportData

        self.recorder.texts(self.session.loose)
        self.recorder.spools()
        lost = self.recorder.undecodable
        return ReportData.from_rows(
            self.recorder.rows(exit_status),
            probes=self.session.table if self.session.probed else (),
            notes=[f"{lost} rows could not be read and are left out"] if lost else [],
        )

    def _finish(self, session: pytest.Session) -> None:
        from pytest_webaccel.history.store import record
        from pytest_webaccel.report import gates, standalone, terminal

        settings = self.session.settings
        narrowed = bool(self.config.getoption("keyword", "") or self.config.getoption("markexpr", "")) or any(
            "::" in argument for argument in self.config.args
        )
        rows = self.recorder.rows(self.exit_status)
        self.messages += gates.check(rows, min_success=settings.min_success, max_recovery_ms=settings.max_recovery_ms)
        if message := self.recorder.nothing_accelerated(narrowed=narrowed):
            self.messages.append(message)
        status = 1 if self.messages and self.exit_status in {0, 5} else self.exit_status
        rows = self.recorder.rows(status)
        data = self._data(status)
        stored = report = None
        if settings.db is not None:
            try:
                record(settings.db, rows, self.session.run_id)
                stored = settings.db
            except WebAccelError as error:
                self.messages.append(str(error))
        if settings.report is not None:
            try:
                report = standalone.write(data, settings.report)
            except WebAccelError as error:
                self.messages.append(str(error))
        self.lines += terminal.lines(data, database=stored, report=report)
        for more in self.config.hook.pytest_webaccel_summary(data=data):
            self.lines += more or []
        if self.messages and session.exitstatus in {0, 5}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


class _Distribution:
    """Hooks of xdist in its controller."""

    def __init__(self, config: pytest.Config, session: SessionInfo) -> None:
        self.config = config
        self.session = session

    @functools.cached_property
    def used(self) -> bool:
        """Whether workers will have tests on lanes; looked into only where there are workers."""
        distributed = self.config.getoption("dist", "no") != "no" and bool(self.config.getoption("tx", None))
        return distributed and likely(self.config.args, self.session.settings)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_setupnodes(self, specs: Sequence[Any]) -> None:
        """Bind workers to lanes before they start; a replacement keeps its predecessor's."""
        if not self.used:
            return
        from pytest_webaccel.scheduling.binding import bind_specs

        try:
            bind_specs(specs, [probe.lane for probe in self.session.table if probe.works])
        except ConfigurationError as error:
            raise pytest.UsageError(str(error)) from error

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker what run it is part of, and the lanes as they were probed."""
        bound = node.gateway.spec.webaccel
        node.workerinput[_WORKER_INPUT] = self.session.for_worker(
            bound if isinstance(bound, str) else None, spooled=self.used
        )

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Hand out tests by lane, unless the user chose another way."""
        if not self.used or config.getoption("dist") not in {"load", "worksteal"}:
            return None
        from pytest_webaccel.history.store import expected_durations
        from pytest_webaccel.scheduling.assignment import LaneScheduling

        return LaneScheduling(config, log, expected_durations(self.session.settings.db))


class _Worker:
    """Hooks of an xdist worker."""

    def __init__(self, session: SessionInfo) -> None:
        self.session = session

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Hand over the rows that belong to no report."""
        yield
        output: dict[str, Any] = getattr(session.config, "workeroutput", {})
        output[_ROWS_OUTPUT] = list(self.session.loose)
        self.session.close()
