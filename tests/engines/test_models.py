from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pytest_webaccel.bridge.frames import DTYPES
from pytest_webaccel.engines import models as engine_models
from pytest_webaccel.engines.models import ModelInfo, TensorInfo, check_feeds, inspect_model
from pytest_webaccel.errors import FeedError, ModelError
from tests import models
from tests.bridge.strategies import same


def info(*inputs: TensorInfo, tmp="m.onnx") -> ModelInfo:
    from pathlib import Path

    return ModelInfo("m", "0" * 64, Path(tmp), 0, inputs, (), {})


# -- inspecting -----------------------------------------------------------------------------------


def test_a_model_says_its_name_hash_signature_and_operators(tmp_path):
    path = tmp_path / "sum.onnx"
    path.write_bytes(models.scaled_sum(shape=("batch", 3, None)))
    found = inspect_model(path, tmp_path)
    assert (found.name, found.path, found.bytes) == ("sum.onnx", path, path.stat().st_size)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [str(value) for value in found.inputs] == ["x: float32[batch, 3, ?]", "y: float32[batch, 3, ?]"]
    assert [value.name for value in found.outputs] == ["z", "s"]
    assert dict(found.operators) == {"Add": 1, "Mul": 1}


def test_bytes_become_a_file_that_a_page_can_be_handed(tmp_path):
    data = models.scaled_sum()
    found = inspect_model(data, tmp_path)
    assert found.path.parent == tmp_path
    assert found.path.read_bytes() == data
    assert inspect_model(bytes(data), tmp_path).path == found.path
    assert found.name.startswith("bytes-")


@given(cut=st.integers(0, len(models.scaled_sum()) - 1))
@settings(max_examples=300, deadline=None)
def test_a_model_cut_short_anywhere_is_refused_or_still_whole_in_itself(cut, tmp_path_factory):
    """Protobuf cannot see a cut between two fields; what is accepted must at least have graph and opset."""
    folder = tmp_path_factory.getbasetemp()
    try:
        found = inspect_model(models.scaled_sum()[:cut], folder)
    except ModelError as error:
        assert "onnx.checker" in str(error)  # noqa: PT017 - it may also be accepted
        return
    assert found.outputs
    assert found.operators


@given(st.binary(max_size=300))
@example(b"")
@example(b"<!doctype html><title>404</title>")
@example(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
@example(b"PK\x03\x04")
@example(b"\x08\x08")
@settings(deadline=None)
def test_what_is_not_onnx_is_a_model_error_that_says_so(data):
    from pathlib import Path

    with pytest.raises(ModelError, match=r"(?i)no ONNX model|not an ONNX model"):
        inspect_model(data, Path("unused"))


def test_a_file_that_is_not_there_is_named_with_the_reason(tmp_path):
    with pytest.raises(ModelError, match=r"missing\.onnx: No such file"):
        inspect_model(tmp_path / "missing.onnx", tmp_path)
    with pytest.raises(ModelError, match=r"directory"):
        inspect_model(tmp_path, tmp_path)


def test_weights_in_other_files_are_named_with_the_way_out(tmp_path):
    model = onnx.load_from_string(models.scaled_sum())
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match=r"weights two lie in other files.*onnx\.save"):
        inspect_model(model.SerializeToString(), tmp_path)


def test_a_model_over_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "big.onnx"
    path.write_bytes(models.scaled_sum())
    monkeypatch.setattr(engine_models, "MAX_BYTES", 10)
    for source in (path, models.scaled_sum()):
        with pytest.raises(ModelError, match="over 10"):
            inspect_model(source, tmp_path)


