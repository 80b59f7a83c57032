"""Every ONNX tensor type that NumPy has goes into onnxruntime-web and comes out as it was."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from pytest_webaccel import browsers
from pytest_webaccel.bridge.frames import DTYPES
from pytest_webaccel.browsers.probe import lanes_table
from pytest_webaccel.pool.worker import Worker
from pytest_webaccel.terms import Browser, Strategy


@pytest.fixture(scope="module")
def lease():
    if browsers.find(Browser.CHROMIUM) is None:
        pytest.skip("no Chromium is here: python -m pytest_webaccel install")
    table = [probe for probe in lanes_table([Browser.CHROMIUM]) if probe.works and probe.lane.backend == "cpu"]
    worker = Worker(table, run_id="r", worker="main", strategy=Strategy.NONE, record=lambda row: None)
    with worker.lease(table[0].lane, "t") as leased:
        yield worker, leased
    worker.stop()


def identity(element: int) -> bytes:
    x, y = (helper.make_tensor_value_info(name, element, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def extremes(name: str) -> np.ndarray:
    dtype = DTYPES[name]
    if dtype.kind == "b":
        return np.array([True, False])
    if dtype.kind in "iu":
        return np.array([np.iinfo(dtype).min, 1, np.iinfo(dtype).max], dtype)
    return np.array([np.finfo(dtype).min, 0.5, np.inf, -0.0], dtype)


@pytest.mark.parametrize("name", [*DTYPES, "string"])
def test_dtype_comes_back_as_it_went(lease, name):
    worker, leased = lease
    array = np.array(["é", "", "plain"], dtype=object) if name == "string" else extremes(name)
    element = helper.np_dtype_to_tensor_dtype(array.dtype)
    model = worker.call(leased.load(identity(element), None, deadline=30), deadline=60)
    back = worker.call(leased.run(model, {"x": array}, deadline=30), deadline=60)[0]["y"]
    assert back.dtype == array.dtype
    assert back.tolist() == array.tolist()
