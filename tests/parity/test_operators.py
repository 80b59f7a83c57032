from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from pytest_webaccel.parity import EXACT, Tolerance, compare, tolerance_for
from pytest_webaccel.parity.operators import allowance, operator_tolerance

SHAPES = {"x": (1, 6, 8, 8), "k": (4, 3, 3, 3), "a": (5, 7), "b": (7, 2), "c": (2,)}


def node(kind, *inputs, **attributes):
    return helper.make_node(kind, inputs, ["y"], **attributes)


RULES = [
    (node("Relu", "x"), "float32", EXACT),
    (node("Add", "a", "a"), "int64", EXACT),
    (node("Add", "a", "a"), "float32", Tolerance(0.0, ulp=1)),
    (node("Exp", "a"), "float32", Tolerance(0.0, ulp=32)),
    (node("Exp", "a"), "float16", Tolerance(0.0, ulp=1)),
    (node("Tanh", "a"), "float32", Tolerance(1 / 1024)),
    (node("Tanh", "a"), "float16", Tolerance(1 / 512)),
    (node("Conv", "x", "k", group=2), "float32", Tolerance(0.0, ulp=9 * 3 * 2)),
    (node("Conv", "x", "unknown"), "float32", None),
    (node("MatMul", "a", "b"), "float32", Tolerance(0.0, ulp=14)),
    (node("Gemm", "a", "b", "c", alpha=0.5, beta=2.0), "float32", Tolerance(0.0, ulp=17)),
    (node("Gemm", "b", "a", transA=1), "float32", Tolerance(0.0, ulp=14)),
    (node("AveragePool", "x", kernel_shape=[2, 3]), "float32", Tolerance(0.0, ulp=8)),
    (node("GlobalAveragePool", "x"), "float32", Tolerance(0.0, ulp=66)),
    (node("Softmax", "a"), "float32", Tolerance(0.0, ulp=24)),
    (node("ReduceSum", "a"), "float32", Tolerance(0.0, ulp=35)),
    (node("ReduceMean", "a", axes=[-1]), "float32", Tolerance(0.0, ulp=9)),
    (node("Loop", "a"), "float32", None),
]


@pytest.mark.parametrize(("one", "dtype", "rule"), RULES, ids=[f"{one.op_type}-{dtype}" for one, dtype, _ in RULES])
def test_each_operator_has_the_rule_of_the_conformance_suite(one, dtype, rule):
    assert operator_tolerance(one, SHAPES, dtype) == rule


def test_the_ulp_of_several_operators_add_up_until_the_rule_of_the_dtype_is_stricter():
    few = [node("MatMul", "a", "b"), node("Add", "a", "c"), node("Relu", "a")]
    assert allowance(few, SHAPES) == Tolerance(0.0, ulp=15)
    assert allowance(few * 100, SHAPES) == tolerance_for("float32")
    assert allowance([*few, node("Loop", "a")], SHAPES) == tolerance_for("float32")
    assert allowance([node("Tanh", "a")], SHAPES) == tolerance_for("float32"), "1/1024 is more than a model may be off"
    assert allowance(few, SHAPES, "int8") == EXACT


def test_a_difference_within_the_ulp_allowed_is_none():
    one = np.array([1.0, 1e30], np.float32)
    two = np.array([np.nextafter(np.float32(1.0), np.float32(2.0)), 1.001e30], np.float32)
    found = compare(one, two, Tolerance(0.0, ulp=1))
    assert (found.agrees, found.n_bad, found.worst) == (False, 1, (1,))
    assert compare(one[:1], two[:1], Tolerance(0.0, ulp=1)).agrees
    assert not compare(one[:1], two[:1], Tolerance(0.0)).agrees
    # the far one is within its ULP, so the near one is the worst
    near = np.array([1.1, np.nextafter(np.float32(1e30), np.float32(2e30))], np.float32)
    assert compare(one, near, Tolerance(0.0, ulp=1)).worst == (0,)


def test_nan_and_infinity_are_within_no_number_of_ulp():
    largest = np.finfo(np.float32).max
    assert not compare(np.array([largest], np.float32), np.array([np.inf], np.float32), Tolerance(0.0, ulp=5)).agrees
