"""``connection_lost``: the bridge's socket is aborted in mid-message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.faults.injector import BaseInjector
from pytest_webaccel.terms import Fault, Symptom

if TYPE_CHECKING:
    from pytest_webaccel.faults.injector import FaultTarget

__all__ = ["ConnectionLost"]


class ConnectionLost(BaseInjector):
    """Aborts the TCP connection without a closing handshake; page, models and device live on."""

    fault = Fault.CONNECTION_LOST
    symptoms = frozenset({Symptom.SOCKET_CLOSED})

    async def _break(self, target: FaultTarget, deadline: float) -> None:  # noqa: ARG002 - aborting takes no time
        target.abort_connection()
