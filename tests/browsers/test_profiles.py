from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import psutil
import pytest

from pytest_webaccel.browsers.profiles import Profile, sweep
from pytest_webaccel.errors import BrowserError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def dead_pid():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def abandoned(parent: Path, pid: int, created: int = 1) -> Path:
    folder = parent / f"webaccel-{pid}-{created}-abc"
    (folder / "profile").mkdir(parents=True)
    (folder / "owner.lock").touch()
    return folder


def test_profile_is_private_and_removed_with_all_that_is_in_it(temporary):
    profile = Profile()
    assert profile.folder.parent == temporary
    assert stat.S_IMODE(profile.path.stat().st_mode) == 0o700
    (profile.path / "Default").mkdir()
    (profile.path / "Default" / "Cookies").write_text("x")
    assert asyncio.run(profile.remove(deadline=5))
    assert list(temporary.iterdir()) == []


def test_removal_is_tried_again_until_a_dying_process_has_let_go(temporary, monkeypatch):
    profile = Profile()
    remove, refusals = shutil.rmtree, [1, 2, 3]
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: refusals.pop() if refusals else remove(*a, **k))
    assert asyncio.run(profile.remove(deadline=5))
    assert not refusals


def test_profile_that_cannot_be_removed_is_reported_at_the_deadline(temporary, monkeypatch):
    profile = Profile()
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: None)
    assert asyncio.run(profile.remove(deadline=0.05)) is False


def test_profile_without_a_place_says_where_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(BrowserError, match="TMPDIR"):
        Profile()


def test_sweep_removes_a_dead_owners_profile(tmp_path, dead_pid):
    folder = abandoned(tmp_path, dead_pid)
    assert sweep(tmp_path) == [folder]
    assert not folder.exists()


def test_sweep_removes_the_profile_of_an_owner_whose_process_id_was_given_to_another(tmp_path):
    folder = abandoned(tmp_path, os.getpid(), created=1)
    assert sweep(tmp_path) == [folder]


def test_sweep_keeps_what_belongs_to_a_living_owner(tmp_path):
    created = int(psutil.Process().create_time() * 1000)
    folder = abandoned(tmp_path, os.getpid(), created)
    assert sweep(tmp_path) == []
    assert folder.exists()


def test_sweep_keeps_what_is_locked_though_the_process_id_means_nothing_here(tmp_path, dead_pid):
    folder = abandoned(tmp_path, dead_pid)
    with (folder / "owner.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sweep(tmp_path) == []
    assert sweep(tmp_path) == [folder]


def test_sweep_keeps_a_folder_whose_lock_is_not_there_yet(tmp_path, dead_pid):
    folder = abandoned(tmp_path, dead_pid)
    (folder / "owner.lock").unlink()
    assert sweep(tmp_path) == []
    os.utime(folder, (1, 1))
    assert sweep(tmp_path) == [folder]


def test_sweep_touches_neither_links_nor_other_names(tmp_path, dead_pid):
    target = tmp_path / "precious"
    target.mkdir()
    (tmp_path / f"webaccel-{dead_pid}-1-link").symlink_to(target)
    (tmp_path / "webaccel-notes").mkdir()
    assert sweep(tmp_path) == []
    assert target.is_dir()
