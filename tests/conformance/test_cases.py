from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pytest_webaccel.conformance import cases, generate
from pytest_webaccel.conformance.cases import NodeCase, catalogue
from pytest_webaccel.errors import ConfigurationError


@pytest.fixture(scope="module")
def all_cases() -> tuple[NodeCase, ...]:
    return catalogue()


def test_every_node_test_of_the_installed_onnx_is_there(all_cases):
    assert len(all_cases) >= 1600
    assert len({case.name for case in all_cases}) == len(all_cases)
    takeable = [case for case in all_cases if not case.obstacle]
    assert len(takeable) >= 1400
    assert all((case.folder / "model.onnx").is_file() for case in takeable)


def test_none_is_left_out_for_a_module_that_cannot_be_imported(all_cases):
    assert [case.name for case in all_cases if case.name.startswith("module_")] == []


def test_a_case_reads_as_what_its_operator_computes(all_cases):
    case = next(case for case in all_cases if case.name == "test_abs")
    model, stored = case.read()
    assert case.operator == "Abs"
    assert [node.op_type for node in onnx.load_from_string(model).graph.node] == ["Abs"]
    np.testing.assert_array_equal(stored.expected["y"], np.abs(stored.feeds["x"]))


def test_an_expanded_case_goes_by_the_operator_that_it_expands(all_cases):
    found = {case.name: case.operator for case in all_cases}
    assert found["test_softsign_example_expanded_ver18"] == "Softsign"


def test_text_and_single_numbers_survive(all_cases):
    named = {case.name: case for case in all_cases}
    _, stored = named["test_string_split_basic"].read()
    assert [array.dtype.kind for array in stored.feeds.values()] == ["O"]
    _, stored = named["test_range_float_type_positive_delta"].read()
    assert [array.shape for array in stored.feeds.values()] == [(), (), ()]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (helper.make_tensor_type_proto(TensorProto.FLOAT, [1]), ""),
        (helper.make_tensor_type_proto(TensorProto.STRING, [1]), ""),
        (helper.make_tensor_type_proto(TensorProto.BFLOAT16, [1]), "x is bfloat16; this plugin"),
        (helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [1])), "x is a sequence"),
        (helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [1])), "x is a optional"),
    ],
)
def test_what_no_page_can_be_handed_is_said(kind, reason):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_value_info("x", kind)],
        [helper.make_value_info("y", kind)],
    )
    assert generate.obstacle(helper.make_model(graph)).startswith(reason)


def test_an_older_onnx_ships_its_tests_as_files(tmp_path, monkeypatch):
    shipped = tmp_path / "node" / "test_neg" / "test_data_set_0"
    shipped.mkdir(parents=True)
    value = helper.make_tensor_value_info
    x = np.array([1, -2], np.float32)
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "test_neg",
        [value("x", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, [2])],
    )
    (shipped.parent / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    for name, array in (("input_0.pb", x), ("output_0.pb", -x)):
        (shipped / name).write_bytes(numpy_helper.from_array(array).SerializeToString())
    monkeypatch.setattr(generate, "_data", lambda: tmp_path / "node")
    out = tmp_path / "out"
    out.mkdir()
    assert generate.write_cases(out) == 1
    listed = json.loads((out / cases.INDEX).read_text())["cases"]
    (one,) = (
        NodeCase(each["name"], each["operator"], each["opset"], each["obstacle"], out / each["name"]) for each in listed
    )
    _, stored = one.read()
    np.testing.assert_array_equal(stored.expected["y"], -stored.feeds["x"])


def test_a_module_of_tests_that_cannot_be_imported_is_a_case_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "_modules", lambda package, path: ["onnx.no_such_module"])
    generate.write_cases(tmp_path)
    listed = json.loads((tmp_path / cases.INDEX).read_text())["cases"]
    (one,) = (each for each in listed if each["name"].startswith("module_"))
    assert one["name"] == "module_no_such_module"
    assert "ModuleNotFoundError" in one["obstacle"]


def test_a_failure_to_make_them_tells_what_was_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(ConfigurationError, match=r"cannot be made \(exit status 1\)"):
        catalogue.__wrapped__()
    assert not list((tmp_path / "conformance").glob("onnx-*[0-9]"))
