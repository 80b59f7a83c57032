"""Chaos by property, as a user runs it."""

from __future__ import annotations

import re

import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.terms import Browser, Fault

#: Faults that are seen by a deadline or that slow everything: they make a schedule long, not harder.
SLOW = {
    *(Fault.CONNECTION_STALLED, Fault.COMPONENT_TIMEOUT, Fault.OUT_OF_MEMORY, Fault.WORKER_CRASH),
    *(Fault.NETWORK_LATENCY, Fault.NETWORK_BANDWIDTH, Fault.NETWORK_JITTER),
}

CACHE = cache_root()  # before pytester moves HOME

SUITE = """
import numpy
from hypothesis import settings, strategies as st
from onnx import TensorProto, helper
from pytest_webaccel.chaos import SETTINGS, run_chaos

x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
graph = helper.make_graph([helper.make_node("Mul", ["x", "x"], ["y"])], "square", [x], [y])
MODEL = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()
FEEDS = st.lists(st.integers(0, 99), min_size=4, max_size=4).map(lambda n: {"x": numpy.array(n, numpy.float32)})
QUICK = settings(SETTINGS, max_examples=%(examples)d, stateful_step_count=8, derandomize=True, database=None)

def test_square_survives_chaos(webaccel_pool):
    run_chaos(webaccel_pool, MODEL, FEEDS, settings=QUICK, timeout=1, %(more)s)
"""


def run(pytester: pytest.Pytester, lanes: str, more: str = "", *, examples: int = 6) -> pytest.RunResult:
    pytester.makepyfile(SUITE % {"more": more, "examples": examples})
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", f"--webaccel-lanes={lanes}", "--webaccel-seed=3")


def test_lanes_that_recover_hold_every_invariant(pytester):
    quick = [fault for fault in Fault if fault not in SLOW]
    run(pytester, "fake:webgpu,fake:cpu", f"faults={[str(fault) for fault in quick]}").assert_outcomes(passed=1)


def test_without_recovery_it_shrinks_to_one_fault_and_the_request_that_meets_it(pytester):
    result = run(pytester, "fake:cpu", "recovery='none', faults=['browser_crash']", examples=30)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "strategy none tries nothing" in text
    last = text.rsplit("state = ", 1)[-1]  # they may be printed twice
    steps = re.findall(r"state\.(lease|load|inject|run|run_under_fault|release)\(", last)
    assert steps[0] == "lease", text
    assert {"inject", "run_under_fault"} & set(steps), text
    assert len(steps) <= 4, text


def test_a_wrong_answer_is_told_with_its_output(pytester):
    more = "expect=lambda feeds: {'y': feeds['x'] * feeds['x'] + 1}, faults=['connection_lost']"
    result = run(pytester, "fake:cpu", more, examples=20)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*a wrong answer was delivered: output 'y'*"])


def test_a_request_that_is_done_twice_is_told(pytester):
    pytester.makeconftest(
        """
        from pytest_webaccel.testing import session

        class Twice(dict):
            def get(self, request_id, default=None):
                return 2 if request_id in self else default

        begun = session.PageSession.__init__

        def begin(self, *arguments, **more):
            begun(self, *arguments, **more)
            self.executions = Twice()

        session.PageSession.__init__ = begin
        """
    )
    result = run(pytester, "fake:cpu", "faults=['connection_lost']")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*lane fake:cpu: {'duplicated': *, 'lost': 0}*"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("faults=['device_lost']", "*none of the faults device_lost has a meaning on fake:cpu*"),
        ("faults=['device_lsot']", "*device_lsot*known: connection_lost*"),
    ],
)
def test_faults_that_no_lane_can_suffer_are_refused_at_once(pytester, more, words):
    result = run(pytester, "fake:cpu", more)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([words])


@pytest.mark.skipif(
    browsers.find(Browser.CHROMIUM) is None, reason="no Chromium is here: python -m pytest_webaccel install"
)
def test_real_lanes_hold_every_invariant(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    more = "faults=['connection_lost', 'browser_crash', 'page_crash', 'page_reload']"
    run(pytester, "chromium:cpu", more, examples=3).assert_outcomes(passed=1)
