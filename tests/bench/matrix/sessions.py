"""Trials that need a pytest of their own: ``worker_restart``, ``worker_crash``, and the peers as they come.

Each starts pytest as a user would, on files written for it, and reads what came of it from the database that the
plugin writes, or from notes that the tests leave.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pytest_webaccel.pool.worker import installation_of
from tests.bench.matrix.design import Arm
from tests.bench.matrix.ours import BUDGET_S, PATIENCE_S, SILENT, base
from tests.bench.matrix.site import Site, peer_arguments
from tests.bench.matrix.state import FAILED, RECOVERED, VOID, Result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_webaccel.terms import ProbeResult
    from tests.bench.matrix.design import Trial

__all__ = ["BATCH", "Peers", "Restarts", "missing"]

ROOT = Path(__file__).parents[3]
#: Trials of one cell in one session of ours: each ends a worker, and pytest starts but once.
BATCH = 5
_STARTS_S = 60.0
_TEST_S = 30.0
#: Seconds that a session of a peer has; one that hangs is ended then.
_HANG_S = 40.0
#: Tests of a peer's session that come after the one that is struck.
LATER = 4

_OURS = """
import pytest
from tests.bench.matrix.work import Work, model, wrong
"""
_OUR_TEST = """
@pytest.mark.fault({fault!r}, recovery={strategy!r}, at={point!r})
def test_{index}(webaccel):
    work = Work.drawn({key!r})
    answer = webaccel.run(webaccel.load(model()), {{"x": work.x}}, expect={{"y": work.y}})
    assert not wrong(work, answer["y"])
"""

_CONFTEST = """
import json, os, time
import pytest

GIVEN = json.loads(os.environ["BENCH_GIVEN"])

def note(**what):
    with open(GIVEN["notes"], "a") as file:
        file.write(json.dumps({"at": time.time(), **what}) + "\\n")

@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    return {**browser_type_launch_args, **GIVEN["launch"], "env": {**os.environ, **GIVEN["environment"]}}

def pytest_runtest_logreport(report):
    if "PYTEST_XDIST_WORKER" not in os.environ and (report.when == "call" or report.outcome != "passed"):
        note(test=report.nodeid.rpartition("::")[2].partition("[")[0], outcome=report.outcome)
"""
_PEER = """
import os, signal
import numpy, psutil, pytest
from conftest import GIVEN, note
from tests.bench.matrix.work import CLASSES, ROWS, Work, wrong

WORK = Work.drawn(GIVEN["key"])
X = WORK.x.ravel().tolist()

def prepared(page):
    page.goto(GIVEN["url"])
    page.wait_for_function("window.ready")
    page.evaluate("load()")
    page.evaluate("x => run(x)", X)

def right(y):
    return not wrong(WORK, numpy.reshape(y, (ROWS, CLASSES)))

def processes(page, kind):
    session = page.context.browser.new_browser_cdp_session()
    there = session.send("SystemInfo.getProcessInfo")["processInfo"]
    return [one["id"] for one in there if one["type"].lower() == kind]

def cause(page):
    fault = GIVEN["fault"]
    if fault == "browser_crash":
        for process in psutil.process_iter(["cmdline"]):
            if GIVEN["token"] in (process.info["cmdline"] or []):
                for one in [*process.children(recursive=True), process]:
                    one.kill()
                break
    elif fault == "page_crash":
        page.goto("chrome://crash")
    elif fault == "device_lost":
        for pid in processes(page, "gpu"):
            os.kill(pid, signal.SIGKILL)
    elif fault == "component_timeout":
        for pid in processes(page, "renderer"):
            os.kill(pid, signal.SIGSTOP)
    elif fault == "worker_crash":
        os.kill(os.getpid(), signal.SIGKILL)

def test_struck(page):
    prepared(page)
    note(attempt=1)
    if not os.path.exists(GIVEN["mark"]):
        open(GIVEN["mark"], "w").close()
        page.evaluate("x => begin(x)", X)
        note(fault=1)
        cause(page)
        y = page.evaluate("finish()")
    else:
        y = page.evaluate("x => run(x)", X)
    assert right(y)
    note(answered=1)

