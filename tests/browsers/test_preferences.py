from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from pytest_webaccel.browsers import Installation, startup_cache
from pytest_webaccel.browsers.preferences import (
    firefox_arguments,
    firefox_environment,
    firefox_preferences,
    firefox_settings,
    swiftshader,
    user_js,
    vulkan_driver,
)
from pytest_webaccel.terms import Browser

if TYPE_CHECKING:
    from pathlib import Path


def test_every_preference_and_flag_has_a_reason_and_is_there_once():
    preferences = firefox_preferences()
    assert all(preference.reason.strip() for preference in preferences)
    assert len({preference.name for preference in preferences}) == len(preferences)
    assert all(setting.reason.strip() for setting in firefox_settings())


def test_user_js_holds_every_preference_in_firefoxs_own_form():
    lines = user_js().splitlines()
    found = [re.fullmatch(r"user_pref\((.+?), (.+)\);", line) for line in lines]
    assert {json.loads(match[1]): json.loads(match[2]) for match in found if match} == {
        preference.name: preference.value for preference in firefox_preferences()
    }
    assert 'user_pref("dom.webgpu.enabled", true);' in lines


def test_headless_unless_headed_and_the_port_is_always_the_systems_choice():
    assert "--headless" in firefox_arguments()
    assert "--headless" not in firefox_arguments(headed=True)
    assert "--remote-debugging-port=0" in firefox_arguments(headed=True)


@pytest.fixture
def icd(cache, monkeypatch):
    """The description of a SwiftShader in the newest of two cached Chromiums."""
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.delenv(name, raising=False)
    for version in ("99.0.0", "153.0.0"):
        folder = cache / "chromium" / version
        folder.mkdir(parents=True)
        (folder / "chromium").touch()
        (folder / "vk_swiftshader_icd.json").touch()
        manifest = {"version": version, "main": "chromium", "source": "npm"}
        (folder / "webaccel.json").write_text(json.dumps(manifest))
    return cache / "chromium" / "153.0.0" / "vk_swiftshader_icd.json"


def test_software_adapter_is_the_newest_swiftshader_of_our_cache(icd):
    assert swiftshader() == icd
    assert vulkan_driver(gpu=False) == {"VK_DRIVER_FILES": str(icd), "VK_ICD_FILENAMES": str(icd)}
    assert firefox_environment(gpu=False)["VK_DRIVER_FILES"] == str(icd)


def test_systems_driver_stands_where_a_gpu_may_be_and_the_users_where_one_is_named(icd, monkeypatch):
    assert vulkan_driver(gpu=True) == {}
    monkeypatch.setenv("VK_ICD_FILENAMES", "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")
    assert vulkan_driver(gpu=False) == {}


def test_systems_driver_stands_where_our_cache_has_none(cache, monkeypatch):
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.delenv(name, raising=False)
    assert swiftshader() is None
    assert vulkan_driver(gpu=False) == {}


@pytest.fixture
def build(tmp_path):
    program = tmp_path / "firefox" / "firefox"
    program.parent.mkdir()
    program.touch()
    (program.parent / "application.ini").write_text("[App]\nVersion=153.7.0\n")
    return Installation(Browser.FIREFOX, program, "153.7.0", "system")


def used(tmp_path: Path) -> Path:
    """A profile that a Firefox left in good order."""
    profile = tmp_path / "used"
    (profile / "startupCache").mkdir(parents=True)
    (profile / "startupCache" / "scriptCache.bin").write_bytes(b"compiled")
    (profile / "compatibility.ini").write_text("[Compatibility]\n")
    (profile / "cookies.sqlite").write_bytes(b"secret")
    return profile


def test_new_profile_gets_what_an_earlier_one_compiled_and_nothing_else_of_it(cache, build, tmp_path):
    startup_cache.keep(build, used(tmp_path))
    assert startup_cache.is_kept(build)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    startup_cache.restore(build, fresh)
    assert {path.name for path in fresh.rglob("*")} == {"startupCache", "scriptCache.bin", "compatibility.ini"}


def test_another_build_gets_nothing(cache, build, tmp_path):
    startup_cache.keep(build, used(tmp_path))
    (build.executable.parent / "application.ini").write_text("[App]\nVersion=153.8.0\n")
    assert not startup_cache.is_kept(build)


def test_profile_without_a_cache_leaves_nothing(cache, build, tmp_path):
    profile = used(tmp_path)
    shutil.rmtree(profile / "startupCache")
    startup_cache.keep(build, profile)
    assert not startup_cache.is_kept(build)


def test_two_that_keep_at_once_leave_one_whole_cache(cache, build, tmp_path):
    profile = used(tmp_path)
    startup_cache.keep(build, profile)
    startup_cache.keep(build, profile)
    (kept,) = (cache / "firefox" / "startup").iterdir()
    assert (kept / "compatibility.ini").is_file()


def test_cache_that_cannot_be_written_or_read_does_no_harm(build, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(tmp_path / "file" / "cache"))
    startup_cache.keep(build, used(tmp_path))
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    startup_cache.restore(build, fresh)
    assert list(fresh.iterdir()) == []


def test_torn_cache_is_not_half_restored(cache, build, tmp_path):
    startup_cache.keep(build, used(tmp_path))
    (kept,) = (cache / "firefox" / "startup").iterdir()
    shutil.rmtree(kept / "startupCache")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    startup_cache.restore(build, fresh)
    assert list(fresh.iterdir()) == []
