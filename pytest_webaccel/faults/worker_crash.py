"""``worker_crash``: the xdist worker process that runs the test dies."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, ClassVar

from pytest_webaccel.faults.injector import BaseInjector
from pytest_webaccel.terms import Fault, FaultPoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_webaccel.faults.injector import FaultTarget
    from pytest_webaccel.terms import ProbeResult

__all__ = ["WorkerCrash"]


class WorkerCrash(BaseInjector):
    """Sends this very process SIGKILL; its browsers die with it.

    Nobody is left here to see the damage: the controller does, and the lease has noted in the test's ledger
    why the worker dies before it asks for this.
    """

    fault = Fault.WORKER_CRASH
    symptoms = frozenset()
    misfits: ClassVar[Mapping[FaultPoint, str]] = {
        FaultPoint.DURING_RECOVERY: "the first blow ends the worker, so nothing recovers in it",
    }

    def meaning(self, lane: ProbeResult) -> str | None:  # noqa: ARG002 - the Protocol's signature
        """Return None in a worker of pytest-xdist, which is replaced; pytest's own process is not."""
        if os.environ.get("PYTEST_XDIST_WORKER"):
            return None
        return "the test runs in pytest's own process, which nobody would replace; run with pytest-xdist, -n1 or more"

    async def _break(self, target: FaultTarget, deadline: float) -> None:  # noqa: ARG002 - it takes no time
        os.kill(os.getpid(), signal.SIGKILL)
