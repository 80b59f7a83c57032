"""Faults that a test causes by its own hand, outside any request; the next request recovers from them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pytest_webaccel.errors import WebAccelError
from pytest_webaccel.pool.asked import told
from pytest_webaccel.pool.strike import CAUSE_S, OBSERVE_S
from pytest_webaccel.pool.target import LaneTarget
from pytest_webaccel.terms import Damage

if TYPE_CHECKING:
    from pytest_webaccel.faults.injector import Injector
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.story import Stories, Story

__all__ = ["ByHand"]

_log = logging.getLogger(__name__)


class ByHand:
    """The faults by hand of one lease. ``suspect`` says that one which only a run can see may be in the page."""

    def __init__(self, lane: LiveLane, stories: Stories) -> None:
        self.suspect = False
        self._lane = lane
        self._stories = stories
        self._waiting: Story | None = None
        self._left: list[tuple[Injector, LaneTarget]] = []

    async def cause(self, story: Story, injector: Injector) -> Damage:
        """Cause the fault of ``story`` and return the damage once it is seen."""
        await self._lane.spares.warm()
        self._lane.here.damages.clear()
        target = LaneTarget(self._lane)
        story.fault_at = asyncio.get_running_loop().time()
        story.spare = self._lane.spares.ready > 0
        story.mild = injector.degrades or injector.seen_by_request
        self._left.append((injector, target))
        self._stories.tell(story)
        with told(story):
            await injector.cause(target, deadline=CAUSE_S)
            if injector.seen_by_request:
                self.suspect = True
                story.damage = Damage(min(injector.symptoms), "the next request will meet it", story.fault_at)
            else:
                story.damage = await injector.observe(target, deadline=OBSERVE_S)
        if self._waiting is not None:
            self._waiting.detail = "another fault followed before any request"
        story.detail = "no request followed the fault"
        self._waiting = story
        return story.damage

    @property
    def waits(self) -> bool:
        """Whether a fault waits for the request that recovers from it."""
        return self._waiting is not None

    def take(self) -> Story | None:
        """Return the story of the fault that the run which comes now recovers from; None where there is none."""
        story, self._waiting = self._waiting, None
        if story is not None:
            story.detail = "interrupted before its end"
        return story

    def take_seen(self) -> Story | None:
        """Return the same for what is no run, unless only a run can see the fault: then it is left for one."""
        return None if self.suspect else self.take()

    async def end(self) -> None:
        """Take away what the faults left in place; no request comes any more."""
        self._waiting = None
        left, self._left = self._left, []
        for injector, target in left:
            try:
                await injector.roll_back(target, deadline=CAUSE_S)
            except WebAccelError as error:  # what it was laid on is gone; the look at the lane that follows tells
                _log.debug("%s: rolling back %s: %s", self._lane.name, injector.fault, error)
            await target.roll_back_later()
