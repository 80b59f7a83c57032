"""What a start of each browser depends on; the one place where families of browsers are told apart by the probe."""

from __future__ import annotations

import os

from pytest_webaccel.browsers.locate import CHROMIUM_FAMILY
from pytest_webaccel.terms import Browser

__all__ = ["adapter_hint", "launch_facts", "tries_gpu"]


def launch_facts(browser: Browser, *, headed: bool) -> tuple[str, ...]:
    """Return everything that ``browser`` is started with: where any of it changes, a probe has to be made again."""
    if browser in CHROMIUM_FAMILY:
        from pytest_webaccel.browsers.settings import chromium_arguments

        return chromium_arguments(headed=headed)
    if browser is Browser.FIREFOX:
        from pytest_webaccel.browsers.preferences import (
            VULKAN_VARIABLES,
            firefox_arguments,
            firefox_environment,
            user_js,
        )

        chosen = {name: os.environ.get(name, "") for name in VULKAN_VARIABLES} | firefox_environment()
        environment = sorted(f"{name}={value}" for name, value in chosen.items())
        return (*firefox_arguments(headed=headed), *environment, user_js())
    if browser is Browser.DENO:
        from pytest_webaccel.browsers.deno import INTERFACE_VARIABLE, deno_arguments, deno_environment
        from pytest_webaccel.browsers.preferences import VULKAN_VARIABLES

        names = (*VULKAN_VARIABLES, INTERFACE_VARIABLE)
        chosen = {name: os.environ.get(name, "") for name in names} | deno_environment()
        return (*deno_arguments("about:blank"), *sorted(f"{name}={value}" for name, value in chosen.items()))
    return (f"headed={headed}",)


def tries_gpu(browser: Browser) -> bool:
    """Return whether ``browser`` is started on a GPU here, and could be kept off it."""
    from pytest_webaccel.browsers.settings import has_gpu

    return browser in CHROMIUM_FAMILY and has_gpu()


def adapter_hint(browser: Browser) -> str:
    """Return what computes for WebGPU where the page is told no name; empty where that is not known.

    Only a driver that computes in software is named: that an adapter is hardware must come from the adapter.
    """
    if browser is not Browser.FIREFOX:
        return ""
    from pytest_webaccel.browsers.preferences import vulkan_driver

    return "SwiftShader (the Vulkan driver it was started with; the adapter has no name)" if vulkan_driver() else ""
