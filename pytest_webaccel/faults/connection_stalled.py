"""``connection_stalled``: bytes stop on the page's connection, and nothing closes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.faults.injector import BaseInjector, first_of, silent
from pytest_webaccel.terms import Fault, Symptom

if TYPE_CHECKING:
    from pytest_webaccel.faults.injector import FaultTarget
    from pytest_webaccel.terms import Damage

__all__ = ["ConnectionStalled"]


class ConnectionStalled(BaseInjector):
    """Has the network path of the lane carry nothing more, either way, on connections that stay open.

    No close event ever comes. What sees it is a heartbeat that stays out, or a word of ours that the page leaves
    unanswered for ``patience_s`` seconds.
    """

    fault = Fault.CONNECTION_STALLED
    symptoms = frozenset({Symptom.HEARTBEAT_MISSED})

    def __init__(self, *, patience_s: float = 1.0) -> None:
        self.patience_s = patience_s

    async def _undo(self, target: FaultTarget, deadline: float) -> None:  # noqa: ARG002 - it takes no time
        """Let bytes pass again."""
        target.link.clear()

    async def _break(self, target: FaultTarget, deadline: float) -> None:  # noqa: ARG002 - it takes no time
        target.link.stall()

    async def _see(self, target: FaultTarget, deadline: float) -> Damage:
        return await first_of(
            target.damage(self.symptoms, deadline=deadline),
            silent(target, Symptom.HEARTBEAT_MISSED, patience_s=self.patience_s),
        )
