from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_webaccel.engines.onnx import AUTOMATIC_BUILDS, OnnxEngine, OrtCopy, Placement
from pytest_webaccel.errors import ModelError
from pytest_webaccel.terms import Backend, OrtBuild
from tests.bridge.strategies import json_values

entries = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "provider": st.sampled_from(["CPUExecutionProvider", "JsExecutionProvider"]) | json_values,
            "nodes": st.integers(-5, 50) | json_values,
            "operators": st.lists(st.sampled_from(["Conv", "Shape"]) | json_values, max_size=3) | json_values,
            "names": st.lists(st.text(max_size=3) | json_values, max_size=3) | json_values,
        },
    )
    | json_values,
    max_size=4,
)


@given(log=entries | json_values, backend=st.sampled_from(Backend))
@example(log=[{"provider": "CPUExecutionProvider", "nodes": "many", "operators": []}], backend=Backend.WEBGPU)
@example(log=[{"provider": "CPUExecutionProvider", "nodes": 3, "operators": 5}], backend=Backend.WEBGPU)
@example(log=[{"provider": "CPUExecutionProvider", "nodes": True, "operators": [[]]}], backend=Backend.WEBNN)
def test_whatever_a_page_says_of_placement_becomes_counts(log, backend):
    placement = Placement.from_log(log, backend)
    for counts in (placement.nodes, placement.fallbacks):
        assert all(type(name) is str and len(name) <= 64 for name in counts)
        assert all(type(count) is int and count >= 0 for count in counts.values())
    assert placement.accelerated >= 0
    assert all(type(name) is str and len(name) <= 200 for names in placement.names.values() for name in names)
    assert isinstance(placement.describe(), str)


def test_operators_left_on_the_cpu_are_fallbacks_and_shape_arithmetic_is_not():
    log = [
        {"provider": "JsExecutionProvider", "nodes": 7, "operators": ["Add"] * 7, "names": ["x", "y"]},
        {
            "provider": "CPUExecutionProvider",
            "nodes": 4,
            "operators": ["Conv", "Shape", "Gather", "Conv"],
            "names": ["a", "b", "c", "d"],
        },
    ]
    placement = Placement.from_log(log, Backend.WEBGPU)
    assert (placement.accelerated, placement.nodes["CPUExecutionProvider"]) == (7, 4)
    assert placement.fallbacks == {"Conv": 2}
    assert placement.operators["CPUExecutionProvider"] == {"Conv": 2, "Shape": 1, "Gather": 1}
    assert placement.names == {
        "JsExecutionProvider": ("Add (x)", "Add (y)"),
        "CPUExecutionProvider": ("Conv (a)", "Shape (b)", "Gather (c)", "Conv (d)"),
    }
    assert placement.describe() == "4 on CPUExecutionProvider, 7 on JsExecutionProvider; fell back to wasm: Conv x2"
    assert Placement.from_log(log, Backend.CPU).fallbacks == {}


def test_a_model_that_fell_back_whole_says_so():
    log = [{"provider": "CPUExecutionProvider", "nodes": 9, "operators": []}]
    assert Placement.from_log(log, Backend.WEBNN).fallbacks == {"(every operator)": 9}


def test_the_first_module_that_is_there_serves_a_build(tmp_path):
    for name in ("ort.min.mjs", "ort.wasm.min.mjs", "ort.wasm.bundle.min.mjs"):
        (tmp_path / name).touch()
    copy = OrtCopy(tmp_path, "1", "/ort/")
    assert copy.module(OrtBuild.WASM) == "ort.wasm.bundle.min.mjs"
    assert copy.module(OrtBuild.JSEP) == "ort.min.mjs"
    with pytest.raises(ModelError, match=r"has no native build \(ort\.webgpu\.bundle\.min\.mjs or .*it has ort\.min"):
        copy.module(OrtBuild.NATIVE)
    with pytest.raises(ModelError, match="no ort"):
        OrtCopy(tmp_path / "nowhere", "1", "/ort/").module(OrtBuild.WASM)


@pytest.mark.parametrize("backend", Backend)
@pytest.mark.parametrize("build", [None, *OrtBuild])
def test_a_build_without_the_lanes_backend_is_refused(tmp_path, backend, build):
    no_channel: Any = None
    engine = OnnxEngine(no_channel, backend, OrtCopy(tmp_path, "1", "/ort/"))
    if build is OrtBuild.WASM and backend is not Backend.CPU:
        with pytest.raises(ModelError, match=f"no {backend}: use jsep or native"):
            engine.choose(build)
    else:
        assert engine.choose(build) is (build or AUTOMATIC_BUILDS[backend])
