from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING

import pytest

from pytest_webaccel.browsers import Installation, memory
from pytest_webaccel.terms import Backend, Browser, Evidence, Lane, ProbeResult

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def installation(tmp_path):
    executable = tmp_path / "chromium"
    executable.write_bytes(b"binary")
    return Installation(Browser.CHROMIUM, executable, "153.0.1", "system")


@pytest.fixture
def results(installation):
    return tuple(
        ProbeResult(
            Lane(Browser.CHROMIUM, backend),
            True,
            Evidence.SOFTWARE,
            "153.0.1",
            str(installation.executable),
            "swiftshader",
        )
        for backend in Backend
    )


def stored(cache: Path) -> Path:
    (file,) = (cache / "probes").iterdir()
    return file


def test_results_come_back(cache, installation, results):
    memory.remember("name", results)
    assert memory.recall("name", installation) == results


def test_nothing_is_recalled_where_nothing_was_kept(cache, installation):
    assert memory.recall("name", installation) is None


def test_every_torn_file_is_as_good_as_none(cache, installation, results):
    memory.remember("name", results)
    whole = stored(cache).read_bytes()
    for end in range(0, len(whole), 37):
        stored(cache).write_bytes(whole[:end])
        assert memory.recall("name", installation) is None, f"believed after {end} bytes"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: [],
        lambda data: {"results": data["results"][:2]},
        lambda data: {"results": [{**data["results"][0], "lane": "chromium:quantum"}, *data["results"][1:]]},
        lambda data: {"results": [{**data["results"][0], "limits": {"x": "many"}}, *data["results"][1:]]},
        lambda data: {"results": [{**item, "executable": "/elsewhere"} for item in data["results"]]},
        lambda data: {"results": data["results"], "padding": "x" * 300_000},
    ],
)
def test_file_of_another_form_is_ignored(cache, installation, results, spoil):
    memory.remember("name", results)
    stored(cache).write_text(json.dumps(spoil(json.loads(stored(cache).read_text()))))
    assert memory.recall("name", installation) is None


def test_key_changes_with_build_flags_environment_and_script(installation):
    plain = memory.key(installation, ["--a"], "script")
    assert plain == memory.key(installation, ["--a"], "script")
    others = {
        memory.key(installation, ["--b"], "script"),
        memory.key(installation, ["--a"], "other"),
        memory.key(dataclasses.replace(installation, environment={"LD_LIBRARY_PATH": "/x"}), ["--a"], "script"),
    }
    os.utime(installation.executable, ns=(1, 1))
    others.add(memory.key(installation, ["--a"], "script"))
    assert len(others | {plain}) == 5


def test_driver_is_known_by_its_module_version(tmp_path):
    module = tmp_path / "sys/module/nvidia/version"
    module.parent.mkdir(parents=True)
    module.write_text("550.1")
    before = memory.graphics_driver(tmp_path)
    module.write_text("560.2")
    assert memory.graphics_driver(tmp_path) != before


def test_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch, installation, results):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(tmp_path / "file" / "cache"))
    memory.remember("name", results)
    assert memory.recall("name", installation) is None
