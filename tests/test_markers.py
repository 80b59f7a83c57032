from __future__ import annotations

import pytest

from pytest_webaccel import markers
from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.faults.levels import LEVELS
from pytest_webaccel.markers import Requirement
from pytest_webaccel.terms import (
    Backend,
    Browser,
    Evidence,
    Family,
    Fault,
    FaultPlan,
    FaultPoint,
    Lane,
    Level,
    ProbeResult,
    Strategy,
)


def item(pytester: pytest.Pytester, marks: str, arguments: str = "webaccel_lane", head: str = "") -> pytest.Item:
    return pytester.getitem(f"import pytest\n{head}\n{marks}\ndef test_x({arguments}): pass\n", "test_x")


@pytest.fixture
def pytester(pytester):
    # Items are only looked at here: a fixture of the same name keeps lanes from being looked for.
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef webaccel_fake(): pass\n")
    return pytester


def asked(pytester: pytest.Pytester, marks: str, head: str = "") -> Requirement:
    return markers.requirement(item(pytester, marks, "webaccel_fake", head))


def planned(pytester: pytest.Pytester, marks: str, head: str = "") -> tuple[FaultPlan, ...]:
    return markers.fault_plans(item(pytester, marks, "webaccel_fake", head))


def test_words_and_lists_of_words_are_read(pytester):
    mark = "@pytest.mark.webaccel(browser='chromium', backend=['webgpu', 'webnn'], features='shader-f16',"
    mark += " family=('audio',), evidence='hardware')"
    assert asked(pytester, mark) == Requirement(
        browsers=(Browser.CHROMIUM,),
        backends=(Backend.WEBGPU, Backend.WEBNN),
        features=("shader-f16",),
        families=(Family.AUDIO,),
        evidence=(Evidence.HARDWARE,),
    )


def test_without_a_marker_any_lane_will_do(pytester):
    assert asked(pytester, "") == Requirement()
    assert str(asked(pytester, "")) == "any lane"


def test_the_marker_nearest_to_the_test_wins_argument_by_argument(pytester):
    head = "pytestmark = pytest.mark.webaccel(backend='cpu', family='text')"
    found = asked(pytester, "@pytest.mark.webaccel(backend='webgpu')", head)
    assert (found.backends, found.families) == ((Backend.WEBGPU,), (Family.TEXT,))


def test_fault_markers_are_planned_outermost_first(pytester):
    head = "pytestmark = pytest.mark.fault('device_lost')"
    mark = "@pytest.mark.fault('browser_crash', recovery='simple', at='before', times=2)"
    assert planned(pytester, mark, head) == (
        FaultPlan(Fault.DEVICE_LOST),
        FaultPlan(Fault.BROWSER_CRASH, FaultPoint.BEFORE, 2, Strategy.SIMPLE),
    )


def test_a_level_is_one_choice_of_several_plans(pytester):
    head = "pytestmark = pytest.mark.fault('device_lost')"
    marked = item(pytester, "@pytest.mark.fault('low', recovery='simple', at='before')", "webaccel_fake", head)
    outer, inner = markers.fault_choices(marked)
    assert outer == (FaultPlan(Fault.DEVICE_LOST),)
    assert [plan.fault for plan in inner] == list(LEVELS[Level.LOW])
    assert {(plan.at, plan.recovery) for plan in inner} == {(FaultPoint.BEFORE, Strategy.SIMPLE)}
    markers.check(marked)


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ("webaccel(backend='webgl')", r"unknown backend 'webgl' \(known: webgpu, webnn, cpu\); did you mean 'webgpu'"),
        ("webaccel('webgpu')", r"takes no positional arguments, got 'webgpu'"),
        ("webaccel(backends='cpu')", r"unknown argument 'backends'.*did you mean 'backend'"),
        ("webaccel(features=3)", r"features=3 is neither a word nor a list of words"),
        ("webaccel(family=[])", r"family=\[\] is neither a word nor a list of words"),
        ("webaccel(evidence=[1])", r"evidence=\[1\] is neither"),
        ("fault('browser_crsh')", r"unknown fault 'browser_crsh'.*did you mean 'browser_crash'"),
        ("fault('device_lost', recovery='simpel')", r"unknown recovery 'simpel'.*did you mean 'simple'"),
        ("fault('device_lost', at='never')", r"unknown at 'never' \(known: before, mid_request, "),
        ("fault('network_jitter', at='after')", r"network_jitter can never fire at after: nothing travels.*before"),
        ("fault('device_lost', times=0)", r"times=0 is not a whole number from 1"),
        ("fault('device_lost', times=True)", r"times=True is not a whole number"),
        ("fault()", r"missing 1 required positional argument: 'name'.*it is fault\(name"),
        ("fault('device_lost', when=1)", r"unexpected keyword argument 'when'.*it is fault\(name"),
        ("fault(1)", r"name=1 is not a word \(known: connection_lost"),
    ],
)
def test_a_marker_that_cannot_be_meant_names_test_marker_and_what_would_do(pytester, mark, words):
    bad = item(pytester, f"@pytest.mark.{mark}", "webaccel_fake")
    with pytest.raises(ConfigurationError, match=words) as caught:
        markers.check(bad)
    assert str(caught.value).startswith(f"{bad.nodeid}: @pytest.mark.{mark.split('(')[0]}(")


def test_a_fault_on_a_test_without_a_lane_is_refused(pytester):
    with pytest.raises(ConfigurationError, match="uses no lane"):
        markers.check(item(pytester, "@pytest.mark.fault('device_lost')", "tmp_path"))


@pytest.mark.parametrize(
    ("requirement", "result", "objection"),
    [
        (Requirement(), {}, ""),
        (Requirement(), {"works": False, "reason": "No GPU.", "remedy": "Buy one."}, "No GPU. Buy one."),
        (Requirement(), {"works": False}, "it does not work here"),
        (Requirement(features=("a", "b")), {"features": ("b",), "adapter": "llvmpipe"}, "needs a, which llvmpipe does"),
        (Requirement(features=("b",)), {"features": ("b",)}, ""),
        (Requirement(evidence=(Evidence.HARDWARE,)), {}, "needs evidence hardware; this lane's is software"),
        (Requirement(evidence=(Evidence.HARDWARE, Evidence.SOFTWARE)), {}, ""),
    ],
)
def test_a_lane_is_objected_to_in_words(requirement, result, objection):
    lane = Lane(Browser.CHROMIUM, Backend.WEBGPU)
    said = requirement.objection(ProbeResult(lane, **{"works": True, "evidence": Evidence.SOFTWARE, **result}))
    assert objection in said
    assert bool(said) is bool(objection)


def test_a_requirement_can_be_read_back_by_a_person():
    requirement = Requirement(browsers=(Browser.EDGE,), backends=(Backend.WEBGPU, Backend.CPU))
    assert str(requirement) == "browser edge, backend webgpu or cpu"


@pytest.mark.parametrize(("backends", "accelerated"), [((), True), (("cpu",), False), (("cpu", "webnn"), True)])
def test_a_requirement_knows_whether_an_accelerator_could_satisfy_it(backends, accelerated):
    assert Requirement(backends=tuple(map(Backend, backends))).accelerated is accelerated
