from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pytest_webaccel.__main__ import main
from pytest_webaccel.errors import InstallError


@pytest.fixture
def bare(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_doctor_answers_with_json_and_its_exit_status(bare, capsys):
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["healthy"] is False


def test_failed_installation_is_one_paragraph_on_standard_error(bare, capsys):
    assert main(["install", "chromium", "--source", "npm"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


def test_install_brings_what_is_named_only(monkeypatch, capsys):
    brought = []
    monkeypatch.setattr("pytest_webaccel.browsers.install.install", lambda *a, **k: brought.append((a, k["force"])))

    def no_ort(**_):
        raise InstallError("asked for onnxruntime-web")

    monkeypatch.setattr("pytest_webaccel.browsers.install.ort.install_ort", no_ort)
    assert main(["install", "chromium", "--source", "debian", "--force"]) == 0
    assert brought == [(("chromium", "debian"), True)]
    assert main(["install"]) == 1
    assert "asked for onnxruntime-web" in capsys.readouterr().err


def test_firefox_that_cannot_come_is_said_in_one_line_and_fails_nothing_unless_asked_for(monkeypatch, capsys):
    def only_chromium(what="chromium", *_, **__):
        if what == "firefox":
            raise InstallError("Debian's packages need root.")

    entry = SimpleNamespace(version="1.30.0", folder="/cache")
    monkeypatch.setattr("pytest_webaccel.browsers.install.install", only_chromium)
    monkeypatch.setattr("pytest_webaccel.browsers.install.ort.install_ort", lambda **_: (entry, False))
    assert main(["install"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "firefox: left out. Debian's packages need root."
    assert main(["install", "firefox"]) == 1
    assert "need root" in capsys.readouterr().err


def test_interruption_ends_with_the_shells_status(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pytest_webaccel.browsers.install.install", interrupted)
    assert main(["install"]) == 130
    assert capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["dance"], ["install", "netscape"], ["report", "x.duckdb"]])
def test_wrong_call_ends_with_status_two(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize("command", ["install", "doctor", "report"])
def test_help_names_every_command(command, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert command in capsys.readouterr().out


def test_finding_browsers_loads_nothing_heavy():
    heavy = ("psutil", "aiohttp", "duckdb", "playwright", "tarfile", "brotli", "tqdm", "filelock")
    script = f"import sys, pytest_webaccel.browsers; print([name for name in {heavy!r} if name in sys.modules])"
    import pathlib

    import pytest_webaccel

    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(pytest_webaccel.__file__).parents[1],
    )
    assert result.stdout.strip() == "[]"
