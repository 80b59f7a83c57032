"""``browser_crash``: the whole process tree is killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.errors import BrowserError
from pytest_webaccel.faults.injector import BaseInjector
from pytest_webaccel.terms import Fault, Symptom

if TYPE_CHECKING:
    from pytest_webaccel.faults.injector import FaultTarget

__all__ = ["BrowserCrash"]


class BrowserCrash(BaseInjector):
    """Sends SIGKILL to every process of the browser.

    The closed socket is often seen first; the fault counts as observed only when the exit is.
    """

    fault = Fault.BROWSER_CRASH
    symptoms = frozenset({Symptom.BROWSER_EXITED})

    async def _break(self, target: FaultTarget, deadline: float) -> None:  # noqa: ARG002 - a signal takes no time
        if target.driver.pid is None:
            raise BrowserError("the browser is not running")
        target.driver.kill()
