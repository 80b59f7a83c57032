"""What --webaccel-app may name."""

from __future__ import annotations

import pytest

from pytest_webaccel.app import objection, source_of
from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.terms import Evidence, Lane, ProbeResult


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://localhost:8080/app/?model=small", "localhost", 8080),
        ("https://app.example", "app.example", 443),
        ("http://127.0.0.1", "127.0.0.1", 80),
        ("http://[::1]:9000/", "::1", 9000),
    ],
)
def test_an_address_is_kept_as_it_is(text, host, port):
    source = source_of(text)
    assert (source.folder, source.url, source.host, source.port) == (None, text, host, port)
    assert str(source) == text


def test_a_folder_with_an_index_is_an_app(tmp_path, monkeypatch):
    (tmp_path / "index.html").touch()
    monkeypatch.chdir(tmp_path.parent)
    assert source_of(tmp_path).folder == tmp_path
    assert source_of(tmp_path.name).folder == tmp_path
    assert str(source_of(tmp_path.name)) == str(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("missing", "the folder is not there"),
        ("", "the folder is not there"),
        ("file.txt", "the folder is a file, not a folder"),
        ("empty", "the folder has no index.html; it has nothing"),
        ("built", "the folder has no index.html; it has main.js, styles.css"),
        ("ftp://host/app", "no address of the form http://HOST"),
        ("file:///app/index.html", "no address of the form http://HOST"),
        ("http:///app", "no address of the form http://HOST"),
        ("http://host:port/", "is no address"),
        ("http://host:99999/", "is no address"),
    ],
)
def test_what_is_no_app_is_refused_with_what_to_do(tmp_path, monkeypatch, text, message):
    (tmp_path / "file.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "built").mkdir()
    for name in ("main.js", "styles.css"):
        (tmp_path / "built" / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        source_of(text)


def test_a_lane_that_playwright_cannot_join_is_objected_to():
    probe = ProbeResult(Lane.parse("firefox:webgpu"), works=True, evidence=Evidence.SOFTWARE)
    assert "Chromium family only, not to firefox" in objection("app", probe)
