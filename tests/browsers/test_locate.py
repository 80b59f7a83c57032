from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_webaccel.browsers import drivable, find, find_all, locate, make_driver
from pytest_webaccel.errors import BrowserError, ConfigurationError
from pytest_webaccel.terms import Browser


def program(path: Path, version: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path, cache, monkeypatch):
    """A machine with nothing installed."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    monkeypatch.setenv("PATH", str(binaries))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "playwright"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(locate, "_packaged", lambda: iter(()))
    return tmp_path


def cached(cache: Path, name: str, version: str) -> Path:
    folder = cache / "chromium" / name
    program(folder / "chromium", "x")
    (folder / "webaccel.json").write_text(json.dumps({"version": version, "main": "chromium", "source": "npm"}))
    return folder / "chromium"


def test_nothing_is_found_where_nothing_is(machine):
    assert find(Browser.CHROMIUM) is None
    assert find_all() == ()


@pytest.mark.parametrize(
    ("name", "output", "browser", "version"),
    [
        ("chromium", "Chromium 140.0.7339.80 built on Debian", Browser.CHROMIUM, "140.0.7339.80"),
        ("chromium-headless-shell", "Chromium 153.0.1.2 snap", Browser.CHROMIUM, "153.0.1.2"),
        ("google-chrome", "Google Chrome 141.0.1.2", Browser.CHROME, "141.0.1.2"),
        ("microsoft-edge", "Microsoft Edge 142.0.1", Browser.EDGE, "142.0.1"),
        ("firefox-esr", "Mozilla Firefox 140.1.0esr", Browser.FIREFOX, "140.1.0"),
        ("deno", "deno 2.9.8 (stable, release, x86_64-unknown-linux-gnu)", Browser.DENO, "2.9.8"),
        ("chromium-browser", "no number", Browser.CHROMIUM, ""),
    ],
)
def test_browser_on_the_path_is_found_with_its_version(machine, name, output, browser, version):
    path = program(machine / "bin" / name, output)
    assert find(browser) == locate.Installation(browser, path, version, "system")


def test_our_cache_comes_before_the_system_and_the_newest_in_it_first(machine, cache):
    program(machine / "bin" / "chromium", "Chromium 160.0.0")
    cached(cache, "99.0.0-npm", "99.0.0")
    newest = cached(cache, "153.0.0-npm", "153.0.0")
    found = find(Browser.CHROMIUM)
    assert found is not None
    assert (found.executable, found.source) == (newest, "cache")
    assert [installation.version for installation in find_all()] == ["153.0.0", "99.0.0", "160.0.0"]


@pytest.mark.parametrize("manifest", ["", "{", "[]", '{"version": "1"}', '{"version":"1","main":"gone","source":""}'])
def test_cache_entry_with_a_spoilt_manifest_is_no_browser(machine, cache, manifest):
    executable = cached(cache, "153.0.0-npm", "153.0.0")
    executable.with_name("webaccel.json").write_text(manifest)
    assert find(Browser.CHROMIUM) is None


def test_playwrights_headless_shell_is_found_last(machine):
    shell = machine / "playwright" / "chromium_headless_shell-1200" / "chrome-linux" / "headless_shell"
    program(shell, "Chromium 150.0.0")
    assert find(Browser.CHROMIUM) == locate.Installation(Browser.CHROMIUM, shell, "150.0.0", "playwright")
    program(machine / "bin" / "chromium", "Chromium 140.0.0")
    found = find(Browser.CHROMIUM)
    assert found is not None
    assert found.source == "system"


def test_explicit_program_wins_and_keeps_the_environment_of_a_cached_one(machine, cache):
    other = program(machine / "other" / "chrome", "Chromium 1.2.3")
    known = cached(cache, "153.0.0-npm", "153.0.0")
    (known.parent / "lib").mkdir()
    assert find(Browser.CHROMIUM, other) == locate.Installation(Browser.CHROMIUM, other, "1.2.3", "explicit")
    found = find(Browser.CHROMIUM, known)
    assert found is not None
    assert found.source == "explicit"
    assert str(known.parent / "lib") in found.environment["LD_LIBRARY_PATH"].split(os.pathsep)


def test_explicit_program_that_cannot_be_run_is_refused(machine):
    (machine / "notes.txt").write_text("x")
    for path in (machine / "missing", machine / "notes.txt", machine):
        with pytest.raises(ConfigurationError, match="no program that can be run"):
            find(Browser.CHROMIUM, path)


def test_browser_found_but_not_supported_says_so():
    assert not drivable(Browser.WEBKIT)
    with pytest.raises(BrowserError, match="not supported in this version"):
        make_driver(locate.Installation(Browser.WEBKIT, Path("/usr/bin/MiniBrowser"), "2.50", "system"))


def test_script_that_only_leads_to_another_program_is_no_browser_of_its_own(machine):
    leads = machine / "bin" / "firefox"
    leads.write_text('#!/bin/sh\nexec firefox-esr "$@"\n')
    leads.chmod(0o755)
    alone = find(Browser.FIREFOX)
    assert alone is not None
    assert alone.executable == leads, "what it leads to is not on the PATH, so it is all there is"
    real = program(machine / "bin" / "firefox-esr", "Mozilla Firefox 153.7.0esr")
    assert [found.executable for found in find_all()] == [real]


@pytest.mark.parametrize(
    ("text", "version"),
    [("[App]\nName=Firefox\nVersion=153.7.0\nBuildID=1\n", "153.7.0"), ("[App]\n", "9.9"), ("Version=none\n", "9.9")],
)
def test_version_of_firefox_is_read_from_beside_its_program(machine, text, version):
    real = program(machine / "lib" / "firefox", "Mozilla Firefox 9.9")
    real.with_name("application.ini").write_text(text)
    (machine / "bin" / "firefox").symlink_to(real)
    found = find(Browser.FIREFOX)
    assert found is not None
    assert found.version == version


def test_the_python_package_of_deno_comes_before_the_system(tmp_path, cache, monkeypatch):
    package = program(tmp_path / "scripts" / "deno", "deno 2.9.8")
    system = program(tmp_path / "bin" / "deno", "deno 2.0.0")
    monkeypatch.setenv("PATH", str(system.parent))
    monkeypatch.setitem(sys.modules, "deno", SimpleNamespace(find_deno_bin=lambda: str(package)))
    assert find(Browser.DENO) == locate.Installation(Browser.DENO, package, "2.9.8", "package")
    assert find(Browser.DENO, system) == locate.Installation(Browser.DENO, system, "2.0.0", "explicit")

    def gone() -> str:
        raise FileNotFoundError(package)

    monkeypatch.setitem(sys.modules, "deno", SimpleNamespace(find_deno_bin=gone))
    assert find(Browser.DENO) == locate.Installation(Browser.DENO, system, "2.0.0", "system")
