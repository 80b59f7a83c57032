"""The face of faults by hand: the fixture ``webaccel_faults``."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pytest_webaccel.errors import ConfigurationError, FaultError, RecoveryError
from pytest_webaccel.faces.arguments import strategy, word
from pytest_webaccel.terms import Damage, Fault, FaultPlan, FaultPoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

__all__ = ["Faults"]

#: Seconds between two looks at whether an app has recovered.
_ASK_AGAIN_S = 0.005

#: Seconds that a fault by hand may take, a spare made ready before it included.
_INJECT_S = 90.0


class Faults:
    """Faults by hand, on the lane that the test has leased."""

    def __init__(self, worker: Worker, lease: Lease) -> None:
        self._worker = worker
        self._lease = lease

    def inject(self, name: str, *, recovery: str | None = None) -> Damage:
        """Cause a fault now and return the damage that was seen.

        The next request meets a damaged lane and is recovered by ``recovery``, by default the run's
        strategy; what came of it is recorded as for a planned fault. Raises FaultError for an unknown
        fault, and where it has no meaning on this lane or did no harm; ConfigurationError for an
        unknown strategy.
        """
        plan = FaultPlan(word(Fault, name, "fault", FaultError), recovery=strategy(recovery))
        return self._worker.call(self._lease.cause(plan), deadline=_INJECT_S)

    def plan(self, name: str, *, recovery: str | None = None, at: str = "mid_request", times: int = 1) -> None:
        """Plan a fault for the next ``times`` requests, as the ``fault`` marker does.

        Raises FaultError for an unknown fault, ConfigurationError for other arguments that cannot be meant.
        """
        if isinstance(times, bool) or not isinstance(times, int) or times < 1:
            raise ConfigurationError(f"times={times!r} is not a whole number from 1")
        plan = FaultPlan(
            word(Fault, name, "fault", FaultError),
            at=word(FaultPoint, at, "at", ConfigurationError),
            times=times,
            recovery=strategy(recovery),
        )
        self._lease.planned.extend([plan] * times)

    def expect_recovery(self, predicate: Callable[[], object], *, within_ms: float) -> float:
        """Return the milliseconds until ``predicate()`` is true, asked again and again.

        Raises RecoveryError when it is not true ``within_ms``; an exception of the predicate counts
        as not yet, and the last one is its cause.
        """
        begun = time.perf_counter()
        pause = threading.Event()
        last: Exception | None = None
        while (elapsed := (time.perf_counter() - begun) * 1000) <= within_ms:
            try:
                if predicate():
                    return (time.perf_counter() - begun) * 1000
                last = None
            except Exception as error:
                last = error
            pause.wait(_ASK_AGAIN_S)
        raise RecoveryError(f"not recovered within {within_ms:g} ms ({elapsed:.0f} ms waited)") from last
