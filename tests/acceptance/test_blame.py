"""The operator to blame is found on real lanes, cut out, and shown by a page that needs nothing of ours."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import duckdb
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from pytest_webaccel import browsers
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.browsers.install.ort import ort_dist
from pytest_webaccel.terms import Browser
from tests.browsers.driving import DEADLINE, running
from tests.serving import serving

pytestmark = pytest.mark.skipif(
    browsers.find(Browser.CHROMIUM) is None, reason="no Chromium is here: python -m pytest_webaccel install"
)

CACHE = cache_root()  # before pytester moves HOME
CHANNELS = 129  # of so many input channels, onnxruntime-web 1.30's native build computes a convolution wrongly


def convolving() -> bytes:
    """Eight steps, of which the fifth is a convolution of 129 channels: the defect of silero VAD in that build."""
    chance = np.random.default_rng(7)
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["c"]),
        helper.make_node("Add", ["c", "half"], ["d"]),
        helper.make_node("Conv", ["d", "kernel"], ["e"], kernel_shape=[3], pads=[1, 1], name="the convolution"),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Mul", ["f", "half"], ["g"]),
        helper.make_node("Sigmoid", ["g"], ["y"]),
    ]
    weights = {"half": 0.5, "kernel": chance.standard_normal((16, CHANNELS, 3)) * 0.1}
    graph = helper.make_graph(
        nodes,
        "convolving",
        [value("x", TensorProto.FLOAT, [1, CHANNELS, 4])],
        [value("y", TensorProto.FLOAT, [1, 16, 4])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


SUITE = """
    import pathlib

    import numpy
    import pytest

    MODEL = pathlib.Path(__file__).parent / "convolving.onnx"
    FEEDS = {"x": numpy.random.default_rng(3).standard_normal((1, 129, 4)).astype(numpy.float32)}

    def test_check(webaccel):
        webaccel.check(webaccel.load(MODEL, build="native"), FEEDS, lanes=[str(webaccel.lane)])

    # the whole model is asked twice; the others strike in the middle of the search
    @pytest.mark.fault("device_lost", times=4)
    def test_blame_survives_a_lost_device(webaccel):
        blame = webaccel.blame(MODEL, FEEDS, build="native")
        assert blame.operators == ("Conv",)
        assert blame.confirmed
        assert webaccel.statistics()["models"] == []

    def test_the_other_build_is_right(webaccel):
        assert not webaccel.blame(MODEL, FEEDS, build="jsep").operators

    def test_another_lane_is_a_reference(webaccel):
        assert webaccel.blame(MODEL, FEEDS, build="native", reference="chromium:cpu").operators == ("Conv",)
