from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from pytest_webaccel.browsers import Installation
from pytest_webaccel.browsers.install import commands, install
from pytest_webaccel.browsers.install.ort import ort_versions
from pytest_webaccel.errors import ConfigurationError, InstallError
from pytest_webaccel.terms import Browser


@pytest.fixture
def fake_apt(tmp_path, monkeypatch):
    folder = tmp_path / "apt"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def write(body: str) -> None:
        (folder / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{body}\n')
        (folder / "apt-get").chmod(0o755)

    return folder / "calls", write


def test_debian_takes_the_full_build_where_the_small_one_is_not_packaged(fake_apt):
    calls, write = fake_apt
    write('case "$*" in *chromium-headless-shell) echo "E: Unable to locate package" >&2; exit 100;; esac')
    install("chromium", "debian")
    assert [line.split()[-1] for line in calls.read_text().splitlines()] == [
        "update",
        "chromium-headless-shell",
        "chromium",
    ]


def test_debian_failure_repeats_what_apt_said(fake_apt):
    fake_apt[1]("echo 'E: Could not resolve host' >&2; exit 100")
    with pytest.raises(InstallError, match="E: Could not resolve host"):
        install("chromium", "debian")


def test_debian_without_root_says_what_root_would_do(fake_apt, monkeypatch):
    fake_apt[1]("")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InstallError, match="need root: run `apt-get install chromium`"):
        install("chromium", "debian")
    assert not fake_apt[0].exists()


@pytest.fixture
def no_firefox(cache, monkeypatch):
    """A machine without Firefox until apt-get installed one."""
    brought = Installation(Browser.FIREFOX, Path("/usr/bin/firefox-esr"), "153.7.0", "system")
    answers = iter([None, brought])
    monkeypatch.setattr("pytest_webaccel.browsers.locate.find", lambda browser: next(answers))
    return brought


def words(calls: Path) -> list[list[str]]:
    return [
        [word for word in line.split() if "=" not in word and word != "-o"] for line in calls.read_text().splitlines()
    ]


def test_firefox_comes_at_once_where_apts_lists_know_it(fake_apt, no_firefox):
    calls, write = fake_apt
    write("")
    said: list[str] = []
    assert install("firefox", echo=said.append) == no_firefox.executable
    assert words(calls) == [["install", "--yes", "--no-install-recommends", "firefox-esr", "mesa-vulkan-drivers"]]
    assert said == ["firefox 153.7.0: installed from Debian's packages, /usr/bin/firefox-esr"]


def test_firefox_comes_after_one_update_where_the_lists_are_empty_and_by_its_other_name(fake_apt, no_firefox):
    calls, write = fake_apt
    write('case "$*" in *firefox-esr*) echo "E: Unable to locate package" >&2; exit 100;; esac')
    install("firefox")
    assert [line[0] for line in words(calls)] == ["install", "update", "install", "install"]
    assert words(calls)[-1][-2:] == ["firefox", "mesa-vulkan-drivers"]


def test_firefox_needs_only_the_loader_where_swiftshader_is_in_the_cache(fake_apt, no_firefox, monkeypatch):
    calls, write = fake_apt
    write("")
    monkeypatch.setattr("pytest_webaccel.browsers.preferences.swiftshader", lambda: Path("/cache/icd.json"))
    install("firefox")
    assert words(calls)[0][-1] == "libvulkan1"


def test_firefox_that_is_there_is_left_alone(fake_apt, monkeypatch):
    calls, write = fake_apt
    write("exit 100")
    there = Installation(Browser.FIREFOX, Path("/usr/bin/firefox"), "150", "system")
    monkeypatch.setattr("pytest_webaccel.browsers.locate.find", lambda browser: there)
    monkeypatch.setattr("pytest_webaccel.browsers.install.debian.vulkan_loader_found", lambda: True)
    said: list[str] = []
    assert install("firefox", echo=said.append) == there.executable
    assert said == ["firefox 150: already there, /usr/bin/firefox"]
    assert not calls.exists()


def test_firefox_from_elsewhere_is_refused():
    with pytest.raises(ConfigurationError, match="does not come from npm"):
        install("firefox", "npm")


def test_playwright_failure_repeats_what_it_said(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'Error: getaddrinfo ENOTFOUND' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(InstallError, match=r"ENOTFOUND.*must be reachable"):
        install("chromium", "playwright")


def test_command_past_its_deadline_is_ended_with_its_children(tmp_path):
    began = time.monotonic()
    with pytest.raises(InstallError, match="did not end within"):
        commands.run(["sh", "-c", f"sleep 600 & echo $! > {tmp_path}/child; wait"], deadline=0.5)
    assert time.monotonic() - began < 60
    child = int((tmp_path / "child").read_text())
    import psutil

    assert not psutil.pid_exists(child) or psutil.Process(child).wait(20) is None


def test_command_that_cannot_be_started_is_an_install_error(tmp_path):
    with pytest.raises(InstallError, match="could not be started"):
        commands.run([str(tmp_path / "missing")], deadline=1)


@pytest.mark.parametrize(
    ("versions", "names"),
    [
        (["1.29.0", "1.30.0"], ["1.29.0", "1.30.0"]),
        (["1.30.0", "1.30.0", "1.29.0", "1.30.0"], ["1.30.0", "1.30.0+2", "1.29.0", "1.30.0+3"]),
        (["1.30.0+mine", "1.30.0+yours"], ["1.30.0", "1.30.0+2"]),
    ],
)
def test_copies_of_one_version_are_told_apart(tmp_path, versions, names):
    copies = []
    for number, version in enumerate(versions):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "ort.wasm.min.mjs").touch()
        (folder / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": version}))
        copies.append(folder)
    assert ort_versions([*copies, tmp_path / "none"]) == [*names, "-none"]
