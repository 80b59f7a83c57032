"""Whole sessions that are given what they cannot use: one paragraph each, and the other tests unharmed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from onnx import TensorProto, helper

from pytest_webaccel.browsers.install.cache import cache_root
from tests import models

#: Where the real browser is: pytester gives sessions a home of their own.
CACHE = cache_root()

CONFTEST = """
import pathlib, pytest
import numpy as np
FEEDS = {"x": np.ones(2, np.float32), "y": np.ones(2, np.float32)}
here = pathlib.Path(__file__).parent

@pytest.fixture
def feeds():
    return dict(FEEDS)
"""

GOOD = """
def test_good(webaccel, feeds):
    assert webaccel.run(webaccel.load("good.onnx"), feeds)["z"].tolist() == [4, 4]
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=120)


def reason(result: pytest.RunResult) -> str:
    """Return the error that pytest gives as the reason of the one test that failed: the last of its chain."""
    marked = [line[1:].strip() if line.startswith("E  ") else "" for line in result.stdout.lines]
    blocks = re.findall(r"(?m)(?:^.+\n?)+", "\n".join(marked))
    errors: list[str] = [block.strip() for block in blocks if block.startswith("pytest_webaccel.errors.")]
    return errors[-1]


@pytest.fixture
def suite(pytester):
    pytester.makeconftest(CONFTEST)
    (pytester.path / "good.onnx").write_bytes(models.scaled_sum())
    return pytester


def custom_operator() -> bytes:
    """A well-formed model with an operator of a domain that no backend has."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["z"], domain="com.example")],
        "custom",
        [value("x", TensorProto.FLOAT, [2])],
        [value("z", TensorProto.FLOAT, [2])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        ("webaccel.load('text.onnx')", "ModelError", "text.onnx: .*no ONNX model"),
        ("webaccel.load('short.onnx')", "ModelError", "short.onnx: .*cut short"),
        ("webaccel.load('empty.onnx')", "ModelError", "empty.onnx: .*not an ONNX model"),
        ("webaccel.load('absent.onnx')", "ModelError", "absent.onnx: No such file"),
        ("webaccel.load('.')", "ModelError", "directory"),
        (
            "webaccel.load('custom.onnx')",
            "ModelError",
            "custom.onnx could not be loaded on fake:cpu .*Frobnicate.*[^.]\\. If",
        ),
        ("run({'x': f['x']})", "FeedError", "no feed for 'y'. It takes x: float32"),
        ("run({**f, 'extra': f['x']})", "FeedError", "no input 'extra'"),
        ("run({**f, 'x': f['x'].astype('float64')})", "FeedError", "got dtype float64. Cast it yourself"),
        ("run({**f, 'x': f['x'].reshape(1, 2)})", "FeedError", "got rank 2, shape"),
        ("run({**f, 'x': f['x'][:1]})", "FeedError", "dimension 'n' is 2 on axis 0, and 1"),
    ],
)
def test_a_model_or_feeds_that_cannot_be_used_are_one_error_and_harm_only_their_own_test(suite, call, kind, words):
    (suite.path / "text.onnx").write_text("this is no model at all\n" * 40)
    (suite.path / "short.onnx").write_bytes(models.scaled_sum()[:-9])
    (suite.path / "empty.onnx").write_bytes(b"")
    (suite.path / "custom.onnx").write_bytes(custom_operator())
    suite.makepyfile(
        f"""
        def test_bad(webaccel, feeds):
            f = feeds
            run = lambda given: webaccel.run(webaccel.load("good.onnx"), given)
            {call}
        {GOOD.replace(chr(10), chr(10) + " " * 8)}
        """
    )
    result = run(suite, "--webaccel-lanes=fake:cpu")
    assert result.parseoutcomes() == {"passed": 1, "failed": 1}
    text = reason(result)
    assert text.startswith(f"pytest_webaccel.errors.{kind}: ")
    assert "\n" not in text
    assert re.search(words, text), text
    assert "INTERNALERROR" not in result.stdout.str()


def test_an_operator_that_the_backend_lacks_is_one_error_and_harms_only_its_own_test(suite, monkeypatch):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    (suite.path / "custom.onnx").write_bytes(custom_operator())
    suite.makepyfile(f"def test_bad(webaccel): webaccel.load('custom.onnx')\n{GOOD}")
    result = run(suite, "--webaccel-lanes=chromium:cpu")
    assert result.parseoutcomes() == {"passed": 1, "failed": 1}
    words = r"ModelError: model custom.onnx could not be loaded on chromium:cpu .*Frobnicate.*[^.]\. If .*leave the"
    assert re.search(words, reason(result))


def test_a_browser_that_does_not_start_is_said_in_one_paragraph_and_harms_no_other_lane(suite):
    suite.makepyfile(GOOD)
    lanes = "--webaccel-lanes=chromium:cpu,fake:cpu"
    result = run(suite, lanes, "--webaccel-executable=/bin/false", "-ra")
    assert result.parseoutcomes() == {"passed": 1, "skipped": 1}
    [said] = [line for line in result.stdout.lines if line.startswith("SKIPPED") and "/bin/false" in line]
    assert "chromium (/bin/false) did not start: " in said
    assert said.count("/bin/false") == 1
    assert said.count("python -m pytest_webaccel install") == 1
    strict = run(suite, lanes, "--webaccel-executable=/bin/false", "--webaccel-strict")
    assert strict.parseoutcomes()["passed"] == 1
    assert strict.ret == 1


def test_a_lane_that_works_and_then_does_not_start_is_one_error_and_harms_no_other_lane(suite):
    suite.makeconftest(
        CONFTEST
        + """
