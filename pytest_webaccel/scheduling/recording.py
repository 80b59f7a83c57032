"""What the controller keeps of a run: one row a test, and the rows that workers send or leave behind."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest

from pytest_webaccel import __version__
from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.faults.plans import meaningless
from pytest_webaccel.markers import check, requirement
from pytest_webaccel.rows import LaneRow, RecoveryRow, Row, RunRow, TestRow, decode_row, now
from pytest_webaccel.scheduling.lanes import lane_of, weakest
from pytest_webaccel.scheduling.session import LANE_PROPERTY, SessionInfo
from pytest_webaccel.terms import ACCELERATED, Browser, Evidence, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pytest_webaccel.terms import FaultPlan, ProbeResult

__all__ = ["FAMILY_PROPERTY", "Recorder", "introduce"]

#: Report property with the model families of a test's marker.
FAMILY_PROPERTY = "webaccel_family"

_RAN = frozenset({"passed", "failed", "xfailed", "xpassed", "crashed"})


class Recorder:
    """Collects a run's rows, each one once, and says at the end what it amounts to."""

    def __init__(self, session: SessionInfo) -> None:
        self.session = session
        self.used = False
        self.undecodable = 0
        self._started_at = now()
        self._rows: dict[str, Row] = {}
        self._tests: dict[str, _Test] = {}

    # -- what comes in -----------------------------------------------------------------------

    def report(self, report: pytest.TestReport) -> None:
        """Take one phase of one test; ``when`` is ``???`` for a test whose worker died."""
        properties = [(str(name), value) for name, value in report.user_properties]
        if not any(name.startswith("webaccel_") for name, _ in properties) and lane_of(report.nodeid) is None:
            return
        self.used = True
        test = self._tests.setdefault(report.nodeid, _Test(report.nodeid, _worker_of(report)))
        test.worker = _worker_of(report)  # a test whose worker died may have been run again by another
        test.add(report)
        for name, value in properties:
            if name == LANE_PROPERTY:
                test.lane = "" if value == "none" else str(value)
            elif name == FAMILY_PROPERTY:
                test.family = str(value)
            elif name.startswith("webaccel_"):
                self.texts([str(value)])

    def texts(self, texts: Iterable[str]) -> None:
        """Take encoded rows; what is none is counted and left out."""
        for text in texts:
            try:
                row = decode_row(text)
            except ValueError:
                self.undecodable += 1
            else:
                self._rows[row.row_id] = row

    def gather(self) -> None:
        """Take what came outside reports: this process's own rows, and what workers left in their spools."""
        self.texts(self.session.loose)
        if self.session.folder is None or not self.session.folder.is_dir():
            return
        from pytest_webaccel.history.spool import scan_spool

        for path in sorted(self.session.folder.glob("*.jsonl")):
            contents = scan_spool(path)
            self.undecodable += contents.invalid
            for row in contents.rows:
                self._rows.setdefault(row.row_id, row)
        from pytest_webaccel.scheduling.revival import orphans

        for orphan in orphans(self._rows.values()):
            self._rows.setdefault(orphan.row_id, orphan)

    # -- what comes out ----------------------------------------------------------------------

    def rows(self, exit_status: int) -> list[Row]:
        """Return every row of the run, with its own and those of its tests."""
        lanes = [row for row in self._rows.values() if isinstance(row, LaneRow)]
        evidence = {row.lane: row.evidence for row in lanes}
        if self.session.probed:
            evidence |= {str(probe.lane): probe.evidence for probe in self.session.table}
        tests = [test.row(self.session.run_id, evidence) for test in self._tests.values()]
        return [self._run_row(lanes, exit_status), *tests, *self._rows.values()]

    def nothing_accelerated(self, *, narrowed: bool) -> str:
        """Return why a run that looks green proves nothing about acceleration; empty when it does.

        ``narrowed`` says that the user picked tests by ``-k`` or by id: with accelerated lanes at
        hand, that is a choice.
        """
        settings = self.session.settings
        if not self.used or self._accelerated():
            return ""
        explicit = settings.lanes if settings.lanes is not None else ()
        if explicit and not any(lane.accelerated and lane.browser is not Browser.FAKE for lane in explicit):
            return ""
        if settings.backends is not None and not ACCELERATED & set(settings.backends):
            return ""
        if settings.browsers == (Browser.FAKE,):
            return ""
        working = [probe for probe in self.session.table if probe.works and probe.lane.accelerated]
        if narrowed and working:
            return ""
        return (
            "nothing accelerated ran: no test was run on a WebGPU or WebNN lane, so this run is not green. "
            "`python -m pytest_webaccel doctor` shows what this machine can do; --webaccel-backend=cpu says that "
            "WebAssembly alone is meant."
        )

    def nobody_suffers(self) -> str:
        """Return why the run's faults struck nothing, where no lane that tests ran on can suffer any of them.

        Each is then in the record as ``unknown``. Empty where one lane can, where none was asked for, or none used.
        """
        plans, ran = self.session.settings.faults, {test.lane for test in self._tests.values() if test.ran}
        probes = [probe for probe in self.session.table if str(probe.lane) in ran]
        found = [(plan, probe, meaningless(plan.fault, probe)) for plan in plans for probe in probes]
        if not found or any(reason is None for *_, reason in found):
            return ""
        for plan, probe, reason in found:
            row = never_caused(self.session, plan, probe, str(reason))
            self._rows[row.row_id] = row
        told = "; ".join(f"{plan.fault} has no meaning on {probe.lane}: {reason}" for plan, probe, reason in found)
        return (
            f"--webaccel-fault: no fault was caused, since no lane of this run can suffer one. {told}. Name other "
            "faults, or other lanes with --webaccel-lanes."
        )

    def _accelerated(self) -> bool:
        """Whether a test ran on a WebGPU or WebNN lane: its own, or one that it took from the pool."""
        tests = self._tests.values()
        if any(test.accelerated for test in tests):
            return True
        pooled = any(not test.lane and test.ran for test in tests)
        used = (lane_of(f"[{getattr(row, 'lane', '')}]") for row in self._rows.values())
        return pooled and any(lane is not None and lane.accelerated for lane in used)

    def _run_row(self, lanes: list[LaneRow], exit_status: int) -> RunRow:
        settings = self.session.settings
        missing = {}
        if self.session.probed:
            missing = {str(probe.lane): probe.reason for probe in self.session.table if not probe.works}
        grades = [row.evidence for row in lanes]
        if not grades and self.session.probed:
            grades = [probe.evidence for probe in self.session.table if probe.works]
        versions: dict[str, Any] = {
            "plugin": __version__,
            "pytest": pytest.__version__,
            "python": sys.version.split()[0],
            "browsers": {row.lane: row.browser_version for row in lanes},
            "engine": _engine_version(settings.ort),
            "xdist": _version("pytest-xdist"),
            "missing_lanes": missing,
        }
        return RunRow(
            run_id=self.session.run_id,
            row_id=self.session.run_id,
            evidence=weakest(grades) if grades else Evidence.SOFTWARE,
            started_at=self._started_at,
            finished_at=now(),
            mode=settings.mode,
            seed=settings.seed,
            versions=versions,
            host=platform.node(),
            exit_status=exit_status,
        )


