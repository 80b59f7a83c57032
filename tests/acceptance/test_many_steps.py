"""Requests of many steps, and what a page holds, on a real browser."""

from __future__ import annotations

import duckdb
import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.terms import Browser
from tests.models import recurrent, scaled_sum

pytestmark = pytest.mark.skipif(
    browsers.find(Browser.CHROMIUM) is None, reason="no Chromium is here: python -m pytest_webaccel install"
)

CACHE = cache_root()  # before pytester moves HOME

SUITE = """
    import hashlib
    import asyncio
    import pathlib

    import numpy
    import pytest
    from onnx import load
    from onnx.reference import ReferenceEvaluator

    from pytest_webaccel.pool.undoing import undo_holding

    HERE = pathlib.Path(__file__).parent
    ZERO = {"h0": numpy.zeros((1, 4), numpy.float32)}
    FEEDS = [{"x": numpy.full((1, 4), i / 8, numpy.float32)} for i in range(8)]

    def expected():
        evaluator, state = ReferenceEvaluator(load(HERE / "steps.onnx")), ZERO["h0"]
        for feeds in FEEDS:
            state, total = evaluator.run(["h", "y"], {**feeds, "h0": state})
            yield float(total)

    CASES = [
        pytest.param(fault, strategy, marks=pytest.mark.fault(fault, recovery=strategy), id=f"{fault}-{strategy}")
        for fault in ("connection_lost", "browser_crash")
        for strategy in ("simple", "coordinated")
    ]

    @pytest.mark.parametrize(("fault", "strategy"), CASES)
    def test_steps(webaccel, fault, strategy):
        model = webaccel.load(HERE / "steps.onnx")
        results = webaccel.run_steps(model, FEEDS, carry={"h": "h0"}, initial=ZERO, outputs=["y"])
        assert [float(step["y"]) for step in results] == pytest.approx(list(expected()), abs=1e-5)

    def test_held(webaccel):
        model = webaccel.load(HERE / "model.onnx")
        call, lease = webaccel._worker.call, webaccel._lease
        here = lease.lane.here

        async def body():
            await here.hold("mine", numpy.array([1, 2], numpy.float32), deadline=10)
            fed = {"y": numpy.array([3, 4], numpy.float32)}
            request = here.engine.send_run(model, fed, ["z"], deadline=10, held={"x": "mine"}, keep={"s": "sum"})
            reply = await here.engine.answer(model, request)
            assert {name: array.tolist() for name, array in reply.tensors.items()} == {"z": [8, 12]}
            request = here.engine.send_run(model, {}, None, deadline=10, held={"x": "sum", "y": "sum"})
            assert (await here.engine.answer(model, request)).tensors["z"].tolist() == [16, 24]
            assert (await here.holding(deadline=10))["held"] == {"count": 2, "bytes": 16}
            try:
                async with lease.transaction("tensor") as change:
                    undo_holding(change, lease.lane, ["mine", "sum"])
                    raise RuntimeError
            except RuntimeError:
                assert (await here.holding(deadline=10))["held"] == {"count": 0, "bytes": 0}

        call(body(), deadline=60)

    def test_half_loaded(webaccel):
        call, lease = webaccel._worker.call, webaccel._lease

        async def body():
            here = lease.lane.here
            sha = hashlib.sha256((HERE / "model.onnx").read_bytes()).hexdigest()[:16]

            async def held():  # the page may hold models of other tests
                return [name for name in (await here.holding(deadline=10))["models"] if name.startswith(sha)]

            for one in list(here.loaded.values()):
                await here.drop(one, deadline=10)
            assert await held() == []
            load = asyncio.ensure_future(lease.load(HERE / "model.onnx", None, deadline=30))
            while not await held() and not load.done():
                pass
            load.cancel()
            done, _ = await asyncio.wait({load})
            cut = load.cancelled()
            left = await held()
            assert cut == (left == []), (cut, left)
            return cut

        webaccel.measure("cut", call(body(), deadline=60), "loads")
"""


def test_many_steps_and_what_a_page_holds(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    (pytester.path / "model.onnx").write_bytes(scaled_sum())
    (pytester.path / "steps.onnx").write_bytes(recurrent())
    pytester.makepyfile(test_it=SUITE)
    arguments = ("-p", "no:cacheprovider", "--webaccel-lanes=chromium:cpu", "--webaccel-db=runs.duckdb")
    pytester.runpytest_subprocess(*arguments, timeout=120).assert_outcomes(passed=6)
    with duckdb.connect(str(pytester.path / "runs.duckdb"), read_only=True) as connection:
        query = "select fault, strategy, outcome, steps, steps_saved > 0 from recoveries"
        found = {(fault, strategy): rest for fault, strategy, *rest in connection.execute(query).fetchall()}
        assert found["browser_crash", "coordinated"] == ["recovered", 8, True]
        assert found["browser_crash", "simple"] == ["recovered", 8, False]
        assert found["connection_lost", "coordinated"] == ["recovered", 8, True]
        assert found["connection_lost", "simple"] == ["recovered", 8, False]