"""


def test_a_real_defect_is_found_blamed_and_shown_by_its_page(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    (pytester.path / "convolving.onnx").write_bytes(convolving())
    pytester.makepyfile(test_it=SUITE)
    arguments = ("-p", "no:cacheprovider", "--webaccel-lanes=chromium:webgpu,chromium:cpu", "-k", "webgpu")
    more = ("--webaccel-db=runs.duckdb", "--webaccel-cases=cases")
    result = pytester.runpytest_subprocess(*arguments, *more, timeout=240)
    result.assert_outcomes(passed=3, failed=1, deselected=4)
    result.stdout.fnmatch_lines(
        [
            "*chromium:webgpu*: Conv is to blame (wrong_answer, fails alone, confirmed; 1 of 8 steps: the convo*",
            "*a case to file: *convolving-chromium-webgpu*",
        ]
    )
    with duckdb.connect(str(pytester.path / "runs.duckdb"), read_only=True) as connection:
        assert connection.execute("select lane, agrees, blamed_operator from parity").fetchall() == [
            ("chromium:webgpu", False, "Conv")
        ]
        # the native build ends its device with its last session, at the end of each part: that is no lost device
        asked = "select count(*) from measurements where metric like 'unplanned%'"
        assert connection.execute(asked).fetchall() == [(0,)]
    (folder,) = (pytester.path / "cases").iterdir()
    facts = json.loads((folder / "case.json").read_text())
    assert (facts["operators"], facts["module"]) == (["Conv"], "ort.webgpu.bundle.min.mjs")

    installed = browsers.find(Browser.CHROMIUM)
    assert installed is not None

    async def shown(query: str) -> str:
        async with running(installed) as driver:
            await driver.open(f"{address}/case/index.html?run&ort={address}/ort/{query}", deadline=DEADLINE)
            for _ in range(200):
                text = str(await driver.evaluate("document.getElementById('out').textContent", deadline=DEADLINE))
                if text not in {"running", "not run yet"}:
                    return text
                await driver.evaluate("new Promise((done) => setTimeout(done, 50))", deadline=DEADLINE)
        raise AssertionError("the page never ended")

    with serving({"case": folder, "ort": ort_dist(None)}) as address:
        assert asyncio.run(shown("")).startswith("WRONG, beside onnxruntime-cpu")
        assert asyncio.run(shown("&provider=wasm")).startswith("RIGHT, beside onnxruntime-cpu")


def between(operator: str, output: str = "m", **attributes: Any) -> bytes:
    """Six steps, of which the fourth is ``operator``."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Mul", ["x", "large"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Abs", ["b"], ["c"]),
        helper.make_node(operator, ["c"], [output], name="the one", **attributes),
        helper.make_node("Neg", ["m"], ["d"]),
        helper.make_node("Mul", ["d", "large"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        operator,
        [value("x", TensorProto.FLOAT, [1, 1, 8, 8])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(1000, np.float32), "large")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    data: bytes = made.SerializeToString()
    return data


TROUBLES = """
    import pathlib

    import numpy
    import pytest

    HERE = pathlib.Path(__file__).parent
    FEEDS = {"x": numpy.linspace(0.5, 1, 64, dtype=numpy.float32).reshape(1, 1, 8, 8)}

    @pytest.mark.webaccel(browser="chromium", backend="webnn")
    def test_refused(webaccel):
        blame = webaccel.blame(HERE / "AveragePool.onnx", FEEDS)
        assert (blame.operators, str(blame.verdict.kind), blame.confirmed) == (("AveragePool",), "unsupported", True)
        assert "dilations" in blame.verdict.detail

    @pytest.mark.webaccel(browser="chromium", backend="webgpu")
    def test_not_finite(webaccel):
        blame = webaccel.blame(HERE / "ReduceLogSumExp.onnx", FEEDS)
        assert (blame.operators, str(blame.verdict.kind), blame.confirmed) == (("ReduceLogSumExp",), "not_finite", True)

    @pytest.mark.webaccel(browser="chromium", backend="webgpu")
    def test_fell_back(webaccel):
        assert not webaccel.blame(HERE / "Det.onnx", FEEDS).operators
        blame = webaccel.blame(HERE / "Det.onnx", FEEDS, fallbacks=True)
        assert (blame.operators, str(blame.verdict.kind), blame.confirmed) == (("Det",), "fell_back", True)

    @pytest.mark.webaccel(browser="chromium", backend="webgpu")
    def test_checked_beside(webaccel):
        webaccel.check(webaccel.load(HERE / "Det.onnx"), FEEDS, lanes=["chromium:webgpu", "chromium:cpu"])
"""


def test_what_a_real_lane_refuses_leaves_to_wasm_or_answers_with_infinity_is_blamed(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    models = {
        "AveragePool": between("AveragePool", kernel_shape=[2, 2], dilations=[2, 2]),
        "ReduceLogSumExp": between("ReduceLogSumExp"),
        "Det": between("Det"),
    }
    for name, data in models.items():
        (pytester.path / f"{name}.onnx").write_bytes(data)
    pytester.makepyfile(test_it=TROUBLES)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--webaccel-db=runs.duckdb", timeout=240)
    result.assert_outcomes(passed=4)
    # a search says how far it is while it runs, without being asked
    result.stdout.fnmatch_lines(["webaccel: chromium:webgpu: not_finite; looking for the operator among 6 steps"])
    with duckdb.connect(str(pytester.path / "runs.duckdb"), read_only=True) as connection:
        placed = connection.execute("select lane, provider, nodes, names from placements order by all").fetchall()
    by_lane = {(lane, provider): (nodes, json.loads(names)) for lane, provider, nodes, names in placed}
    # also where a check loaded the model, and not the test
    assert set(by_lane) == {
        ("chromium:cpu", "CPUExecutionProvider"),
        ("chromium:webgpu", "CPUExecutionProvider"),
        ("chromium:webgpu", "JsExecutionProvider"),
    }
    assert "Det (the one)" in by_lane["chromium:webgpu", "CPUExecutionProvider"][1]
    on_webgpu = by_lane["chromium:webgpu", "JsExecutionProvider"][1]
    assert [name for name in on_webgpu if not name.startswith("Memcpy")] == [
        "Mul ()",
        "Neg ()",
        "Abs ()",
        "Neg ()",
        "Mul ()",
    ]
