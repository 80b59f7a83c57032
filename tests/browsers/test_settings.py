from __future__ import annotations

import pytest

from pytest_webaccel.browsers.settings import chromium_arguments, chromium_settings, has_gpu
from pytest_webaccel.errors import ConfigurationError


@pytest.mark.parametrize("gpu", [True, False])
def test_every_flag_has_a_reason_and_is_given_once(gpu):
    settings = chromium_settings(gpu=gpu, root=True)
    assert all(setting.reason for setting in settings)
    names = [setting.flag.partition("=")[0] for setting in settings]
    assert len(names) == len(set(names))


def test_sandbox_is_left_out_for_root_only():
    assert "--no-sandbox" in chromium_arguments(root=True)
    assert "--no-sandbox" not in chromium_arguments(root=False)


def test_software_adapter_is_asked_for_only_without_a_gpu():
    assert "--use-webgpu-adapter=swiftshader" in chromium_arguments(gpu=False)
    assert not [flag for flag in chromium_arguments(gpu=True) if "swiftshader" in flag]
    assert "--use-angle=vulkan" in chromium_arguments(gpu=True)
    assert all(any("WebMachineLearning" in flag for flag in chromium_arguments(gpu=gpu)) for gpu in (True, False))


def test_headed_browser_is_given_no_headless_flag():
    assert "--headless" in chromium_arguments()
    assert "--headless" not in chromium_arguments(headed=True)


@pytest.mark.parametrize("node", ["dri/renderD128", "nvidia0", "dxg"])
def test_device_node_means_a_gpu_may_be_there(tmp_path, node):
    assert not has_gpu(tmp_path)
    (tmp_path / node).parent.mkdir(exist_ok=True)
    (tmp_path / node).touch()
    assert has_gpu(tmp_path)


def test_a_gpu_that_cannot_serve_a_browser_is_left_alone_when_asked(tmp_path, monkeypatch):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setenv("PYTEST_WEBACCEL_ADAPTER", " Software ")
    assert not has_gpu(tmp_path)
    assert "--use-webgpu-adapter=swiftshader" in chromium_arguments()
    monkeypatch.setenv("PYTEST_WEBACCEL_ADAPTER", "")
    assert has_gpu(tmp_path)
    monkeypatch.setenv("PYTEST_WEBACCEL_ADAPTER", "sofware")
    with pytest.raises(ConfigurationError, match=r"PYTEST_WEBACCEL_ADAPTER='sofware' is not known"):
        has_gpu(tmp_path)
