"""Whole sessions on a real browser, through the public flags, markers and fixtures alone."""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ET

import duckdb  # imported before pytester forgets modules: DuckDB cannot be imported twice
import psutil
import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.terms import Browser, Fault
from tests.acceptance.interrupting import interrupted
from tests.models import scaled_sum

pytestmark = pytest.mark.skipif(
    browsers.find(Browser.CHROMIUM) is None, reason="no Chromium is here: python -m pytest_webaccel install"
)

CACHE = cache_root()  # before pytester moves HOME

SUITE = """
    import pathlib
    import numpy
    import pytest

    MODEL = pathlib.Path("model.onnx")
    FEEDS = {name: numpy.array([1, 2, 3], numpy.float32) for name in "xy"}

    @pytest.mark.webaccel(family="text")
    def test_answer(webaccel):
        model = webaccel.load(MODEL)
        assert webaccel.run(model, FEEDS)["z"].tolist() == [4, 8, 12]
        assert sum(model.placement.nodes.values()) >= 2

    @pytest.mark.parametrize("index", [0, 1])
    def test_fault(webaccel, fault, strategy, index):
        model = webaccel.load(MODEL)
        assert webaccel.run(model, FEEDS, timeout=20)["z"].tolist() == [4, 8, 12]
"""

FAULTS = """
    import pytest

    CASES = [(fault, strategy) for fault in {faults} for strategy in {strategies}]

    def pytest_generate_tests(metafunc):
        if "fault" in metafunc.fixturenames:
            cases = [
                pytest.param(*case, marks=pytest.mark.fault(case[0], recovery=case[1]), id="-".join(case))
                for case in CASES
            ]
            metafunc.parametrize(("fault", "strategy"), cases)
"""


@pytest.fixture
def session(pytester, monkeypatch, tmp_path):
    """Run the suite with these faults and strategies; return its result, after a look for what it left."""
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (pytester.path / "model.onnx").write_bytes(scaled_sum())

    def run(*arguments, faults=(), strategies=()):
        pytester.makeconftest(FAULTS.format(faults=list(map(str, faults)), strategies=list(strategies)))
        pytester.makepyfile(test_it=SUITE)
        result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--webaccel-db=runs.duckdb", *arguments)
        commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        assert not [command for command in commands if str(tmp_path) in command and "user-data-dir" in command]
        assert not list(tmp_path.glob("webaccel*"))
        return result

    return run


def rows(pytester, query):
    with duckdb.connect(str(pytester.path / "runs.duckdb"), read_only=True) as connection:
        return connection.execute(query).fetchall()


def test_each_fault_does_damage_that_nothing_but_recovery_mends(pytester, session):
    spared = {Fault.WORKER_CRASH, Fault.NETWORK_BANDWIDTH, Fault.NETWORK_JITTER, Fault.NETWORK_LATENCY}
    faults = [fault for fault in Fault if fault not in spared]  # a slow network breaks nothing
    result = session("--webaccel-lanes=chromium:webgpu", "-k", "0", faults=faults, strategies=["none"])
    result.assert_outcomes(failed=len(faults))
    found = dict(rows(pytester, "select fault, outcome from recoveries"))
    assert found == {str(fault): "failed" for fault in faults}
    for symptom in ("socket_closed", "browser_exited", "device_lost"):
        result.stdout.fnmatch_lines([f"*{symptom}*strategy none tries nothing*"])


