"""``page_crash``: the renderer process dies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.faults.injector import BaseInjector
from pytest_webaccel.terms import Browser, Fault, Symptom

if TYPE_CHECKING:
    from pytest_webaccel.faults.injector import FaultTarget
    from pytest_webaccel.terms import ProbeResult

__all__ = ["PageCrash"]


class PageCrash(BaseInjector):
    """Has the process of the lane's page die; the browser lives on and shows a page that is gone."""

    fault = Fault.PAGE_CRASH
    symptoms = frozenset({Symptom.PAGE_CRASHED})

    def meaning(self, lane: ProbeResult) -> str | None:
        """Return None, but for Deno, which has one process."""
        if lane.lane.browser is Browser.DENO:
            return "Deno has no page apart from its process, which browser_crash kills"
        return None

    async def _break(self, target: FaultTarget, deadline: float) -> None:  # noqa: ARG002 - it is not waited for
        target.driver.crash_page()