@pytest.mark.parametrize("index", range(GIVEN["later"]))
def test_later(page, index):
    prepared(page)
    assert right(page.evaluate("x => run(x)", X))
    note(later=1)
"""


def missing(arm: str) -> str:
    """Return which package an arm lacks here; empty where it lacks none."""
    wanted = {
        Arm.AS_IT_COMES: ("pytest_playwright", "pytest_rerunfailures"),
        Arm.XDIST: ("pytest_playwright", "xdist"),
        Arm.XDIST_RERUN: ("pytest_playwright", "pytest_rerunfailures", "xdist"),
        Arm.WORKER_RESTART: ("xdist",),
        Arm.RERUN: ("playwright",),
        Arm.NEW_PAGE: ("playwright",),
    }
    absent = [name for name in wanted.get(arm, ()) if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} is not installed (dependency groups test and bench)" if absent else ""


class Restarts:
    """Runs trials in which the worker of a pytest session of ours ends and is replaced."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def run(self, trials: Sequence[Trial]) -> list[Result]:
        """Return what the trials, all of one cell, came to: one session, a test for each."""
        cell = trials[0].cell
        tests = [
            _OUR_TEST.format(fault=cell.fault, strategy=cell.strategy, point=cell.point, index=index, key=trial.key)
            for index, trial in enumerate(trials)
        ]
        with tempfile.TemporaryDirectory(prefix="bench-restart-") as name:
            folder, database = Path(name), Path(name) / "rows.duckdb"
            (folder / "test_restart.py").write_text(_OURS + "".join(tests))
            said, _ = _pytest(
                folder,
                [
                    *("-n", "1", "--dist", "load", f"--max-worker-restart={2 * len(trials)}"),
                    *(f"--webaccel-lanes={cell.lane}", f"--webaccel-db={database}"),
                    *(f"--webaccel-seed={self._seed + trials[0].number}", f"--webaccel-recovery-budget={BUDGET_S:g}"),
                    *("-p", "no:rerunfailures", "-p", "no:playwright"),
                ],
                {},
                _STARTS_S + _TEST_S * len(trials),
            )
            rows = _rows(database)
        return [self._result(trial, rows.get(index), said) for index, trial in enumerate(trials)]

    @staticmethod
    def _result(trial: Trial, row: Mapping[str, Any] | None, said: str) -> Result:
        if row is None:
            return Result(**base(trial), outcome=VOID, detail=f"no row: {said[-250:]}")
        silent = trial.cell.fault in SILENT
        names = ("total_ms", "undisturbed_ms", "detect_ms", "reassign_ms", "load_ms", "restore_ms", "replay_ms")
        times: dict[str, Any] = {name: row[name] or 0.0 for name in names}
        return Result(
            **base(trial),
            **times,
            outcome=RECOVERED if row["outcome"] == RECOVERED else FAILED,
            deadline_ms=min(PATIENCE_S * 1000, row["detect_ms"]) if silent else 0.0,
            attempts=row["attempts"],
            duplicated=row["duplicated"],
            lost=row["lost"],
            rungs=row["rungs"],
            symptom=row["symptom"],
            variant=trial.cell.fault,
            detail=row["detail"][:300],
            evidence=row["evidence"],
            budget_ms=BUDGET_S * 1000,
        )


