"""pytest's and xdist's hooks, and nothing else.

Every pytest run loads this module, so it imports next to nothing; what a hook needs, it imports when it
first has something to do.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from pytest_webaccel import declarations, hookspecs
from pytest_webaccel.fixtures import (
    _webaccel_app_lease,
    _webaccel_apps,
    _webaccel_item,
    _webaccel_lease,
    _webaccel_worker,
    _webaccel_workers,
    webaccel,
    webaccel_app,
    webaccel_faults,
    webaccel_lane,
    webaccel_ort,
    webaccel_page,
    webaccel_pool,
    webaccel_strategy,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from pytest_webaccel.report.data import ReportData
    from pytest_webaccel.scheduling.recording import Recorder
    from pytest_webaccel.scheduling.revival import Revivals

__all__ = [
    "_webaccel_app_lease",
    "_webaccel_apps",
    "_webaccel_item",
    "_webaccel_lease",
    "_webaccel_worker",
    "_webaccel_workers",
    "webaccel",
    "webaccel_app",
    "webaccel_faults",
    "webaccel_lane",
    "webaccel_ort",
    "webaccel_page",
    "webaccel_pool",
    "webaccel_strategy",
]

_DISTRIBUTION = "webaccel-distribution"
_ROWS_OUTPUT = "webaccel_rows"
_PREFIX = "webaccel"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the group ``webaccel``."""
    declarations.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hooks of :mod:`pytest_webaccel.hookspecs`."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register markers and the hooks of this process; refuse settings that cannot be meant."""
    for line in declarations.MARKERS:
        config.addinivalue_line("markers", line)
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(_Worker(config), "webaccel-worker")
        return
    if declarations.any_given(config):
        from pytest_webaccel.scheduling.session import session_of

        session_of(config)
    config.pluginmanager.register(_Controller(config), "webaccel-controller")
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Distribution(config), _DISTRIBUTION)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With ``--webaccel-doctor``, say what works here instead of running tests."""
    if hasattr(config, "workerinput") or not declarations.any_given(config):
        return None
    from pytest_webaccel.scheduling.session import session_of

    if not session_of(config).settings.doctor:
        return None
    from pytest_webaccel.browsers.doctor import examine

    found = examine()
    print(found.to_text())  # noqa: T201 - this is what the flag is for
    return 0 if found.healthy else 1


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests that use a lane one item for each lane that fits."""
    if "webaccel_lane" in metafunc.fixturenames or "webaccel_ort" in metafunc.fixturenames:
        from pytest_webaccel.scheduling.parametrization import generate

        generate(metafunc)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse markers that cannot be meant, for this test alone; note the lane for the record."""
    uses = any(name.startswith(_PREFIX) for name in getattr(item, "fixturenames", ()))
    if uses or item.get_closest_marker("webaccel") or item.get_closest_marker("fault"):
        from pytest_webaccel.scheduling.recording import introduce

        introduce(item, uses=uses)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let fixtures know whether the test's own part went well."""
    report = yield
    if report.when == "call":
        item.stash[declarations.PASSED_KEY] = report.passed
    return report


