"""``page_reload``: the page navigates away and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.faults.injector import BaseInjector
from pytest_webaccel.terms import Browser, Fault, Symptom

if TYPE_CHECKING:
    from pytest_webaccel.faults.injector import FaultTarget
    from pytest_webaccel.terms import ProbeResult

__all__ = ["PageReload"]


class PageReload(BaseInjector):
    """Has the lane's page go to another address and back to its own, as a reload or a stray link does.

    The page that comes back holds nothing of what the one before held.
    """

    fault = Fault.PAGE_RELOAD
    symptoms = frozenset({Symptom.PAGE_REPLACED})

    def meaning(self, lane: ProbeResult) -> str | None:
        """Return None, but for Deno, where nothing navigates."""
        return "Deno shows no page that could go to another address" if lane.lane.browser is Browser.DENO else None

    async def _break(self, target: FaultTarget, deadline: float) -> None:
        await target.driver.reload(deadline=deadline)
