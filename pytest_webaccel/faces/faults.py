"""The face of faults by hand: the fixture ``webaccel_faults``."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pytest_webaccel.asking import ask, bound, checked_ms
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
        self._lease.plans.waiting.extend([plan] * times)

    def expect_recovery(self, predicate: Callable[[], object], *, within_ms: float) -> float:
        """Return the milliseconds until ``predicate()`` is true, asked again and again.

        ``within_ms`` is above 0 and an hour at most. Raises RecoveryError when it is not true in time; an exception of
        the predicate counts as not yet, and the last one is its cause. Raises ConfigurationError for what cannot be
        asked. No row is written: what is recorded of a fault is how the next request fared.
        """
        within_ms, asked = checked_ms(within_ms), bound(predicate, None)
        begun, pause = time.perf_counter(), threading.Event()
        answer = ask(
            asked,
            until=begun + within_ms / 1000,
            clock=time.perf_counter,
            pause=lambda: pause.wait(_ASK_AGAIN_S),
        )
        waited = (answer.ended_at - begun) * 1000
        if not answer.healthy:
            raise RecoveryError(
                f"not recovered within {within_ms:g} ms ({waited:.0f} ms waited): {answer.why_not()}"
            ) from answer.error
        return waited
