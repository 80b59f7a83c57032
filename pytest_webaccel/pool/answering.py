"""How a request comes to its answer: as it is, under a planned fault, or after one by hand; recovered if need be."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pytest_webaccel.errors import DamagedLaneError
from pytest_webaccel.pool.account import Account
from pytest_webaccel.pool.mending import mend
from pytest_webaccel.pool.request import Ping
from pytest_webaccel.pool.story import Story
from pytest_webaccel.pool.strike import OBSERVE_S, Strike
from pytest_webaccel.pool.target import LaneTarget
from pytest_webaccel.recovery.conductor import GivenUpError
from pytest_webaccel.terms import Damage, Fault, FaultPlan, Outcome, Phases, Strategy, Symptom

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pytest_webaccel.faults.injector import Injector
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.lives import Life
    from pytest_webaccel.pool.request import Request
    from pytest_webaccel.pool.story import Stories, Terms

__all__ = ["Answering"]

T = TypeVar("T")


class Answering:
    """The answering of one lease's requests. ``recovering`` is the story of the last recovery."""

    def __init__(self, lane: LiveLane, terms: Terms, life: Life, stories: Stories) -> None:
        self.recovering: Story | None = None
        self._lane = lane
        self._terms = terms
        self._life = life
        self._stories = stories
        self._chance = random.Random(f"lease\0{terms.seed}\0{terms.drawn_by}")

    async def answer(self, request: Request[T]) -> T:
        """Send a request that no fault is planned for; a lane that breaks under it is mended by the strategy."""
        try:
            return await _sent(request)
        except DamagedLaneError as error:
            return await self._recover_unplanned(error.damage, request)
        finally:
            request.close()

    async def under_fault(self, story: Story, injector: Injector, request: Request[T], *, answer_bytes: int) -> T:
        """Strike ``request`` as planned, and return its answer, recovered where it has to be."""
        strike = Strike(
            self._lane,
            LaneTarget(self._lane),
            self._life.noting(injector, story, self._stories.settle),
            story.plan.at,
            undisturbed_s=story.undisturbed_ms / 1000,
            answer_bytes=answer_bytes,
            chance=self._chance,
        )
        account = Account(self._lane.around.running) if self._terms.account else None
        try:
            met = await strike.meet(request)
            story.fault_at, story.damage = met.fault_at, met.damage
            if met.damage is None:
                story.phases = Phases(total=(asyncio.get_running_loop().time() - met.fault_at) * 1000)
                return cast("T", met.answer)
            if met.answer is not None:
                await self._mend(story, met.damage, met.fault_at)
                return met.answer
            return await self._recover(story, request, met.damage, met.fault_at, strike.again)
        finally:
            if account is not None:
                cost = account.close()
                story.cpu_ms, story.memory_bytes = cost.cpu_s * 1000, cost.pss_bytes
            await strike.roll_back()

    async def after_fault(self, story: Story, request: Request[T]) -> T:
        """Recover from a fault by hand. What the test did between seeing it and asking counts as no recovery."""
        assert story.damage is not None
        loop = asyncio.get_running_loop()
        idle = loop.time() - story.damage.at
        damage, fault_at = dataclasses.replace(story.damage, at=story.damage.at + idle), story.fault_at + idle
        if story.mild:
            try:
                answer = await _sent(request)
            except DamagedLaneError as error:
                damage = story.damage = error.damage
            else:
                story.phases = Phases(total=(loop.time() - fault_at) * 1000)
                return answer
        return await self._recover(story, request, damage, fault_at)

    # -- recovery ----------------------------------------------------------------------------

    async def _mend(self, story: Story, damage: Damage, fault_at: float) -> None:
        """Mend a lane that broke after its answer, which stands whatever comes of it."""
        try:
            await self._recover(story, Ping(self._lane, OBSERVE_S), damage, fault_at)
        except GivenUpError as error:
            story.phases, story.rungs = error.phases, error.rungs
            story.outcome, story.detail = Outcome.FAILED, f"answered, but the lane was not mended: {error}"[:500]

    async def _recover_unplanned(self, damage: Damage, request: Request[T]) -> T:
        """Recover from damage that nobody planned; it is told, or a flaky lane would pass for a sound one."""
        plan = FaultPlan(Fault.CONNECTION_LOST)  # stands for whatever broke; the story is not recorded
        story = Story(plan, self._terms.strategy, request.model_name)
        answer = await self._recover(story, request, damage, damage.at)
        self._stories.unplanned(f"unplanned_recovery_{damage.symptom}", request.model_name, story.phases.total)
        return answer

    async def _recover(
        self,
        story: Story,
        request: Request[T],
        damage: Damage,
        fault_at: float,
        mended: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
    ) -> T:
        if damage.symptom is Symptom.OPERATION_FAILED:
            request.suspect = False  # what fails once more on a mended lane fails by itself
        if story.strategy is Strategy.WORKER_RESTART and any(planned is story for planned in self._stories.waiting):
            for driver in self._lane.around.running():
                driver.resume_page()  # a page that stands still would outlive this process, and its browser
            self._life.end(story, damage, fault_at, self._stories.settle)
        self.recovering = story
        return await mend(self._lane, self._terms, story, request, damage, fault_at, mended)


async def _sent(request: Request[T]) -> T:
    await request.ready()
    request.send()
    return await request.answer()
