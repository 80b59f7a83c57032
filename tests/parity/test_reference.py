from __future__ import annotations

import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

from pytest_webaccel.errors import FeedError, ModelError
from pytest_webaccel.parity import run_reference


@pytest.fixture
def model() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["product"]), helper.make_node("Relu", ["product"], ["positive"])],
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "ab"],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("product", "positive")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


@pytest.fixture
def feeds() -> dict[str, np.ndarray]:
    return {"a": np.array([[1, -2], [3, 4]], "float32"), "b": np.array([[5, 6], [7, -8]], "float32")}


def test_outputs_come_by_name_from_bytes_and_from_a_file(model, feeds, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    for source in (model, path):
        found = run_reference(source, feeds)
        assert found is not None
        name, outputs = found
        assert name.startswith("onnxruntime-cpu ")
        np.testing.assert_array_equal(outputs["product"], feeds["a"] @ feeds["b"])
        np.testing.assert_array_equal(outputs["positive"], np.maximum(feeds["a"] @ feeds["b"], 0))


def test_without_onnxruntime_there_is_no_reference(model, feeds, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run_reference(model, feeds) is None


def test_what_is_not_a_model_is_named(model, feeds, tmp_path):
    pytest.importorskip("onnxruntime")
    for bad in (b"not a model", model[: len(model) // 2], tmp_path / "missing.onnx"):
        with pytest.raises(ModelError, match="cannot be loaded by the reference, onnxruntime-cpu"):
            run_reference(bad, feeds)


def test_feeds_that_do_not_fit_are_named(model, feeds):
    pytest.importorskip("onnxruntime")
    with pytest.raises(FeedError, match=r"feeds are named \['a', 'x'\]; the model's inputs are \['a', 'b'\]"):
        run_reference(model, {"a": feeds["a"], "x": feeds["b"]})
    with pytest.raises(FeedError, match="cannot be run"):
        run_reference(model, {**feeds, "b": np.zeros((3, 3), np.float32)})
    with pytest.raises(FeedError, match="cannot be run"):
        run_reference(model, {**feeds, "b": feeds["b"].astype(np.int64)})