import importlib
worker = importlib.import_module("pytest_webaccel.pool.worker")
ordinary = worker.Worker._driver

def _driver(self, probe):
    driver = ordinary(self, probe)
    driver.misbehaviour.refuse_starts = 9 if probe.lane.backend == "webgpu" else 0
    return driver

worker.Worker._driver = _driver
"""
    )
    suite.makepyfile(GOOD)
    result = run(suite, "--webaccel-lanes=fake:webgpu,fake:cpu", "--webaccel-strict")
    counts = result.parseoutcomes()
    assert counts.pop("passed") == 1
    assert sum(counts.values()) == 1
    text = reason(result)
    assert re.fullmatch(
        r"\S+LaneUnavailableError: lane fake:webgpu did not start: .*[^.]\. `python -m .*doctor.*", text
    )


LOCK = """
import duckdb, sys
held = duckdb.connect("runs.duckdb")
held.sql("create table held (n integer)")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("wrong", ["locked", "newer", "no database", "full disk"])
def test_a_database_that_cannot_be_used_costs_the_exit_status_and_no_row(suite, wrong):
    path, holder = suite.path / "runs.duckdb", None
    match wrong:
        case "locked":
            holder = subprocess.Popen(
                [sys.executable, "-c", LOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=suite.path
            )
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"locked\n"
        case "newer":
            newer(path)
        case "no database":
            path.write_bytes(b"not a database, whatever its name says" * 99)
        case "full disk":
            path.symlink_to("/dev/full")
    suite.makepyfile(GOOD)
    try:
        result = run(
            suite, "--webaccel-lanes=fake:cpu", f"--webaccel-db={path}", "--webaccel-report=report.html", "-rA"
        )
    finally:
        if holder is not None:
            holder.communicate(timeout=30)
    assert result.parseoutcomes() == {"passed": 1}
    assert result.ret == 1
    text = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in text
    assert "runs.duckdb" in text
    assert "fake:cpu" in Path(suite.path / "report.html").read_text()
    rescued = re.search(r"\S*rescue\S*\.jsonl", text)
    assert rescued, text
    rows = Path(rescued[0]).read_text()
    assert '"table":"tests"' in rows
    assert '"table":"transactions"' in rows


def newer(path: Path) -> None:
    """Make the database at ``path`` one of a later version of the plugin."""
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE webaccel_schema (version INTEGER NOT NULL, changed_at TIMESTAMP NOT NULL)")
        connection.execute("INSERT INTO webaccel_schema VALUES (9999, now()::TIMESTAMP)")