def never_caused(session: SessionInfo, plan: FaultPlan, probe: ProbeResult, reason: str) -> RecoveryRow:
    """Return the row of a fault that was asked for and could not be."""
    return RecoveryRow(
        run_id=session.run_id,
        evidence=probe.evidence,
        test_id="",
        lane=str(probe.lane),
        fault=str(plan.fault),
        strategy=str(plan.recovery or session.settings.recovery),
        outcome=str(Outcome.UNKNOWN),
        total_ms=0.0,
        detect_ms=0.0,
        reassign_ms=0.0,
        load_ms=0.0,
        restore_ms=0.0,
        replay_ms=0.0,
        attempts=0,
        duplicated=0,
        lost=0,
        point=str(plan.at),
        detail=f"never caused: {reason}",
    )


def introduce(item: pytest.Item, *, uses: bool) -> None:
    """Note a test's lane and family for the record; fail it, alone, for markers that cannot be meant."""
    problem = family = ""
    try:
        check(item)
        family = requirement(item).family
    except ConfigurationError as error:
        problem = str(error)
    if problem:
        pytest.fail(problem, pytrace=False)
    if uses:
        item.user_properties.append((LANE_PROPERTY, str(lane_of(item.nodeid) or "none")))
        if family:
            item.user_properties.append((FAMILY_PROPERTY, family))


class _Test:
    """One test as its phases come in."""

    def __init__(self, test_id: str, worker: str) -> None:
        self.test_id = test_id
        self.worker = worker
        self.lane = str(lane_of(test_id) or "")
        self.family = ""
        self._outcome = ""
        self._reason = ""
        self._seconds = 0.0

    @property
    def accelerated(self) -> bool:
        """Whether it ran on a WebGPU or WebNN lane."""
        lane = lane_of(self.test_id)
        return lane is not None and lane.accelerated and self.ran

    @property
    def ran(self) -> bool:
        """Whether it got as far as its own code."""
        return self._outcome in _RAN

    def add(self, report: pytest.TestReport) -> None:
        """Take one phase; the worst outcome stays."""
        self._seconds += report.duration
        if report.when not in {"setup", "call", "teardown"}:
            self._outcome, self._reason = "crashed", _reason(report)
        elif report.failed:
            self._outcome = "failed" if report.when == "call" else "error"
            self._reason = _reason(report)
            if hasattr(report, "wasxfail"):
                self._outcome = "failed"
        elif report.skipped:
            self._outcome = "xfailed" if hasattr(report, "wasxfail") else "skipped"
            self._reason = getattr(report, "wasxfail", "") or _reason(report)
        elif report.when == "call" and self._outcome == "":
            self._outcome = "xpassed" if hasattr(report, "wasxfail") else "passed"

    def row(self, run_id: str, evidence: dict[str, Evidence]) -> TestRow:
        """Return the finished row."""
        return TestRow(
            run_id=run_id,
            row_id=f"{run_id}.{self.test_id}",
            evidence=evidence.get(self.lane, Evidence.SOFTWARE),
            test_id=self.test_id,
            lane=self.lane,
            worker=self.worker,
            outcome=self._outcome or "interrupted",
            duration_ms=self._seconds * 1000,
            family=self.family,
            reason=self._reason[:1000],
        )


def _reason(report: pytest.TestReport) -> str:
    longrepr = report.longrepr
    if isinstance(longrepr, tuple):
        return str(longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else longrepr or "").strip()


def _worker_of(report: pytest.TestReport) -> str:
    node = getattr(report, "node", None)
    return str(node.gateway.id) if node is not None else "main"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _engine_version(copies: Sequence[Path]) -> str:
    from pytest_webaccel.browsers.install.ort import ort_dist, ort_version
    from pytest_webaccel.errors import WebAccelError

    try:
        return f"onnxruntime-web {', '.join(ort_version(ort_dist(copy)) for copy in copies or (None,))}"
    except WebAccelError:
        return ""
