"""Finding, installing, starting and probing browsers.

``find`` and ``find_all`` look for browsers, ``make_driver`` makes the driver of one. Browsers that
are not of the Chromium family join through ``DRIVERS``.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_webaccel.browsers.driver import DamageListener, Driver
from pytest_webaccel.browsers.locate import CHROMIUM_FAMILY, Installation, find, find_all
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import Browser

__all__ = [
    "CHROMIUM_FAMILY",
    "DRIVERS",
    "DamageListener",
    "Driver",
    "DriverFactory",
    "Installation",
    "drivable",
    "find",
    "find_all",
    "make_driver",
]

#: Makes the driver of an installation; called with ``headed`` and ``debugging_port`` as keywords.
DriverFactory = Callable[..., Driver]


def _chromium(installation: Installation, *, headed: bool = False, debugging_port: bool = False) -> Driver:
    # Deferred: its process tree needs psutil, which a run without browsers should not load.
    from pytest_webaccel.browsers.chromium import ChromiumDriver

    return ChromiumDriver(installation, headed=headed, debugging_port=debugging_port)


def _firefox(installation: Installation, *, headed: bool = False, debugging_port: bool = False) -> Driver:
    from pytest_webaccel.browsers.firefox import FirefoxDriver

    return FirefoxDriver(installation, headed=headed, debugging_port=debugging_port)


def _deno(installation: Installation, *, headed: bool = False, debugging_port: bool = False) -> Driver:
    from pytest_webaccel.browsers.deno import DenoDriver

    return DenoDriver(installation, headed=headed, debugging_port=debugging_port)


#: Driver factories by browser. Plugins and :mod:`pytest_webaccel.testing` add theirs.
DRIVERS: dict[Browser, DriverFactory] = {
    **dict.fromkeys(sorted(CHROMIUM_FAMILY), _chromium),
    Browser.FIREFOX: _firefox,
    Browser.DENO: _deno,
}


def drivable(browser: Browser) -> bool:
    """Return whether lanes on ``browser`` are supported in this version."""
    return browser in DRIVERS


def make_driver(installation: Installation, *, headed: bool = False, debugging_port: bool = False) -> Driver:
    """Return a driver, not started yet, for ``installation``.

    Raises BrowserError when no driver of this version can drive that browser.
    """
    factory = DRIVERS.get(installation.browser)
    if factory is None:
        raise BrowserError(
            f"{installation.browser} was found at {installation.executable}, but lanes for it are not supported in "
            f"this version. Use one of: {', '.join(sorted(DRIVERS))}."
        )
    return factory(installation, headed=headed, debugging_port=debugging_port)
