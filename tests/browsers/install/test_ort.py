from __future__ import annotations

import json

import pytest

from pytest_webaccel.browsers.install import ort
from pytest_webaccel.errors import ConfigurationError, InstallError

from .conftest import package_of, tar


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    (folder / "dist" / "ort.all.bundle.min.mjs").write_text("/*!\n * ONNX Runtime Web v1.22.0-dev.1\n */")
    return folder


def test_users_copy_is_taken_by_its_package_folder_or_its_dist(package):
    assert ort.ort_dist(package) == package / "dist"
    assert ort.ort_dist(package / "dist") == package / "dist"


def test_folder_without_modules_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigurationError, match=r"has no ort\.\*\.mjs"):
        ort.ort_dist(tmp_path)


def test_missing_pinned_copy_says_how_to_get_it(cache):
    with pytest.raises(InstallError, match="python -m pytest_webaccel install"):
        ort.ort_dist(None)


def test_version_is_the_packages_then_the_headers_then_unknown(package):
    assert ort.ort_version(package / "dist") == "1.22.0-dev.1"
    (package / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": "1.23.0"}))
    assert ort.ort_version(package / "dist") == "1.23.0"
    (package / "package.json").write_text("{ torn")
    (package / "dist" / "ort.all.bundle.min.mjs").write_text("")
    assert ort.ort_version(package / "dist") == "unknown"


def test_pinned_copy_is_fetched_once_and_found(cache, fake_npm, monkeypatch, tmp_path):
    tarball = tmp_path / "ort.tgz"
    tarball.write_bytes(
        tar(
            {
                "package/package.json": b'{"name": "onnxruntime-web", "version": "1.30.0"}',
                "package/dist/ort.all.bundle.min.mjs": b"export {}",
                "package/dist/ort.all.bundle.min.mjs.map": b"{}",
                "package/lib/index.ts": b"",
            }
        )
    )
    monkeypatch.setattr(ort, "ORT", package_of("onnxruntime-web", "1.30.0", tarball.read_bytes()))
    fake_npm(f"shutil.copy({str(tarball)!r}, sys.argv[sys.argv.index('--pack-destination') + 1])")
    assert ort.install_ort()[1] is True
    fake_npm("sys.exit(9)")
    assert ort.install_ort()[1] is False
    dist = ort.ort_dist(None)
    assert [path.name for path in dist.iterdir()] == ["ort.all.bundle.min.mjs"]
    assert ort.ort_version(dist) == "1.30.0"