def test_faults_are_recovered_on_two_workers_recorded_and_drawn(pytester, session):
    arguments = ("-n", "2", "--webaccel-lanes=chromium:webgpu,chromium:cpu", "--html=r.html", "--self-contained-html")
    faults, strategies = ["connection_lost", "browser_crash"], ["simple", "parallel", "coordinated"]
    result = session(*arguments, "--junitxml=j.xml", faults=faults, strategies=strategies)
    result.assert_outcomes(passed=2 + 2 * 2 * 3 * 2)
    recovered = rows(
        pytester,
        "select lane, fault, strategy, count(*), sum(duplicated), sum(lost), min(total_ms) > 0 from recoveries "
        "where outcome = 'recovered' and evidence = 'software' group by 1, 2, 3",
    )
    lanes = ("chromium:webgpu", "chromium:cpu")
    assert sorted(recovered) == sorted(
        (lane, fault, strategy, 2, 0, 0, True) for lane in lanes for fault in faults for strategy in strategies
    )
    bound = rows(pytester, "select lane, count(distinct worker) from tests group by 1")
    assert sorted(bound) == [("chromium:cpu", 1), ("chromium:webgpu", 1)]
    assert rows(pytester, "select distinct model, family from measurements where metric = 'request_median'")
    undone = rows(pytester, "select transaction_id from transactions group by 1 having count(*) != 2")
    assert not undone, "every transaction that was started was committed or rolled back"
    page = (pytester.path / "r.html").read_text()
    assert "Recovery time by fault and strategy" in page
    assert page.count("<svg") >= 3
    properties = ET.parse(pytester.path / "j.xml").iter("property")
    assert sum(each.get("name") == "webaccel_recoveries" for each in properties) == 24


def test_a_fault_may_be_aimed_at_a_whole_run_by_a_flag(pytester, session):
    result = session("--webaccel-lanes=chromium:cpu", "--webaccel-fault=connection_lost")
    result.assert_outcomes(passed=1, skipped=2)  # no fault is planned for the two that are given none
    assert rows(pytester, "select fault, strategy, outcome from recoveries") == [
        ("connection_lost", "coordinated", "recovered")
    ]


def assert_nothing_left(tmp_path):
    assert not list(tmp_path.glob("webaccel*"))
    assert not [
        each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(each.info["cmdline"] or ())
    ]


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "worker"])
def test_an_interrupt_in_mid_request_stores_what_was_done_and_leaves_nothing(pytester, session, tmp_path, workers):
    del session  # its set-up is what is wanted: model, cache, temporary folder
    pytester.makepyfile(
        test_it=SUITE.split("    @pytest.mark.parametrize")[0]
        + """
    def test_hangs(webaccel):
        model = webaccel.load(MODEL)
        pathlib.Path("hanging").touch()
        while True:
            webaccel.run(model, FEEDS)
        """
    )
    interrupted(pytester, "hanging", ("--webaccel-lanes=chromium:cpu", "--webaccel-db=runs.duckdb", *workers))
    assert ("passed",) in rows(pytester, "select outcome from tests where test_id like '%test_answer%'")
    assert rows(pytester, "select exit_status from runs") == [(2,)]
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "worker"])
@pytest.mark.parametrize(("strategy", "fault"), [("simple", "browser_crash"), ("parallel", "page_crash")])
def test_an_interrupt_during_a_recovery_leaves_nothing_behind(pytester, session, tmp_path, strategy, fault, workers):
    del session
    pytester.makeconftest(
        """
        import asyncio
        import pathlib
        from pytest_webaccel.pool.contender import LaneContender
        from pytest_webaccel.pool.lane import LiveLane

        def held(kind, name):
            step = getattr(kind, name)

            async def done_and_held(self, *, deadline):
                await step(self, deadline=deadline)
                pathlib.Path("recovering").touch()
                await asyncio.Event().wait()  # so that the interrupt meets this recovery, and what it has begun

            setattr(kind, name, done_and_held)

        for name in ("restart_browser", "new_page"):
            for kind in (LaneContender, LiveLane):
                held(kind, name)
        """
    )
    pytester.makepyfile(
        test_it=SUITE.split("    @pytest.mark.parametrize")[0]
        + f"""
    @pytest.mark.fault("{fault}", recovery="{strategy}", times=1000)
    def test_breaks(webaccel):
        model = webaccel.load(MODEL)
        while True:
            webaccel.run(model, FEEDS)
        """
    )
    interrupted(pytester, "recovering", ("--webaccel-lanes=chromium:cpu", "--webaccel-db=runs.duckdb", *workers))
    found = rows(pytester, "select strategy, outcome, count(*) from recoveries group by all")
    assert {kind for kind, *_ in found} == {strategy}
    assert ("unknown", 1) in [(outcome, count) for _, outcome, count in found], found
    undone = rows(pytester, "select transaction_id from transactions group by 1 having count(*) != 2")
    assert not undone, "every transaction that was started was committed or rolled back"
    assert_nothing_left(tmp_path)
