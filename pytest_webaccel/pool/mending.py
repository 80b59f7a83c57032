"""One recovery of one request on one lane: by the rungs of its story's strategy, in turn or in a race."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.pool.contender import LaneContender
from pytest_webaccel.recovery.conductor import Recovery, recover
from pytest_webaccel.recovery.race import OWN_BROWSER, race
from pytest_webaccel.recovery.strategies import STRATEGIES
from pytest_webaccel.terms import LaneState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.request import Request
    from pytest_webaccel.pool.station import Station
    from pytest_webaccel.pool.story import Story, Terms
    from pytest_webaccel.recovery.rungs import Rung
    from pytest_webaccel.terms import Damage

__all__ = ["mend"]

T = TypeVar("T")


async def mend(
    lane: LiveLane,
    terms: Terms,
    story: Story,
    request: Request[T],
    damage: Damage,
    fault_at: float,
    mended: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
) -> T:
    """Return the answer of ``request``, which met ``damage``; phases and rungs go into ``story``.

    ``fault_at`` is loop time; ``mended`` is awaited with each lane that a step mended. Raises GivenUpError where
    nothing is left to try, and the request's own error where that is its answer.
    """
    strategy = STRATEGIES[story.strategy]
    lane.counts["recoveries"] += 1
    lane.move(LaneState.DEGRADED)
    lane.move(LaneState.RECOVERING)
    clock = asyncio.get_running_loop().time
    try:
        if strategy.races > 1:
            recovery: Recovery[T] = await race(
                lane,
                lambda rung: LaneContender(lane, _sender(request, rung)),
                damage=damage,
                strategy=strategy,
                fault_at=fault_at,
                budget_s=terms.budget_s,
                clock=clock,
                behind=lane.behind,
                mended=mended,
            )
        else:
            recovery = await recover(
                lane,
                request.again,
                damage=damage,
                strategy=strategy,
                fault_at=fault_at,
                budget_s=terms.budget_s,
                clock=clock,
                mended=mended,
            )
    finally:
        lane.move(LaneState.BUSY)
    story.phases, story.rungs = recovery.phases, recovery.rungs
    return recovery.result


def _sender(request: Request[T], rung: Rung) -> Callable[[Station, float], Awaitable[T]]:
    """Return what sends ``request`` for a contender: the original where the present page may still owe it."""
    own = request if rung.steps[0] not in OWN_BROWSER else request.twin()
    return own.again_on
