from __future__ import annotations

import os
import sys
import time

import pytest

from pytest_webaccel.browsers.install import commands, install
from pytest_webaccel.errors import InstallError


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
