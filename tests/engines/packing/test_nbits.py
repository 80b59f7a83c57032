"""Packed weights as ONNX Runtime's MatMulNBits has them; onnxruntime itself says whether they mean the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pytest_webaccel.engines.packing import from_matmul_nbits, quantise, to_matmul_nbits
from pytest_webaccel.errors import ConfigurationError


def product(x: np.ndarray, nbits) -> np.ndarray:
    """Return what onnxruntime makes of ``x`` and the weights."""
    tensors = {"B": nbits.b, "s": nbits.scales.astype(np.float32)}
    if nbits.zero_points is not None:
        tensors["z"] = nbits.zero_points
    node = helper.make_node("MatMulNBits", ["x", *tensors], ["y"], domain="com.microsoft", **nbits.attributes)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", TensorProto.FLOAT, [None, nbits.k])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": x})
    return np.asarray(answer)


@given(
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([32, 64]),
    zero_points=st.booleans(),
    rows=st.integers(1, 9),
    groups=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=25)
def test_onnxruntime_multiplies_by_the_same_weights(bits, group, zero_points, rows, groups, seed):
    chance = np.random.default_rng(seed)
    weights = chance.standard_normal((rows, groups * group)).astype(np.float32)
    packed = quantise(weights, bits, group=group, zero_points=zero_points)
    x = chance.standard_normal((3, packed.columns)).astype(np.float32)
    right = x.astype(np.float64) @ packed.dequantised().astype(np.float64).T
    np.testing.assert_allclose(product(x, to_matmul_nbits(packed)), right, rtol=2e-2, atol=2e-2 * np.abs(right).max())


@given(
    bits=st.sampled_from([2, 4, 8]),
    zero_points=st.booleans(),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 200)),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_there_and_back_nothing_is_lost(bits, zero_points, shape, seed):
    weights = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    packed = quantise(weights, bits, zero_points=zero_points)
    back = from_matmul_nbits(to_matmul_nbits(packed))
    np.testing.assert_array_equal(back.dequantised(), packed.dequantised())
    np.testing.assert_array_equal(back.words, packed.words)


def test_three_bits_are_refused():
    with pytest.raises(ConfigurationError, match=r"has no 3 bits \(it has 2, 4, 8\)"):
        to_matmul_nbits(quantise(np.ones((1, 32), np.float32), 3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"b": np.zeros(5, np.uint8)}, r"B is uint8 with 2 x 2 x 16 elements"),
        ({"scales": np.zeros(3, np.float32)}, r"scales are 2 x 2, not 3"),
        ({"zero_points": np.zeros(3, np.uint8)}, r"zero_points are uint8 with 2 x 1"),
        ({"block_size": 16}, r"group=16"),
        ({"bits": 3}, r"has no 3 bits"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(changes, words):
    good = to_matmul_nbits(quantise(np.ones((2, 64), np.float32), 4, zero_points=True))
    with pytest.raises(ConfigurationError, match=words):
        from_matmul_nbits(dataclasses.replace(good, **changes))