@pytest.mark.parametrize("dtype", [*DTYPES, "string"])
def test_every_dtype_that_crosses_is_read_from_a_model(dtype, tmp_path):
    kind = TensorProto.STRING if dtype == "string" else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = [helper.make_tensor_value_info(name, kind, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    [found] = inspect_model(data, tmp_path).inputs
    assert (found.dtype, found.shape) == (dtype, (2,))
    array = np.array(["a", "b"], object) if dtype == "string" else np.zeros(2, dtype)
    assert same(array, check_feeds(inspect_model(data, tmp_path), {"x": array})["x"])


def test_an_input_that_is_no_tensor_is_undefined_and_of_any_shape(tmp_path):
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    out = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    graph = helper.make_graph([helper.make_node("SequenceLength", ["x"], ["y"])], "g", [sequence], [out])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    found = inspect_model(data, tmp_path)
    assert str(found.inputs[0]) == "x: undefined[...]"
    with pytest.raises(FeedError, match="undefined"):
        check_feeds(found, {"x": np.zeros(1, np.float32)})


# -- feeds ----------------------------------------------------------------------------------------

X = TensorInfo("x", "float32", (2, "n", None))
Y = TensorInfo("y", "int64", ("n",))


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({"x": np.zeros((2, 3, 4), "f4")}, r"no feed for 'y'.*takes x: float32\[2, n, \?\]; y: int64\[n\]"),
        ({"x": np.zeros((2, 3, 4), "f4"), "y": np.zeros(3, "i8"), "w": 0}, "no input 'w'"),
        ({"x": np.zeros((2, 3, 4), "f8"), "y": np.zeros(3, "i8")}, r"got dtype float64.*x\.astype\(numpy\.float32\)"),
        ({"x": np.zeros((2, 3), "f4"), "y": np.zeros(3, "i8")}, r"got rank 2, shape \[2, 3\]"),
        ({"x": np.zeros((1, 3, 4), "f4"), "y": np.zeros(3, "i8")}, "got size 1 on axis 0"),
        ({"x": np.zeros((2, 3, 4), "f4"), "y": np.zeros(4, "i8")}, "'n' is 4 on axis 0, and 3 in input 'x'"),
        ({"x": np.zeros((2, 3, 4), "c8"), "y": np.zeros(3, "i8")}, "complex64 cannot cross"),
        ({"x": [["a"]], "y": np.zeros(3, "i8")}, "got dtype string"),
        ({"x": object(), "y": np.zeros(3, "i8")}, "got dtype string"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_by_name(feeds, words):
    with pytest.raises(FeedError, match=words):
        check_feeds(info(X, Y), feeds)


@given(n=st.integers(0, 4), free=st.integers(0, 4), order=st.sampled_from("CF"), endian=st.sampled_from("<>"))
def test_feeds_that_fit_come_out_contiguous_and_equal(n, free, order, endian):
    x = np.arange(2 * n * free, dtype=f"{endian}f4").reshape(2, n, free).copy(order=order)
    arrays = check_feeds(info(X, Y), {"y": np.arange(n), "x": x})
    assert set(arrays) == {"x", "y"}
    assert arrays["x"].flags.c_contiguous
    assert arrays["x"].shape == x.shape
    assert np.array_equal(arrays["x"], x)


@given(
    wanted=st.lists(st.sampled_from([1, 2, "n", "m", None]), max_size=4),
    got=st.lists(st.integers(1, 3), max_size=4),
)
def test_a_shape_fits_exactly_when_its_symbols_have_one_reading(wanted, got):
    reading: dict[str, int] = {}
    fits = len(wanted) == len(got) and all(
        want is None or (want == size if isinstance(want, int) else reading.setdefault(want, size) == size)
        for want, size in zip(wanted, got, strict=False)
    )
    model = info(TensorInfo("x", "uint8", tuple(wanted)))
    feeds = {"x": np.zeros(got, np.uint8)}
    if fits:
        assert check_feeds(model, feeds)["x"].shape == tuple(got)
    else:
        with pytest.raises(FeedError):
            check_feeds(model, feeds)


def test_a_scalar_feed_keeps_its_rank():
    assert check_feeds(info(TensorInfo("x", "float64", ())), {"x": 1.5})["x"].shape == ()
