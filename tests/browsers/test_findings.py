from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.browsers import Installation
from pytest_webaccel.browsers.findings import is_software, judge, timed_out
from pytest_webaccel.terms import Backend, Browser, Evidence, ProbeResult

if TYPE_CHECKING:
    from collections.abc import Iterable

INSTALLATION = Installation(Browser.CHROMIUM, Path("/opt/chromium"), "153.0.1", "system")


def finding(**changes: Any) -> dict[str, Any]:
    plain = {
        "works": True,
        "timedOut": False,
        "reason": "",
        "adapter": "",
        "fallback": False,
        "accelerated": False,
        "features": [],
        "limits": {},
    }
    return {**plain, **changes}


def seen(**changes: Any) -> dict[str, Any]:
    return {"webgpu": finding(adapter="nvidia hopper"), "webnn": finding(features=["cpu"]), "cpu": finding(), **changes}


def by_backend(results: Iterable[ProbeResult]) -> dict[Backend, ProbeResult]:
    return {result.lane.backend: result for result in results}


@pytest.mark.parametrize(
    ("adapter", "fallback", "software"),
    [
        ("nvidia hopper", False, False),
        ("intel gen-12lp Iris Xe", False, False),
        ("amd rdna-3", False, False),
        ("apple metal-3", False, False),
        ("nvidia hopper", True, True),
        ("google swiftshader", False, True),
        ("mesa llvmpipe (LLVM 15)", False, True),
        ("Lavapipe", False, True),
        ("Microsoft Basic Render Driver", False, True),
        ("", False, True),
    ],
)
def test_hardware_has_to_be_shown(adapter, fallback, software):
    assert is_software(adapter, fallback=fallback) is software


def test_real_adapter_is_hardware_and_the_rest_of_the_browser_is_not():
    evidence = {backend: result.evidence for backend, result in by_backend(judge(INSTALLATION, seen())).items()}
    assert evidence == {
        Backend.WEBGPU: Evidence.HARDWARE,
        Backend.WEBNN: Evidence.SOFTWARE,
        Backend.CPU: Evidence.SOFTWARE,
    }


@pytest.mark.parametrize("adapter", ["nvidia hopper", "google swiftshader"])
def test_webnn_is_graded_by_the_cpu_context_that_lanes_take(adapter):
    webnn = finding(accelerated=True, adapter="cpu, gpu, npu", features=["cpu", "gpu", "npu"])
    result = by_backend(judge(INSTALLATION, seen(webgpu=finding(adapter=adapter), webnn=webnn)))[Backend.WEBNN]
    assert result.evidence is Evidence.SOFTWARE
    assert result.adapter == "cpu context (also offered: gpu, npu)"
    assert result.features == ("cpu", "gpu", "npu")


@pytest.mark.parametrize(
    ("features", "works", "adapter"),
    [
        (["cpu"], True, "cpu context"),
        (["cpu", "webnn-lost-with-gpu-process"], True, "cpu context"),
        (["gpu"], False, ""),
    ],
)
def test_webnn_works_for_lanes_only_with_its_cpu_context(features, works, adapter):
    result = by_backend(judge(INSTALLATION, seen(webnn=finding(features=features))))[Backend.WEBNN]
    assert result.works is works
    assert works or result.reason == "lanes take WebNN's cpu context, and only gpu worked."
    assert not works or result.adapter == adapter


def test_what_does_not_work_has_a_reason_a_remedy_and_is_never_hardware():
    results = judge(INSTALLATION, seen(webgpu=finding(works=False, adapter="nvidia hopper", reason="no adapter")))
    result = by_backend(results)[Backend.WEBGPU]
    assert (result.works, result.reason, result.evidence) == (False, "no adapter.", Evidence.SOFTWARE)
    assert "python -m pytest_webaccel install" in result.remedy


@pytest.mark.parametrize(
    "answer", [None, 1, [], {}, {"webgpu": {}}, {**seen(), "cpu": None}, seen(cpu=finding(features="simd"))]
)
def test_malformed_answer_is_refused(answer):
    with pytest.raises(ValueError, match="probe page"):
        judge(INSTALLATION, answer)


numbers = st.one_of(st.integers(-(2**60), 2**60), st.floats(), st.text(max_size=3), st.none(), st.booleans())


@given(st.text(max_size=2000), st.lists(st.text(max_size=300), max_size=400), st.dictionaries(st.text(), numbers))
def test_whatever_the_page_says_stays_bounded_and_survives_json(adapter, features, limits):
    results = judge(INSTALLATION, seen(cpu=finding(adapter=adapter, features=features, limits=limits)))
    result = by_backend(results)[Backend.CPU]
    assert len(result.adapter) <= 400
    assert len(result.features) <= 200
    assert ProbeResult.from_json(result.to_json()) == result


def test_deadline_in_any_finding_is_noticed():
    assert timed_out(seen(webnn=finding(works=False, timedOut=True)))
    assert not timed_out(seen())
