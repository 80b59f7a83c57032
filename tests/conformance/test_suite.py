from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from pytest_webaccel.conformance.suite import tolerances, verdict_on
from pytest_webaccel.parity.stored import Stored
from pytest_webaccel.parity.tolerance import EXACT, Tolerance
from pytest_webaccel.parity.verdict import Kind, Ran
from pytest_webaccel.terms import Backend

GPU = {"JsExecutionProvider": 1}
CPU = {"CPUExecutionProvider": 1}
Y = np.array([1, 2], np.float32)


def a_model(kind: str, elem_type: int = TensorProto.FLOAT, more: int = 0) -> bytes:
    value = helper.make_tensor_value_info
    names = ["x", *(f"h{n}" for n in range(more)), "y"]
    kinds = [kind, *["Neg"] * more]
    nodes = [
        helper.make_node(*step)
        for step in zip(kinds, [[one] for one in names], [[one] for one in names[1:]], strict=False)
    ]
    graph = helper.make_graph(nodes, "g", [value("x", elem_type, [2])], [value("y", elem_type, [2])])
    data: bytes = helper.make_model(graph).SerializeToString()
    return data


def verdict(ran: Ran, backend: Backend = Backend.WEBGPU, expected: np.ndarray = Y):
    return verdict_on(ran, a_model("Exp"), Stored("", {"x": Y}, {"y": expected}), backend)


@pytest.mark.parametrize(
    ("detail", "kind"),
    [
        (
            "ERROR_CODE: 9, ERROR_MESSAGE: Could not find an implementation for Unique(11) node with name ''",
            "unsupported",
        ),
        ("Fatal error: com.x:Adagrad(-1) is not a registered function/op", "unsupported"),
        ("Opset 27 is under development and support for this is limited", "unsupported"),
        ("NotSupportedError: Failed to execute 'build' on 'MLGraphBuilder'", "unsupported"),
        ("Unrecognized attribute: left_window_size for operator Attention", "unsupported"),
        ("FILTER_IN_CHANNEL should be equal to DATA_CHANNEL", "failed"),
        ("IsNodeCompatibleWithProvider(const Node &) const !node_provider_type.empty() was false", "failed"),
    ],
)
def test_an_engine_that_does_not_have_something_is_told_from_one_that_fails_at_it(detail, kind):
    for trouble in (Kind.UNSUPPORTED, Kind.FAILED):
        assert verdict(Ran({}, trouble, detail)).kind == kind


def test_a_lane_that_broke_is_no_answer():
    assert verdict(Ran({}, Kind.CRASHED, "not supported")).kind is Kind.CRASHED


@pytest.mark.parametrize(
    ("placement", "fallbacks", "kind", "detail"),
    [
        (GPU, {}, "agrees", ""),
        (CPU, {"Exp": 1}, "fell_back", "ran on wasm: Exp x1"),
        ({**GPU, **CPU}, {"Exp": 1}, "fell_back", "ran on wasm: Exp x1"),
        (CPU, {}, "fell_back", "every node ran on wasm"),
        ({}, {}, "fell_back", "no node was left to run"),
        ({**GPU, **CPU}, {}, "agrees", ""),
    ],
    ids=["there", "elsewhere", "in part", "shape arithmetic", "folded", "with shapes beside"],
)
def test_a_right_answer_from_elsewhere_than_the_backend_is_told_apart(placement, fallbacks, kind, detail):
    ran = Ran({"y": Y}, fallbacks=fallbacks, placement=placement)
    found = verdict(ran)
    assert (found.kind, found.detail) == (kind, detail)
    assert verdict(ran, Backend.CPU).kind is Kind.AGREES


def test_a_wrong_answer_is_wrong_wherever_it_ran():
    assert verdict(Ran({"y": Y + 1}, fallbacks={"Exp": 1}, placement=CPU)).kind is Kind.WRONG
    assert verdict(Ran({"y": Y * np.float32(np.nan)}, placement=GPU)).kind is Kind.NOT_FINITE
    assert verdict(Ran({}, placement=GPU)).kind is Kind.WRONG


@pytest.mark.parametrize(
    ("kind", "dtype", "rule"),
    [
        ("Exp", "float32", Tolerance(1e-7, 1e-3, 32)),
        ("Sin", "float32", Tolerance(1 / 1024, 1e-3)),
        ("Mish", "float32", Tolerance(1e-7, 1e-3)),
        ("Exp", "float16", Tolerance(5e-3, 1e-2, 1)),
        ("Neg", "int32", EXACT),
    ],
)
def test_the_rule_is_the_looser_of_the_two_suites(kind, dtype, rule):
    array = np.zeros(2, dtype)
    stored = Stored("", {"x": array}, {"y": array})
    assert tolerances(a_model(kind, helper.np_dtype_to_tensor_dtype(array.dtype)), stored) == {"y": rule}


def test_several_operators_have_the_suites_own_rule():
    stored = Stored("", {"x": Y}, {"y": Y})
    assert tolerances(a_model("Exp", more=2), stored) == {"y": Tolerance(1e-7, 1e-3)}