class _Controller:
    """Hooks of the process that reports: without xdist it is the one that runs the tests, too."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.messages: list[str] = []
        self.lines: list[str] = []
        self.exit_status = 0
        # Only where there is a page to add to: the import takes longer than all else here.
        if config.getoption("htmlpath", None):
            from pytest_webaccel.report import pytest_html

            pytest_html.register(config, self._data)

    @functools.cached_property
    def recorder(self) -> Recorder:
        """What keeps the run, made for the first report that concerns us."""
        from pytest_webaccel.scheduling.recording import Recorder
        from pytest_webaccel.scheduling.session import session_of

        return Recorder(session_of(self.config))

    @property
    def _used(self) -> bool:
        return "recorder" in self.__dict__ and self.recorder.used

    def pytest_report_header(self) -> list[str] | None:
        """Say what lanes there are, where workers will need them: xdist's controller collects nothing itself."""
        distribution = self.config.pluginmanager.get_plugin(_DISTRIBUTION)
        return self._lanes() if distribution is not None and distribution.used else None

    def pytest_report_collectionfinish(self) -> list[str] | None:
        """Say what lanes there are, once a collected test has had them looked for."""
        from pytest_webaccel.declarations import SESSION_MADE_KEY

        session = self.config.stash.get(SESSION_MADE_KEY, None)
        return self._lanes() if session is not None and session.probed and self.config.get_verbosity() >= 0 else None

    def _lanes(self) -> list[str]:
        from pytest_webaccel.scheduling.lanes import summary
        from pytest_webaccel.scheduling.session import session_of

        session = session_of(self.config)
        return [f"webaccel: {summary(session.table)}", f"webaccel: seed {session.settings.seed}"]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep every phase of a test that has to do with us; one whose worker died says so by its id alone."""
        named = any(str(name).startswith(_PREFIX) for name, _ in report.user_properties)
        if named or (report.when not in {"setup", "call", "teardown"} and "[" in report.nodeid):
            self.recorder.report(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take the rows that a worker had no report for."""
        if rows := getattr(node, "workeroutput", {}).get(_ROWS_OUTPUT, ()):
            self.recorder.texts(rows)

    def pytest_keyboard_interrupt(self) -> None:
        """Have what the end of an interrupted test still tells kept, since no report will carry it."""
        session = self.config.stash.get(declarations.SESSION_MADE_KEY, None)
        if session is not None:
            session.interrupted = True

    @pytest.hookimpl(wrapper=True, trylast=True)  # inside the terminal's own wrapper, which prints our summary
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Iterator[None]:
        """Store the run, draw the report, look at the gates; runs after Ctrl-C as well."""
        self.exit_status = int(exitstatus)
        try:
            yield
        finally:
            if self._used or declarations.any_given(self.config):
                self._conclude(session)
            made = self.config.stash.get(declarations.SESSION_MADE_KEY, None)
            if made is not None:
                made.close()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what came of it."""
        if self.lines or self.messages:
            terminalreporter.section("webaccel")
            for line in self.lines:
                terminalreporter.line(line)
            for message in self.messages:
                terminalreporter.line(f"ERROR: {message}", red=True)

    def _data(self) -> ReportData:
        from pytest_webaccel.conclusion import report_data

        return report_data(self.recorder, self.exit_status)

    def _conclude(self, session: pytest.Session) -> None:
        from pytest_webaccel.conclusion import conclude

        self.lines, self.messages = conclude(self.config, self.recorder, self.exit_status)
        if self.messages and session.exitstatus in {0, 5}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


class _Distribution:
    """Hooks of xdist in its controller."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @functools.cached_property
    def used(self) -> bool:
        """Whether workers will have tests on lanes; looked into only where there are workers."""
        if self.config.getoption("dist", "no") == "no" or not self.config.getoption("tx", None):
            return False
        from pytest_webaccel.scheduling.usage import likely

        return declarations.any_given(self.config) or likely(self.config.args)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_setupnodes(self, specs: Sequence[Any]) -> None:
        """Bind workers to lanes before they start; a replacement keeps its predecessor's."""
        if self.used:
            from pytest_webaccel.scheduling.binding import bind_workers

            bind_workers(self.config, specs)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker what run it is part of, and the lanes as they were probed."""
        if self.used:
            from pytest_webaccel.scheduling.session import WORKER_INPUT, session_of

            bound = node.gateway.spec.webaccel
            given = session_of(self.config).for_worker(bound if isinstance(bound, str) else None)
            node.workerinput[WORKER_INPUT] = given

    @functools.cached_property
    def revivals(self) -> Revivals:
        """What is known of workers that died under a test."""
        from pytest_webaccel.scheduling.revival import Revivals
        from pytest_webaccel.scheduling.session import session_of

        return Revivals(self.config, session_of(self.config))

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_testnodedown(self, error: object) -> None:
        """Count workers that were lost, before the scheduler asks whether one more is allowed."""
        if self.used and error is not None:
            self.revivals.losses += 1

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Say why a test whose worker was ended by a planned fault was not run again."""
        if self.used:
            self.revivals.without_scheduler(crashitem)
            if explanation := self.revivals.explanation(crashitem):
                report.longrepr = f"{report.longrepr}: {explanation}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the end of a test that was handed out again."""
        if "revivals" in self.__dict__ and report.when not in {"setup", "call"}:
            self.revivals.ended(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Report what was handed out again and never run; add the rows that no worker wrote."""
        if "revivals" in self.__dict__:
            from pytest_webaccel.scheduling.revival import conclude

            conclude(self.revivals, session, exitstatus)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Hand out tests by lane, unless the user chose another way."""
        if not self.used or config.getoption("dist") not in {"load", "worksteal"}:
            return None
        from pytest_webaccel.history.store import expected_durations
        from pytest_webaccel.scheduling.assignment import LaneScheduling
        from pytest_webaccel.scheduling.session import session_of

        history = expected_durations(session_of(config).settings.db)
        return LaneScheduling(config, log, history, self.revivals.again)


class _Worker:
    """Hooks of an xdist worker."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Iterator[None]:
        """Hand over the rows that belong to no report."""
        yield
        session = self.config.stash.get(declarations.SESSION_MADE_KEY, None)
        if session is not None:
            output: dict[str, Any] = getattr(self.config, "workeroutput", {})
            output[_ROWS_OUTPUT] = list(session.loose)
            session.close()
