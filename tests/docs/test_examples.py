"""Every example in the documents runs: files, commands, queries, settings."""

from __future__ import annotations

import configparser
import importlib.util
import itertools
import re
import sys
import tomllib

import duckdb  # here and not in a test: pytester forgets what a test imports, and duckdb dies of a second import
import pytest

from pytest_webaccel.__main__ import _parser
from pytest_webaccel.browsers import find
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.browsers.install.ort import ort_dist
from pytest_webaccel.declarations import OPTIONS
from pytest_webaccel.errors import InstallError
from pytest_webaccel.terms import Browser
from tests.docs.pages import ROOT, Block, blocks, files

HOW_TO = "docs/how-to.md"
KNOWN_LANGUAGES = {"python", "console", "sql", "ini", "toml", "yaml", "text"}
DEADLINE_S = 120
#: Looked up before pytester moves the home folder.
CACHE = cache_root()

EXAMPLES = [block for block in blocks("python") if block.title.startswith("test_")]
#: Examples of which nothing is left on a browser that is not there.
REAL = {block.title for block in EXAMPLES if block.options.get("on") == "chromium"}
CONSOLES = blocks("console")


def on_fake_lanes(words: list[str]) -> list[str]:
    """Return the arguments of a documented pytest command, for the fake browser instead of Chromium."""
    words = [word.replace("chromium", "fake") for word in words]
    if "pytest_webaccel.conformance" in words:  # all of it takes minutes
        words += ["-k", "test_abs"]
    chosen = {"--webaccel-browser", "--webaccel-lanes"} & set(words)
    return words if chosen else [*words, "--webaccel-browser", "fake"]


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(*arguments, "-p", "no:cacheprovider", timeout=DEADLINE_S)


def write_files(pytester: pytest.Pytester, page: str) -> None:
    for name, body in files(page).items():
        (pytester.path / name).write_text(body, encoding="utf-8")
    # What the command about a copy of one's own names.
    for copy in ("node_modules", "other"):
        dist = pytester.path / copy / "onnxruntime-web" / "dist"
        dist.mkdir(parents=True)
        for build in ("all", "wasm", "webgpu"):
            (dist / f"ort.{build}.min.mjs").touch()


def test_every_block_is_of_a_kind_that_is_tested():
    for block in blocks("python"):
        assert block.title or "run" in block.options, f"{block}: give it a title, or the word run"
    assert {block.language for block in itertools.chain(*map(blocks, KNOWN_LANGUAGES))} == KNOWN_LANGUAGES
    assert not [str(block) for block in blocks("") if block]


@pytest.mark.parametrize("document", sorted({block.page for block in EXAMPLES if block.title not in REAL}))
def test_examples_pass_on_fake_lanes(pytester: pytest.Pytester, document: str):
    write_files(pytester, document)

    result = run(pytester, "--webaccel-browser", "fake", "-rA", *(f"--ignore={name}" for name in REAL))

    outcomes = result.parseoutcomes()
    assert result.ret == 0
    assert not set(outcomes) - {"passed", "skipped"}
    passed = set(re.findall(r"^PASSED (\S+?\.py)::", result.stdout.str(), re.MULTILINE))
    assert passed == {name for name in files(document) if name.startswith("test_")} - REAL


@pytest.mark.parametrize("block", [block for block in blocks("python") if "run" in block.options], ids=str)
def test_snippet_runs_as_it_stands(pytester: pytest.Pytester, block: Block):
    result = pytester.run(sys.executable, pytester.makepyfile(block.body), timeout=DEADLINE_S)

    assert result.ret == 0, result.stderr.str()


def test_readme_example_survives_a_real_crash_on_every_lane(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path
):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    if find(Browser.CHROMIUM) is None:
        pytest.skip("no chromium here: python -m pytest_webaccel install")
    try:
        ort_dist(None)
    except InstallError as error:
        pytest.skip(str(error))
    write_files(pytester, "README.md")
    report = tmp_path / "report.html"

    result = run(pytester, "test_first.py", "-v", "--webaccel-browser", "chromium", "--webaccel-report", str(report))

    outcomes = result.parseoutcomes()
    assert result.ret == 0
    assert "failed" not in outcomes
    lanes = set(re.findall(r"\[(chromium:\w+)\] PASSED", result.stdout.str()))
    assert len(lanes) == outcomes["passed"] >= 1
    text = report.read_text(encoding="utf-8")
    assert all(lane in text for lane in lanes)
    assert "browser_crash" in text


@pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="Playwright is not installed")
@pytest.mark.parametrize("document", sorted({block.page for block in EXAMPLES if block.title in REAL}))
def test_examples_that_need_a_real_browser_pass_on_one(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, document: str
):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    if find(Browser.CHROMIUM) is None:
        pytest.skip("no chromium here: python -m pytest_webaccel install")
    write_files(pytester, document)
    named = REAL & set(files(document))

    result = run(pytester, *sorted(named), "-rA", "-p", "no:playwright", "--webaccel-lanes", "chromium:webgpu")

    assert result.ret == 0
    assert set(re.findall(r"^PASSED (\S+?\.py)::", result.stdout.str(), re.MULTILINE)) == named


def starts_pytest(block: Block) -> bool:
    return any(words[:2] == ["-m", "pytest"] for words in block.commands())


@pytest.mark.parametrize("block", [block for block in CONSOLES if starts_pytest(block)], ids=str)
def test_commands_that_start_pytest_run_on_fake_lanes(
    pytester: pytest.Pytester, block: Block, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))  # or the node tests of onnx would be made anew
    write_files(pytester, block.page)
    for words in block.commands():
        if words[:2] == ["-m", "pytest"]:
            result = run(pytester, *on_fake_lanes(words[2:]))
            assert result.ret == 0, words
            assert result.parseoutcomes()["passed"] >= 1
            assert "chromium" not in result.stdout.str()
        elif words[:3] in (["-m", "pytest_webaccel", "report"], ["-m", "pytest_webaccel", "expectations"]):
            assert pytester.run(sys.executable, *words, timeout=DEADLINE_S).ret == 0, words
    for name in re.findall(r"[\w./]+\.(?:html|duckdb)\b", block.body):
        assert (pytester.path / name).stat().st_size > 0


@pytest.mark.parametrize("block", CONSOLES, ids=str)
def test_commands_name_only_what_exists(block: Block):
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    benches = {path.stem for path in (ROOT / "tests/bench").glob("*.py") if "def main(" in path.read_text()}
    for words in block.commands():
        match words:
            case ["-m", "pytest", *_]:
                pass  # run above, or started by nobody but a reader who has our flags checked elsewhere
            case ["-m", "pytest_webaccel", *rest]:
                _parser().parse_args(rest)
            case ["-m", "pip", "install", "tox" | "duckdb"]:
                pass
            case ["-m", "pip", "install", package]:
                name, _, wanted = package.rstrip("]").partition("[")
                assert name in {"pytest-webaccel", "."}
                assert set(wanted.split(",")) <= set(extras)
            case ["-m", "tox", "run"]:
                pass
            case ["-m", "tox", "run", "-e", names, *rest]:
                assert {f"testenv:{name}" for name in names.split(",")} <= set(tox.sections())
                if names == "bench":
                    assert rest[:1] == ["--"]
                    assert rest[1] in benches
            case _:
                pytest.fail(f"{block}: nobody checks {' '.join(words)!r}")


def made_here(pytester: pytest.Pytester, database: str) -> None:
    """Run the how-to's own command that makes ``database``."""
    write_files(pytester, HOW_TO)
    for block in blocks("console", HOW_TO):
        for words in block.commands():
            if words[:2] == ["-m", "pytest"] and words[-2:] == ["--webaccel-db", database]:
                assert run(pytester, *on_fake_lanes(words[2:])).ret == 0
                return
    pytest.fail(f"no command of {HOW_TO} ends with --webaccel-db {database}")


def test_queries_run_on_a_database_that_the_examples_made(pytester: pytest.Pytester):
    made_here(pytester, "history.duckdb")
    queries = blocks("sql")

    with duckdb.connect(str(pytester.path / "history.duckdb"), read_only=True) as connection:
        counts = {str(block): len(connection.execute(block.body).fetchall()) for block in queries}

    assert counts
    for block in queries:
        empty = block.options.get("expect") == "empty"
        assert (counts[str(block)] == 0) is empty, f"{block}: {counts[str(block)]} rows"


@pytest.mark.parametrize("block", [*blocks("ini"), *blocks("toml")], ids=str)
def test_settings_in_files_are_in_force(pytester: pytest.Pytester, block: Block):
    known = {option.ini for option in OPTIONS}
    keys = re.findall(r"^(webaccel_\w+)", block.body, re.MULTILINE)
    assert keys
    assert set(keys) <= known
    write_files(pytester, block.page)
    (pytester.path / block.title).write_text(block.body.replace("chromium", "fake"), encoding="utf-8")

    result = run(pytester, "test_first.py", "-v", "--strict-config")

    assert result.ret == 0
    ran = set(re.findall(r"\[(fake:\w+)\] PASSED", result.stdout.str()))
    assert ran == {"fake:webgpu", "fake:cpu"}
    assert (pytester.path / "build/history.duckdb").stat().st_size > 0
