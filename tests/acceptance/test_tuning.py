"""Kernels are tuned on a real lane, the choice lasts, and a lost device does not end the search."""

from __future__ import annotations

import json

import duckdb

from pytest_webaccel.terms import Lane
from tests.acceptance.lanes import run_on_lane

WEBGPU, WEBNN = Lane.parse("chromium:webgpu"), Lane.parse("chromium:webnn")

TUNED = """
    import dataclasses

    import numpy
    import pytest

    from pytest_webaccel.engines.kernels import Plan, Target, program
    from pytest_webaccel.engines.packing import quantise
    from pytest_webaccel.errors import ConfigurationError

    X = numpy.random.default_rng(0).standard_normal((3, 96)).astype("f4")
    WEIGHTS = quantise(numpy.random.default_rng(1).standard_normal((40, 96)).astype("f4"), 3)


    def choice(webaccel):
        dispatch = program("matmul_nbits", {"x": X, "weights": WEIGHTS}).lowered(Target.of(webaccel.probe))
        return webaccel._manner.choices.of(webaccel.probe, dispatch)
"""

EVERY = (
    TUNED
    + """
    def test_every(webaccel):
        tuning = webaccel.tune("matmul_nbits", x=X, weights=WEIGHTS, repeats=2, whole=True)
        tried = {tuple(sorted(timing.constants.items())): timing.state for timing in tuning.timings}
        assert tried == {(("BAKED", baked), ("CODES", codes)): "timed" for baked, codes in [(0, 0), (1, 0), (0, 1)]}
        assert max(timing.nmse for timing in tuning.timings) < 1e-6
"""
)

TUNE = (
    TUNED
    + """
    def test_tune(webaccel, _webaccel_lease, _webaccel_worker):
        assert choice(webaccel) is None
        lost = []

        def tell(line):  # in the midst of it the device goes
            if not lost:
                lost.append(line)
                channel = _webaccel_lease.lane.here.channel
                harm = channel.request("harm", {"kind": "device_destroyed"}, deadline=10)
                _webaccel_worker.call(harm, deadline=10)

        webaccel._manner = dataclasses.replace(webaccel._manner, tell=tell)
        tuning = webaccel.tune("matmul_nbits", x=X, weights=WEIGHTS, repeats=2)
        print(tuning.table())
        assert lost
        assert len(tuning.timings) > 10
        assert dict(choice(webaccel)) == dict(tuning.best.constants)
        y = webaccel.kernel("matmul_nbits", x=X, weights=WEIGHTS)["y"]
        numpy.testing.assert_allclose(y, X @ WEIGHTS.dequantised().T, rtol=1e-4, atol=1e-4)


    def test_rounded(webaccel):
        asked = {"x": X, "weights": WEIGHTS, "activations": "int8"}
        tuning = webaccel.tune("matmul_nbits", **asked, repeats=2, seconds=1)
        dispatch = program("matmul_nbits", asked).lowered(Target.of(webaccel.probe))
        found = webaccel._manner.choices.of(webaccel.probe, dispatch)
        assert dict(found) == dict(tuning.best.constants)
        assert {timing.state for timing in tuning.timings} == {"timed"}


    def test_what_cannot_be_tuned(webaccel):
        with pytest.raises(ConfigurationError, match="there is no kernel 'none'"):
            webaccel.tune("none", x=X)
        with pytest.raises(ConfigurationError, match="missing a required argument: 'weights'"):
            webaccel.tune("matmul_nbits", x=X)
"""
)

LATER = (
    TUNED
    + """
    import json

    def test_later(webaccel, monkeypatch):
        print("chosen", json.dumps(dict(choice(webaccel)), sort_keys=True))
        sent = []
        of = Plan.of
        monkeypatch.setattr(Plan, "of", lambda *given: sent.append(of(*given)) or sent[-1])
        webaccel.kernel("matmul_nbits", x=X, weights=WEIGHTS)
        webaccel.compute({"y": program("matmul_nbits", {"x": X, "weights": WEIGHTS})["y"]})
        assert [dict(plan.dispatches[0].chosen) for plan in sent] == [dict(choice(webaccel))] * 2
"""
)


def test_a_choice_is_kept_in_the_database_and_taken_by_the_next_run(pytester, monkeypatch):
    first = run_on_lane(pytester, monkeypatch, WEBGPU, TUNE)
    first.assert_outcomes(passed=3)
    with duckdb.connect("runs.duckdb", read_only=True) as database:
        rows = database.execute(
            "SELECT kernel, adapter, browser, constants, state, n, median_ms, nmse, chosen, untuned FROM tunings"
        ).fetchall()
    assert {row[0] for row in rows} == {"matmul_nbits", "matmul_rounded"}
    assert all(row[1] and row[2].startswith("chromium ") for row in rows)
    assert all(row[5] >= 2 and row[6] > 0 and row[7] < 1e-6 for row in rows if row[4] == "timed")
    plain = [row for row in rows if row[0] == "matmul_nbits"]
    [chosen] = [row for row in plain if row[8]]
    assert sum(row[9] for row in plain) == 1
    second = run_on_lane(pytester, monkeypatch, WEBGPU, LATER)
    second.assert_outcomes(passed=1)
    second.stdout.fnmatch_lines([f"*chosen {json.dumps(json.loads(chosen[3]), sort_keys=True)}"])


def test_what_can_be_chosen_on_webnn_is_right_whatever_is(pytester, monkeypatch):
    run_on_lane(pytester, monkeypatch, WEBNN, EVERY).assert_outcomes(passed=1)
