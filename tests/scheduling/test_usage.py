from __future__ import annotations

import pytest

from pytest_webaccel.scheduling import usage
from pytest_webaccel.scheduling.usage import likely


def test_a_test_file_that_takes_a_fixture_of_ours_is_found_in_a_folder_below(tmp_path):
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit" / "test_lane.py").write_text("def test_it(webaccel_pool): pass\n")
    assert likely([str(tmp_path)])
    assert likely([f"{tmp_path}/unit/test_lane.py::test_it"])


def test_a_conftest_above_the_argument_counts(tmp_path):
    (tmp_path / "conftest.py").write_text("pytest_plugins = []  # webaccel\n")
    (tmp_path / "unit").mkdir()
    assert likely([str(tmp_path / "unit")])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("test_plain.py", "def test_it(webaccelerator): pass\n"),
        ("notes.py", "webaccel\n"),
        ("test_data.json", "webaccel\n"),
        ("node_modules/test_it.py", "webaccel\n"),
    ],
)
def test_what_does_not_use_us_is_not_taken_for_it(tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert not likely([str(tmp_path)])


def test_looking_ends_when_its_time_is_spent(tmp_path, monkeypatch):
    (tmp_path / "test_lane.py").write_text("def test_it(webaccel): pass\n")
    monkeypatch.setattr(usage, "BUDGET_S", -1.0)
    assert not likely([str(tmp_path)])


def test_a_folder_that_is_not_there_is_a_no(tmp_path):
    assert not likely([str(tmp_path / "gone")])


def test_our_own_tests_named_with_pyargs_are_a_use():
    assert likely(["pytest_webaccel.conformance"])
    assert not likely(["other_package.conformance"])