class Peers:
    """Runs trials of pytest-playwright with pytest-rerunfailures and pytest-xdist, as they come."""

    def __init__(self, table: Sequence[ProbeResult]) -> None:
        self._probes = {str(probe.lane): probe for probe in table}

    def run(self, trial: Trial) -> Result:
        """Return what one session came to: a test that is struck, and those that come after it."""
        site = Site()
        try:
            with tempfile.TemporaryDirectory(prefix="bench-peer-") as name:
                notes, said, hung = self._session(trial, site, Path(name))
        finally:
            site.stop()
        return self._result(trial, notes, said, hung=hung)

    def _session(self, trial: Trial, site: Site, folder: Path) -> tuple[list[dict[str, Any]], str, bool]:
        cell, token = trial.cell, f"--bench-peer={uuid.uuid4().hex}"
        installation = installation_of(self._probes[cell.lane])
        notes = folder / "notes.jsonl"
        given = {
            "notes": str(notes),
            "mark": str(folder / "struck"),
            "key": trial.key,
            "url": site.url(cell.lane),
            "fault": cell.fault,
            "token": token,
            "later": LATER,
            "environment": dict(installation.environment),
            "launch": {
                "executable_path": str(installation.executable),
                "args": [*peer_arguments(), token],
                "chromium_sandbox": False,
            },
        }
        (folder / "conftest.py").write_text(_CONFTEST)
        (folder / "test_peer.py").write_text(_PEER)
        arguments = ["-p", "no:webaccel", "--browser", "chromium"]
        arguments += [] if cell.strategy == Arm.AS_IT_COMES else ["-n", "1"]
        arguments += ["-p", "no:rerunfailures"] if cell.strategy == Arm.XDIST else ["--reruns", "2"]
        said, hung = _pytest(folder, arguments, {"BENCH_GIVEN": json.dumps(given)}, _HANG_S)
        _end(token)
        lines = notes.read_text().splitlines() if notes.exists() else []
        return [json.loads(line) for line in lines], said, hung

    def _result(self, trial: Trial, notes: Sequence[Mapping[str, Any]], said: str, *, hung: bool) -> Result:
        fault_at = next((note["at"] for note in notes if "fault" in note), None)
        if fault_at is None:
            return Result(**base(trial), outcome=VOID, detail=f"the fault was never caused: {said[-250:]}")
        answered_at = next((note["at"] for note in notes if "answered" in note), None)
        later = sum("later" in note for note in notes)
        detail = f"hung until it was ended after {_HANG_S:g} s" if hung else ""
        if answered_at is None and not hung:
            outcomes = [note["outcome"] for note in notes if note.get("test") == "test_struck"]
            detail = f"the struck test ended as: {', '.join(outcomes) or 'crashed'}"
        return Result(
            **base(trial),
            outcome=FAILED if answered_at is None else RECOVERED,
            total_ms=((answered_at or fault_at) - fault_at) * 1000,
            attempts=sum("attempt" in note for note in notes),
            rungs=trial.cell.strategy,
            variant=trial.cell.fault,
            later=f"{later} of {LATER} later tests passed",
            detail=detail,
            evidence=str(self._probes[trial.cell.lane].evidence),
            budget_ms=_HANG_S * 1000,
        )


def _pytest(folder: Path, arguments: list[str], environment: Mapping[str, str], limit_s: float) -> tuple[str, bool]:
    """Run pytest in ``folder``; return what it said, and whether it had to be ended."""
    given = [str(Path(part).resolve()) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    paths = [str(ROOT), *given]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *arguments, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return _killed(process), True
    except BaseException:
        _killed(process)
        raise
    return said, False


def _killed(process: subprocess.Popen[str]) -> str:
    """End a session and all that it started; return what it had said."""
    family = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for one in family:
        with contextlib.suppress(psutil.Error):
            one.kill()
    return process.communicate(timeout=10)[0]


def _end(token: str) -> None:
    """End the browsers that a session left behind."""
    for process in psutil.process_iter(["cmdline"]):
        if token in (process.info["cmdline"] or []):
            with contextlib.suppress(psutil.Error):
                for one in [*process.children(recursive=True), process]:
                    one.kill()


def _rows(database: Path) -> dict[int, dict[str, Any]]:
    """Return the recoveries of a session by the number of their test."""
    import duckdb

    if not database.exists():
        return {}
    with duckdb.connect(str(database), read_only=True) as connection:
        found = connection.execute('select * from recoveries order by "at"')
        names = [column[0] for column in found.description or ()]
        rows = [dict(zip(names, values, strict=True)) for values in found.fetchall()]
    return {int(row["test_id"].rpartition("::test_")[2].partition("[")[0]): row for row in rows}
