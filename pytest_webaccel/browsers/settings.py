"""What each browser is started with, and why.

A setting without a reason would not be noticed when it becomes wrong.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from pytest_webaccel.errors import ConfigurationError

__all__ = ["ADAPTER_VARIABLE", "Setting", "chromium_arguments", "chromium_settings", "has_gpu"]

#: Environment variable that, set to ``software``, keeps browsers off a GPU that is there.
ADAPTER_VARIABLE = "PYTEST_WEBACCEL_ADAPTER"


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One command-line flag and the reason for it."""

    flag: str
    reason: str


#: Always given to browsers of the Chromium family.
_ALWAYS = (
    Setting("--enable-unsafe-webgpu", "without it requestAdapter() is null where only a software adapter is"),
    Setting("--disable-gpu-process-crash-limit", "after a few GPU-process crashes no adapter would be handed out"),
    Setting("--disable-domain-blocking-for-3d-apis", "a page whose device was lost may ask for a new one"),
    Setting("--disable-background-timer-throttling", "heartbeats of a page that is not in front stay on time"),
    Setting("--disable-backgrounding-occluded-windows", "a page that nobody looks at keeps its priority"),
    Setting("--disable-renderer-backgrounding", "likewise, for the renderer's process priority"),
    Setting("--disable-background-networking", "nothing is fetched that the test did not ask for"),
    Setting("--disable-component-update", "no component is downloaded or swapped during a run"),
    Setting("--disable-domain-reliability", "no reports are sent about what failed"),
    Setting("--disable-sync", "no account is looked for"),
    Setting("--disable-default-apps", "nothing is installed into a new profile"),
    Setting("--disable-extensions", "a system-wide extension must not touch the page"),
    Setting("--disable-field-trial-config", "two runs of one build behave alike"),
    Setting("--disable-breakpad", "crashes are caused on purpose; none is reported"),
    Setting("--disable-hang-monitor", "a page that hangs on purpose must not raise a dialog"),
    Setting("--disable-popup-blocking", "nothing waits for a click that nobody makes"),
    Setting("--disable-prompt-on-repost", "a reload must not raise a dialog"),
    Setting(
        "--disable-features=Translate,OptimizationHints,MediaRouter,DialMediaRouteProvider,"
        "CertificateTransparencyComponentUpdater,InterestFeedContentSuggestions",
        "services that reach for the network or show their own windows",
    ),
    Setting("--disable-back-forward-cache", "a page that was left is gone, with its process and its memory"),
    Setting("--metrics-recording-only", "no metrics are sent"),
    Setting("--mute-audio", "models of audio must not be heard"),
    Setting("--no-default-browser-check", "no question at the start"),
    Setting("--no-first-run", "no welcome page in a new profile"),
    Setting("--no-service-autorun", "no process is left running after the last window"),
    Setting("--password-store=basic", "no keyring is asked for, and none is unlocked"),
    Setting("--use-mock-keychain", "likewise on macOS"),
    Setting("--force-color-profile=srgb", "pixels that a model reads are the same on every machine"),
)
_WEBNN = "WebMachineLearningNeuralNetwork"
_FEATURES = Setting(f"--enable-features={_WEBNN}", "WebNN is behind this feature")
_HEADLESS = Setting("--headless", "no display is needed; full builds take this for their new headless mode")
_ROOT = Setting("--no-sandbox", "Chromium refuses to start as root with its sandbox; only root is given this")
_SHARED_MEMORY = Setting(
    "--disable-dev-shm-usage", "shared memory is small here, as in many containers, and would run full"
)
_SOFTWARE = (
    Setting("--use-webgpu-adapter=swiftshader", "no GPU is present, so the software adapter is asked for by name"),
    Setting("--use-angle=swiftshader", "likewise for the GL context that the GPU process starts with"),
    Setting("--enable-unsafe-swiftshader", "newer builds refuse the software renderer without it"),
)
#: With a GPU on Linux; elsewhere the browser finds its own way.
_HARDWARE = (
    Setting(
        f"--enable-features={_WEBNN},Vulkan",
        "WebNN is behind the first; without the second the GPU's adapter is not offered, seen with an NVIDIA H200",
    ),
    Setting("--use-angle=vulkan", "likewise: the GL context on the same driver, since WebGPU comes only with one"),
    Setting("--enable-gpu", "headless mode would settle for software"),
    Setting("--ignore-gpu-blocklist", "servers' drivers are on it; whether one works is for the probe to find"),
)
#: /dev/shm below this many bytes is too small for two pages with large tensors.
_SHARED_MEMORY_NEEDED = 512 * 1024 * 1024


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Return whether a GPU may be present: a device node on Linux, always assumed elsewhere.

    Only decides which adapter is asked for. Whether it is hardware is for the probe to say. Never where
    PYTEST_WEBACCEL_ADAPTER is ``software``: some drivers compute and cannot serve a browser. Raises ConfigurationError
    for another word there than ``auto``.
    """
    match os.environ.get(ADAPTER_VARIABLE, "").strip().lower():
        case "software":
            return False
        case "" | "auto":
            pass
        case other:
            raise ConfigurationError(f"{ADAPTER_VARIABLE}={other!r} is not known (known: auto, software)")
    if sys.platform != "linux":
        return True
    return (
        any((devices / "dri").glob("renderD*"))
        or (devices / "nvidia0").exists()
        or (devices / "nvidiactl").exists()
        or (devices / "dxg").exists()
    )


def chromium_settings(
    *, headed: bool = False, gpu: bool | None = None, root: bool | None = None
) -> tuple[Setting, ...]:
    """Return the settings for a browser of the Chromium family on this machine.

    ``gpu`` and ``root`` are found out when None.
    """
    settings = list(_ALWAYS)
    if not headed:
        settings.append(_HEADLESS)
    if root if root is not None else os.geteuid() == 0:
        settings.append(_ROOT)
    if not (gpu if gpu is not None else has_gpu()):
        settings += [_FEATURES, *_SOFTWARE]
    elif sys.platform == "linux":
        settings += _HARDWARE
    else:
        settings.append(_FEATURES)
    if _small_shared_memory():
        settings.append(_SHARED_MEMORY)
    return tuple(settings)


def chromium_arguments(*, headed: bool = False, gpu: bool | None = None, root: bool | None = None) -> tuple[str, ...]:
    """Return the flags of :func:`chromium_settings`."""
    return tuple(setting.flag for setting in chromium_settings(headed=headed, gpu=gpu, root=root))


def _small_shared_memory() -> bool:
    if sys.platform != "linux":
        return False
    try:
        status = os.statvfs("/dev/shm")  # noqa: S108 - looked at, not written
    except OSError:
        return True
    return status.f_blocks * status.f_frsize < _SHARED_MEMORY_NEEDED
