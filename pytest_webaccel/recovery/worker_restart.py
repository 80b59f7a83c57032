"""Ending a worker on purpose: the fault ``worker_crash``, and ``worker_restart``, the control that mends nothing.

pytest-xdist replaces the worker; our scheduler hands its test out once more; the ledger says why it died.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NoReturn

from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from pytest_webaccel.recovery.ledger import Death, Ledger

__all__ = ["WORKER_VARIABLE", "end_worker", "no_worker"]

#: Environment variable in which pytest-xdist tells a worker its name.
WORKER_VARIABLE = "PYTEST_XDIST_WORKER"


def no_worker() -> str:
    """Return why this process cannot be ended and replaced; empty where it can."""
    if os.environ.get(WORKER_VARIABLE):
        return ""
    return "the test runs in pytest's own process, which nobody would replace; run with pytest-xdist, -n1 or more"


def end_worker(ledger: Ledger | None, death: Death) -> NoReturn:
    """Note ``death`` in the test's ledger and end this worker at once, with SIGKILL.

    Raises ConfigurationError where there is no worker that could be replaced, or no ledger that it would find.
    """
    if reason := no_worker():
        raise ConfigurationError(f"strategy {death.strategy}, fault {death.fault} on {death.lane}: {reason}")
    if ledger is None:
        raise ConfigurationError(
            f"strategy {death.strategy}, fault {death.fault} on {death.lane}: this worker shares no folder with its "
            "controller (it runs on another host), so it cannot say why it dies. Use a worker on the same host."
        )
    ledger.die(death)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process that was sent SIGKILL goes on")  # pragma: no cover
