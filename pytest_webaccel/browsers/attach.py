"""Browsers to which a second client, Playwright, can be attached, and whose way to an app can be led through a proxy.

Only those of the Chromium family can do both; whoever asks need not know that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_webaccel.browsers.driver import Driver
from pytest_webaccel.browsers.locate import CHROMIUM_FAMILY
from pytest_webaccel.errors import LaneUnavailableError
from pytest_webaccel.terms import Browser

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_webaccel.browsers.locate import Installation

__all__ = ["Attachable", "attachable", "unattachable"]


class Attachable(Driver, Protocol):
    """A driver whose browser other debugging clients can join."""

    @property
    def endpoint(self) -> str | None:
        """WebSocket address for them while the browser runs; open to every user of the machine."""
        ...

    def led_to(self, url: str) -> None:
        """Take note that another client, or the page itself, has led the page to ``url``, where a reload returns."""
        ...


def unattachable(browser: Browser) -> str:
    """Return why no other client can be attached to ``browser``; empty where one can."""
    if browser in CHROMIUM_FAMILY:
        return ""
    if browser is Browser.FAKE:
        return "the fake browser has no page that Playwright could show"
    if browser is Browser.DENO:
        return "Deno has no page that Playwright could show"
    return f"Playwright attaches to running browsers of the Chromium family only, not to {browser}"


def attachable(
    installation: Installation, *, headed: bool = False, routes: Mapping[tuple[str, int], int] | None = None
) -> Attachable:
    """Return a driver, not started yet, that other clients can join.

    ``routes`` leads the browser's connections to a host and port to a port of 127.0.0.1 instead; addresses, hosts
    and certificates stay what they are. Raises LaneUnavailableError for a browser that cannot be joined.
    """
    if reason := unattachable(installation.browser):
        raise LaneUnavailableError(reason)
    from pytest_webaccel.browsers.chromium import ChromiumDriver

    rules = [f"MAP {_bracketed(host)}:{port} 127.0.0.1:{to}" for (host, port), to in (routes or {}).items()]
    arguments = [f"--host-resolver-rules={','.join(rules)}"] if rules else []
    return ChromiumDriver(installation, headed=headed, debugging_port=True, arguments=arguments)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
