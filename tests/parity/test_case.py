from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re

import numpy as np
import onnx
import pytest

from pytest_webaccel.parity import case
from pytest_webaccel.parity.blame import find_blame
from pytest_webaccel.parity.case import Surroundings, write_case
from pytest_webaccel.parity.reference import Reference
from pytest_webaccel.parity.tolerance import Tolerance
from pytest_webaccel.parity.verdict import Kind
from tests.parity.planting import WIDTH, Planted, chain

X = {"x": np.linspace(-1, 1, WIDTH, dtype=np.float32).reshape(1, WIDTH)}
HOSTILE = "</script><img src=x onerror=alert(1)> `code`"
WHERE = Surroundings(
    "chromium:webgpu", "chromium 153", "SwiftShader", "1.30.0", "ort.webgpu.bundle.min.mjs", "webgpu", "Linux", HOSTILE
)


@pytest.fixture
def blame():
    return find_blame(chain(12, np.random.default_rng(5)), X, Planted("n7"), Reference())


def unzipped(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def test_a_folder_holds_what_another_needs_to_see_it(blame, tmp_path):
    folder = write_case(blame, WHERE, tmp_path / "new" / "case")
    facts = json.loads((folder / "case.json").read_text())
    assert facts["operators"] == list(blame.operators)
    assert (facts["kind"], facts["confirmed"], facts["of_steps"]) == ("wrong_answer", True, 12)
    arrays = {
        kind: {one["name"]: np.load(folder / one["file"], allow_pickle=False) for one in tensors}
        for kind, tensors in facts["tensors"].items()
    }
    answer = Reference().run((folder / "model.onnx").read_bytes(), arrays["inputs"]).outputs
    for name, array in arrays["expected"].items():
        np.testing.assert_allclose(answer[name], array, rtol=1e-6)
        assert np.max(np.abs(arrays["got"][name] - array)) > 0
    onnx.checker.check_model(onnx.load(folder / "model.onnx"), full_check=True)


def test_the_text_for_a_tracker_names_operator_place_and_difference(blame, tmp_path):
    text = (write_case(blame, WHERE, tmp_path) / "ISSUE.md").read_text()
    assert text.startswith(f"# `{blame.operator}` answers wrongly with the `webgpu` execution provider")
    for word in ("1.30.0", "SwiftShader", "ort.webgpu.bundle.min.mjs", "elements outside", "chromium 153"):
        assert word in text
    assert f"`` {HOSTILE} ``" in text, "what a model is called is shown as it is, and as nothing else"


def test_the_page_holds_model_and_tensors_and_nothing_that_ends_its_script(blame, tmp_path):
    page = (write_case(blame, WHERE, tmp_path) / "index.html").read_text()
    held = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert held is not None
    data = json.loads(held[1])
    assert unzipped(data["model"]) == blame.model
    assert data["where"]["model"] == HOSTILE
    assert "onerror" not in page.replace(held[1], "")
    name = next(iter(blame.expected))
    found = np.frombuffer(unzipped(data["expected"][name]["data"]), "<f4").reshape(1, WIDTH)
    np.testing.assert_array_equal(found, blame.expected[name])


def test_names_that_are_no_file_names_are_saved_all_the_same(tmp_path):
    model = chain(4, np.random.default_rng(5))
    for node in model.graph.node:
        node.input[:] = [f"../{name}/\0:" if name.startswith("t") and name != "turn" else name for name in node.input]
        node.output[:] = [f"../{name}/\0:" for name in node.output]
    model.graph.output[0].name = f"../{model.graph.output[0].name}/\0:"
    blame = find_blame(model, X, Planted("n2"), Reference())
    folder = write_case(blame, WHERE, tmp_path / "case")
    facts = json.loads((folder / "case.json").read_text())
    assert [one["name"] for one in facts["tensors"]["expected"]] == ["../t2/\0:"]
    assert {path.parent.parent for path in tmp_path.rglob("*.npy")} == {folder}


def test_what_is_too_much_for_a_page_has_none(blame, tmp_path, monkeypatch):
    monkeypatch.setattr(case, "PAGE_BYTES", 100)
    assert not (write_case(blame, WHERE, tmp_path) / "index.html").exists()


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (Kind.UNSUPPORTED, "is refused"),
        (Kind.FAILED, "fails"),
        (Kind.CRASHED, "crashes the page"),
        (Kind.TIMED_OUT, "never answers"),
    ],
)
def test_what_does_not_answer_has_no_answer_in_its_folder(tmp_path, trouble, words):
    blame = find_blame(chain(6, np.random.default_rng(5)), X, Planted("n3", trouble=trouble), Reference())
    folder = write_case(blame, WHERE, tmp_path)
    assert not (folder / "got").exists()
    assert words in (folder / "ISSUE.md").read_text()


def test_what_was_not_confirmed_is_no_case(blame, tmp_path):
    for nothing in (dataclasses.replace(blame, confirmed=False), dataclasses.replace(blame, model=b"")):
        with pytest.raises(ValueError, match=r"no case to write"):
            write_case(nothing, WHERE, tmp_path / "case")
    assert not (tmp_path / "case").exists()


def test_a_case_takes_the_place_of_an_older_one(blame, tmp_path):
    folder = write_case(blame, WHERE, tmp_path / "case")
    assert list((folder / "got").iterdir())
    write_case(dataclasses.replace(blame, got={}), WHERE, folder)
    assert not list((folder / "got").glob("*"))


def test_the_page_judges_by_the_rule_that_failed(blame, tmp_path):
    (name, difference), *_ = blame.verdict.differences.items()
    strict = dataclasses.replace(difference, tolerance=Tolerance(1e-9, 0.0))
    verdict = dataclasses.replace(blame.verdict, differences={name: strict})
    page = (
        write_case(dataclasses.replace(blame, verdict=verdict), WHERE, tmp_path / "case") / "index.html"
    ).read_text()
    assert '"atol": 1e-09' in page
