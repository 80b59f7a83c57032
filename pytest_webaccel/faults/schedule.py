"""Which planned fault fires at which request. Pure: the same seed and test give the same schedule.

Seeding is by text, through SHA-512 and SHA-256, so it does not depend on the process, on
PYTHONHASHSEED or on which worker runs the test.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_webaccel.terms import Fault, FaultPlan

__all__ = ["FaultSchedule", "chance_of", "choose"]


class FaultSchedule:
    """The firings of one test, one a request, from its first request on.

    Each plan fires ``times`` times. Where there are several plans their firings are shuffled by
    ``seed`` and ``test_id``: runs with different seeds meet the faults in different orders. Nothing
    is held back for later requests, since a test may make no more than one.

    Raises ConfigurationError for a plan that would fire less than once.
    """

    def __init__(self, plans: Sequence[FaultPlan], seed: int, test_id: str) -> None:
        for plan in plans:
            if plan.times < 1:
                raise ConfigurationError(f"{test_id}: fault {plan.fault} has times={plan.times}; it must be 1 or more")
        firings = [plan for plan in plans for _ in range(plan.times)]
        random.Random(f"{seed}\0{test_id}").shuffle(firings)
        self._firings = tuple(firings)

    @property
    def firings(self) -> tuple[FaultPlan, ...]:
        """Every firing, in order of requests."""
        return self._firings

    def plan_for(self, request: int) -> FaultPlan | None:
        """Return the plan that fires at the test's request number ``request``, counted from 0, if any."""
        return self._firings[request] if 0 <= request < len(self._firings) else None

    def unfired(self, requests: int) -> tuple[FaultPlan, ...]:
        """Return the firings that a test with only ``requests`` requests left out."""
        return self._firings[max(requests, 0) :]


def choose(
    plans: Sequence[FaultPlan], seed: int, test_id: str, meaningful: Callable[[Fault], bool]
) -> FaultPlan | None:
    """Return the plan of a run-wide list that ``test_id`` gets, or None when none is meaningful there.

    Evenly spread over tests. By highest random weight, so that a plan joining or leaving the list
    changes only the tests that get it, and the rest of a run stays as it was.
    """

    def weight(plan: FaultPlan) -> bytes:
        key = f"{seed}\0{test_id}\0{plan.fault}\0{plan.at}\0{plan.times}\0{plan.recovery}"
        return hashlib.sha256(key.encode()).digest()

    return max((plan for plan in plans if meaningful(plan.fault)), key=weight, default=None)


def chance_of(seed: int, test_id: str, request: int) -> random.Random:
    """Return where kinds, delays and moments of the fault at a test's request number ``request`` are drawn from."""
    return random.Random(f"strike\0{seed}\0{test_id}\0{request}")
