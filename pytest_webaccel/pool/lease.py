"""A lease: what one test does on one lane, with its journal, its planned faults and its rows.

A request is started in the journal, sent, perhaps hit by a planned fault, perhaps recovered, checked,
and committed. Its row is written when the lease ends and the lane has been looked at: only then is it
known whether the pool is whole again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Any, cast

from pytest_webaccel.engines.models import ModelInfo, check_feeds, inspect_model
from pytest_webaccel.errors import DamagedLaneError, FaultError, RecoveryError
from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.pool.request import Arrays, Request
from pytest_webaccel.pool.story import Story, Terms, contradiction
from pytest_webaccel.recovery.conductor import ANSWERS, GivenUpError, Recovery, recover
from pytest_webaccel.recovery.strategies import STRATEGIES
from pytest_webaccel.rows import MeasurementRow, Row
from pytest_webaccel.terms import Damage, Engine, FaultPlan, FaultPoint, LaneState, OrtBuild, Outcome, Strategy, Symptom

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.faults.injector import Injector
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.recovery.journal import Journal

__all__ = ["Arrays", "Lease", "Terms"]

_STARTED_S = 30.0
_CAUSE_S = 10.0
_OBSERVE_S = 10.0


class Lease:
    """A leased lane. Every coroutine runs in the worker's loop.

    ``record`` takes finished rows; ``journal`` is the worker's.
    """

    def __init__(
        self, lane: LiveLane, terms: Terms, journal: Journal, folder: Path, record: Callable[[Row], None]
    ) -> None:
        self.lane = lane
        self.terms = terms
        self.planned: list[FaultPlan] = []
        self.requests = 0
        self.models: dict[str, ModelInfo] = {}
        self._journal = journal
        self._folder = folder
        self._record = record
        self._stories: list[Story] = []
        self._caused: Story | None = None

    async def load(self, source: Path | str | bytes, build: OrtBuild | None, *, deadline: float) -> LoadedModel:
        """Load a model into the lane's page; a lane that breaks under it is mended by the strategy."""
        info = await asyncio.to_thread(inspect_model, source, self._folder)
        async with self._journal.transaction("load", self.lane.name, self.terms.test_id):
            loaded = await self._load(info, build, deadline)
        self.models[loaded.key] = info
        return loaded

    async def run(
        self,
        model: LoadedModel,
        feeds: Mapping[str, Any],
        outputs: Sequence[str] | None = None,
        *,
        deadline: float,
        expect: Mapping[str, Any] | None = None,
    ) -> tuple[Arrays, Reply]:
        """Return the outputs of one request, after whatever fault was planned for it.

        ``deadline`` is the request's own, in seconds. ``expect`` is the reference a recovered answer
        is held against; without it the lane answers once more undisturbed: before a planned fault,
        after one by hand. Raises RecoveryError for a recovered answer that contradicts it.
        """
        arrays = check_feeds(model.info, feeds)
        story = self._take_caused()
        if story is None:
            await self._present(model, deadline)
        self.requests += 1
        self.lane.counts["requests"] += 1
        one = _Asked(model, arrays, outputs, deadline, expect)
        async with self._journal.transaction("run", self.lane.name, self.terms.test_id):
            if story is not None:
                reply = await self._after_cause(story, one)
            elif self.planned:
                reply = await self._disturbed(self.planned.pop(0), one)
            else:
                reply = await self._answer(self._request(one))
        self.lane.remember(model, arrays, outputs)
        return dict(reply.tensors), reply

    async def cause(self, plan: FaultPlan) -> Damage:
        """Cause a fault now, outside any request, and return the damage once it is seen.

        The next request recovers from it; its row is written when the lease ends.
        """
        injector = _injector(plan, self.lane)
        await self.lane.warm_spare()
        self.lane.here.damages.clear()
        fault_at = asyncio.get_running_loop().time()
        await injector.cause(self.lane, deadline=_CAUSE_S)
        damage = await injector.observe(self.lane, deadline=_OBSERVE_S)
        if self._caused is not None:
            self._caused.detail = "another fault followed before any request"
        self._caused = Story(
            plan,
            plan.recovery or self.terms.strategy,
            detail="no request followed the fault",
            damage=damage,
            fault_at=fault_at,
        )
        self._stories.append(self._caused)
        return damage

    def unfired(self) -> tuple[FaultPlan, ...]:
        """Return the planned faults that no request has met so far."""
        return tuple(self.planned)

    async def end(self) -> bool:
        """Leave the lane whole for the next test, write the rows; return whether it is whole."""
        starts = self.lane.counts["starts"]
        whole = await self.lane.settle()
        if self.lane.counts["starts"] != starts and not self._stories:
            self._unplanned("unplanned_restart", "", 0.0)
        for story in self._stories:
            self._record(story.row(self.terms, self.lane, whole=whole))
        self._stories.clear()
        self._caused = None
        # The page keeps its models, but repairs under a later lease need not bring this one's back: their
        # files may be gone by then.
        self.lane.forget()
        return whole

    # -- inside ------------------------------------------------------------------------------

    async def _present(self, model: LoadedModel, deadline: float) -> None:
        """Load the model again where a repair since its load lost it."""
        if self.lane.station is None or model.key not in self.lane.here.loaded:
            await self._load(model.info, model.build, deadline)

    async def _load(self, info: ModelInfo, build: OrtBuild | None, deadline: float) -> LoadedModel:
        if self.lane.station is None:  # a repair was interrupted, by Ctrl-C or a deadline
            await self.lane.settle()

        def again(left: float) -> Coroutine[Any, Any, LoadedModel]:
            return self.lane.load(info, build, deadline=left)

        if (story := self._take_caused()) is not None:
            story.model = info.name
            with _told(story):
                loaded = cast("LoadedModel", await self._recover_told(story, again))
                story.outcome, story.detail = Outcome.RECOVERED, "recovered by the load that followed"
            return loaded
        try:
            return await again(deadline)
        except DamagedLaneError as error:
            return cast("LoadedModel", await self._recover_unplanned(error.damage, again, info.name))

    async def _answer(self, request: Request) -> Reply:
        """Send a request that no fault is planned for; a lane that breaks under it is mended by the strategy."""
        request.send()
        try:
            return await request.answer()
        except DamagedLaneError as error:
            return cast("Reply", await self._recover_unplanned(error.damage, request.again, request.model.info.name))
        finally:
            request.close()

    async def _disturbed(self, plan: FaultPlan, one: _Asked) -> Reply:
        """Answer undisturbed, then cause the fault and recover the same request."""
        injector = _injector(plan, self.lane)
        story = Story(plan, plan.recovery or self.terms.strategy, one.model.info.name)
        reference = await self._undisturbed(story, one)
        self.lane.remember(one.model, one.arrays, one.outputs)
        await self.lane.warm_spare()
        self._stories.append(story)
        with _told(story), contextlib.closing(self._request(one)) as request:
            reply = await self._under_fault(story, injector, request)
        self._judge(story, one.expect or reference.tensors, reply)
        return reply

    async def _after_cause(self, story: Story, one: _Asked) -> Reply:
        """Recover a request that comes after a fault by hand."""
        story.model = one.model.info.name
        self.lane.wanted.setdefault(one.model.key, (one.model.info, one.model.build))
        with _told(story), contextlib.closing(self._request(one)) as request:
            reply = cast("Reply", await self._recover_told(story, request.again))
            expected = one.expect or (await self._undisturbed(story, one)).tensors
        self._judge(story, expected, reply)
        return reply

    async def _undisturbed(self, story: Story, one: _Asked) -> Reply:
        begun, recoveries = time.perf_counter(), self.lane.counts["recoveries"]
        reply = await self._answer(self._request(one))
        if self.lane.counts["recoveries"] == recoveries:
            story.undisturbed_ms = (time.perf_counter() - begun) * 1000
        return reply

    def _judge(self, story: Story, expected: Mapping[str, Any], reply: Reply) -> None:
        """Say what came of it; raises RecoveryError for an answer that contradicts its reference."""
        story.duplicated = reply.executions - 1
        if wrong := contradiction(expected, reply.tensors):
            story.outcome, story.detail = Outcome.FAILED, wrong
            raise RecoveryError(
                f"{self.lane.name}, model {story.model}: the answer recovered after {story.plan.fault} by strategy "
                f"{story.strategy} contradicts its reference and is not delivered: {wrong}. The reference is expect= "
                "where given, else the lane's own undisturbed answer."
            )
        story.outcome = Outcome.FAILED if story.duplicated else Outcome.RECOVERED
        story.detail = ""

    def _take_caused(self) -> Story | None:
        story, self._caused = self._caused, None
        if story is not None:
            story.detail = "interrupted before its end"
        return story

    def _request(self, one: _Asked) -> Request:
        return Request(self.lane, one.model, one.arrays, one.outputs, one.deadline)

    async def _under_fault(self, story: Story, injector: Injector, request: Request) -> Reply:
        loop = asyncio.get_running_loop()
        middle = story.plan.at is FaultPoint.MID_REQUEST
        waiting: asyncio.Future[Reply] | None = None
        damage: Damage | None = None
        fault_at: float | None = None
        self.lane.here.damages.clear()
        try:
            if middle:
                request.send(hold=True)
                waiting = asyncio.ensure_future(request.answer())
                await request.started(deadline=_STARTED_S)
            fault_at = loop.time()
            await injector.cause(self.lane, deadline=_CAUSE_S)
            damage = await injector.observe(self.lane, deadline=_OBSERVE_S)
            if waiting is not None:
                request.release()
                reply = await waiting
                raise FaultError(
                    f"{self.lane.name}: {story.plan.fault} was caused and seen as {damage.symptom}, and yet the "
                    f"request was answered after {reply.page_ms:.0f} ms in the page: it proves no recovery"
                )
        except DamagedLaneError as error:
            if fault_at is None:
                raise FaultError(f"{self.lane.name}: {story.plan.fault} was not caused: {error}") from error
            if damage is None or error.damage.symptom is not Symptom.SOCKET_CLOSED:  # a worse thing's first sign
                damage = error.damage
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
        recovery = await self._recover(request.again, damage, fault_at, story.strategy)
        story.phases, story.attempts = recovery.phases, recovery.attempts
        return cast("Reply", recovery.result)

    async def _recover_told(self, story: Story, again: Any) -> Any:
        """Recover from a fault by hand. What the test did between seeing it and asking counts as no recovery."""
        assert story.damage is not None
        idle = asyncio.get_running_loop().time() - story.damage.at
        damage = dataclasses.replace(story.damage, at=story.damage.at + idle)
        recovery = await self._recover(again, damage, story.fault_at + idle, story.strategy)
        story.phases, story.attempts = recovery.phases, recovery.attempts
        return recovery.result

    async def _recover_unplanned(self, damage: Damage, again: Any, model: str) -> Any:
        """Recover from damage that nobody planned; it is told, or a flaky lane would pass for a sound one."""
        recovery = await self._recover(again, damage, damage.at, self.terms.strategy)
        self._unplanned(f"unplanned_recovery_{damage.symptom}", model, recovery.phases.total)
        return recovery.result

    def _unplanned(self, metric: str, model: str, milliseconds: float) -> None:
        self._record(
            MeasurementRow(
                run_id=self.terms.run_id,
                evidence=self.lane.probe.evidence,
                test_id=self.terms.test_id,
                lane=str(self.lane.name),
                model=model,
                family="",
                engine=str(Engine.ONNX),
                bits=32,
                metric=metric,
                value=milliseconds,
                unit="ms",
            )
        )

    async def _recover(self, again: Any, damage: Damage, fault_at: float, strategy: Strategy) -> Recovery[Any]:
        self.lane.counts["recoveries"] += 1
        self.lane.move(LaneState.DEGRADED)
        self.lane.move(LaneState.RECOVERING)
        try:
            return await recover(
                self.lane,
                again,
                damage=damage,
                strategy=STRATEGIES[strategy],
                fault_at=fault_at,
                budget_s=self.terms.budget_s,
                clock=asyncio.get_running_loop().time,
            )
        finally:
            self.lane.move(LaneState.BUSY)


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """What a test asked for in one call of :meth:`Lease.run`."""

    model: LoadedModel
    arrays: Arrays
    outputs: Sequence[str] | None
    deadline: float
    expect: Mapping[str, Any] | None


@contextlib.contextmanager
def _told(story: Story) -> Iterator[None]:
    """Keep in ``story`` how the request within ended, where it raised."""
    try:
        yield
    except (RecoveryError, DamagedLaneError, FaultError) as error:
        story.outcome, story.detail = Outcome.FAILED, str(error)[:500]
        if isinstance(error, GivenUpError):
            story.phases, story.attempts = error.phases, error.attempts
        raise
    except ANSWERS as error:
        story.detail = f"the request itself is at fault: {error}"[:500]
        raise


def _injector(plan: FaultPlan, lane: LiveLane) -> Injector:
    injector = INJECTORS[plan.fault]
    if reason := injector.meaning(lane.probe):
        raise FaultError(f"lane {lane.name}: fault {plan.fault} has no meaning here: {reason}")
    return injector
