"""A lease: what one test does on one lane, with its journal, its planned faults and its rows.

A request is started in the journal, sent, perhaps hit by a planned fault, perhaps recovered, checked,
and committed. Its row is written when the lease ends and the lane has been looked at: only then is it
known whether the pool is whole again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pytest_webaccel.engines.models import ModelInfo, check_feeds, inspect_model
from pytest_webaccel.errors import (
    BridgeError,
    DamagedLaneError,
    FaultError,
    ModelError,
    RecoveryError,
    RemoteError,
    WebAccelError,
)
from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.pool.account import Account
from pytest_webaccel.pool.asked import Asked, checked, told
from pytest_webaccel.pool.lives import Life, Taken
from pytest_webaccel.pool.mending import mend
from pytest_webaccel.pool.plans import Plans, never_fired
from pytest_webaccel.pool.request import Arrays, Load, Ping, Request, Run
from pytest_webaccel.pool.story import Story, Terms, contradiction, unplanned_row
from pytest_webaccel.pool.strike import CAUSE_S, OBSERVE_S, Strike
from pytest_webaccel.pool.target import LaneTarget
from pytest_webaccel.pool.undoing import undo_load
from pytest_webaccel.recovery.conductor import GivenUpError
from pytest_webaccel.terms import (
    Backend,
    Damage,
    Fault,
    FaultPlan,
    OrtBuild,
    Outcome,
    Phases,
    Strategy,
    Symptom,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
    from pathlib import Path

    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.faults.injector import Injector
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.recovery.journal import Journal, TransactionScope
    from pytest_webaccel.rows import Row

__all__ = ["Arrays", "Lease", "Terms"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: Seconds within which a page frees what its device keeps.
_FREES_S = 5.0


class Lease:
    """A leased lane. Every coroutine runs in the worker's loop.

    ``record`` takes finished rows; ``journal`` is the worker's. ``recovering`` is the story of the last recovery.
    """

    def __init__(
        self,
        lane: LiveLane,
        terms: Terms,
        journal: Journal,
        folder: Path,
        record: Callable[[Row], None],
        life: Life | None = None,
    ) -> None:
        self.lane = lane
        self.terms = terms
        self.requests = 0
        self.models: dict[str, ModelInfo] = {}
        self.recovering: Story | None = None
        self.life = life or Life(None, lane.name, lane.probe.evidence)
        self.plans = Plans(lane.probe, terms, self.life)
        self._journal = journal
        self.folder = folder
        self._record = record
        self._stories: list[Story] = []
        self._caused: Story | None = None
        self._suspect = False
        self._left: list[tuple[Injector, LaneTarget]] = []
        self._chance = random.Random(f"lease\0{terms.seed}\0{terms.drawn_by}")

    async def load(self, source: Path | str | bytes, build: OrtBuild | None, *, deadline: float) -> LoadedModel:
        """Load a model into the lane's page; a lane that breaks under it is mended by the strategy.

        A fault planned for ``mid_load`` strikes here.
        """
        info = await asyncio.to_thread(inspect_model, source, self.folder)
        async with self.transaction("load") as change:
            undo_load(change, self.lane, info, build)
            loaded = await self._load(info, build, deadline)
        self.models[loaded.key] = info
        return loaded

    async def drop(self, model: LoadedModel, *, deadline: float) -> None:
        """Have the page free a model, and need it no more: repairs do not bring it back. Never raises for a lost page.

        What a spare holds of it is freed when the spare is next made ready.
        """
        self.models.pop(model.key, None)
        self.lane.holdings.forget(model.key)
        if self.lane.guest is None and self.lane.station is None:
            return
        if (there := self.lane.here.find(model)) is not None:
            await self._dropped(there, deadline)

    async def _dropped(self, model: LoadedModel, deadline: float) -> None:
        """Have the page free a model; one that is broken has lost it, and the next load finds that out."""
        with contextlib.suppress(DamagedLaneError, BridgeError):
            await self.lane.here.drop(model, deadline=deadline)

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
        with self.life.request(model, arrays, outputs) as turn:
            async with self._closing(model, deadline):
                reply = await self._run(Asked(model, arrays, outputs, deadline, expect))
            turn.commit(reply.tensors)
        return dict(reply.tensors), reply

    @contextlib.asynccontextmanager
    async def _closing(self, model: LoadedModel, deadline: float) -> AsyncIterator[None]:
        """Have the page free a model in which an operator fails meanwhile; the next request loads it anew.

        onnxruntime-web 1.30 may never answer another run of such a session on WebGPU.
        """
        try:
            yield
        except ModelError as error:
            gone = self.lane.guest is None and self.lane.station is None
            accelerated = self.lane.name.backend is not Backend.CPU
            there = None if gone else self.lane.here.find(model)
            if accelerated and there is not None and isinstance(error.__cause__, RemoteError):
                await self._dropped(there, deadline)
            raise

    async def _run(self, one: Asked) -> Reply:
        model, deadline = one.model, one.deadline
        story = self._take_caused()
        if story is None:
            await self.present(model, deadline)
        self.requests += 1
        self.lane.counts["requests"] += 1
        if self.life.repeats:
            return await self._repeated(one)
        async with self.transaction("run"):
            if story is not None:
                reply = await self._after_cause(story, one)
            elif (plan := self.plans.take(loads=False)) is not None:
                reply = await self._disturbed(plan, one)
            else:
                reply = await self._answer(self._request(one))
        self._suspect = False
        self._count(reply)
        self.lane.remember(model, one.arrays, one.outputs)
        return reply

    async def step(self, one: Asked, plan: FaultPlan | None) -> tuple[Reply, Story | None]:
        """Answer one step of a request of many, which ``plan`` strikes; return the story of its fault, too."""
        caused = self._take_caused()
        async with self._closing(one.model, one.deadline), self.transaction("step"):
            if caused is not None:
                reply, story = await self._after_cause(caused, one), caused
            elif plan is not None:
                reply, story = await self._disturbed(plan, one), self._stories[-1]
            else:
                reply, story = await self._answer(self._request(one)), None
        self._count(reply)
        return reply, story

    def _count(self, reply: Reply) -> None:
        self.lane.counts["duplicated"] += max(reply.executions - 1, 0)

    def transaction(self, kind: str) -> TransactionScope:
        """Return the scope of one change that this lease undertakes."""
        return self._journal.transaction(kind, self.lane.name, self.terms.test_id, self.lane.distrust)

    def tell(self, story: Story) -> None:
        """Have ``story`` recorded when the lease ends."""
        self._stories.append(story)

    async def cause(self, plan: FaultPlan) -> Damage:
        """Cause a fault now, outside any request, and return the damage once it is seen.

        The next request recovers from it; its row is written when the lease ends.
        """
        story, injector = self._begun(plan, "")
        if not self.life.fresh(Taken.HAND):
            return self.life.struck_before()
        if plan.fault is Fault.WORKER_CRASH:
            injector = self.life.noting(injector, self.plans.story(plan, ""), self._settle_stories)
        await self.lane.spares.warm()
        self.lane.here.damages.clear()
        target = LaneTarget(self.lane)
        story.fault_at = asyncio.get_running_loop().time()
        story.spare = self.lane.spares.ready > 0
        story.mild = injector.degrades or injector.seen_by_request
        self._left.append((injector, target))
        self.tell(story)
        with told(story):
            await injector.cause(target, deadline=CAUSE_S)
            if injector.seen_by_request:
                self._suspect = True
                story.damage = Damage(min(injector.symptoms), "the next request will meet it", story.fault_at)
            else:
                story.damage = await injector.observe(target, deadline=OBSERVE_S)
        if self._caused is not None:
            self._caused.detail = "another fault followed before any request"
        story.detail = "no request followed the fault"
        self._caused = story
        return story.damage

    def never_fired(self) -> str:
        """Have faults that were planned and never caused recorded as unknown; return what to say of them, if any."""
        plans = self.plans.unfired()
        for plan in plans:
            story = self.plans.story(plan, "")
            story.detail = "planned and never caused: no request came that it could strike"
            self.tell(story)
        return never_fired(plans, self.requests) if plans else ""

    async def end(self) -> bool:
        """Leave the lane whole for the next test, write the rows; return whether it is whole."""
        starts = self.lane.counts["starts"]
        await self._roll_back()
        broken = any(story.outcome is not Outcome.RECOVERED and _only_runs_see(story) for story in self._stories)
        if self._suspect or broken:  # nothing but a run would find the lane broken
            self.lane.distrust("a fault that only runs can see was left in the page")
        await self._free_constants()  # of one that stands in, which is let go
        whole = await self.lane.settle()
        await self._free_constants()
        if self.lane.counts["starts"] != starts and not self._stories:
            self._unplanned("unplanned_restart", "", 0.0)
        for story in self._stories:
            row = story.row(self.terms, self.lane, whole=whole)
            self.lane.counts["lost"] += row.lost
            self._record(row)
        self._stories.clear()
        self._caused = None
        # The page keeps its models, but repairs under a later lease need not bring this one's back: their
        # files may be gone by then.
        self.lane.holdings.clear()
        return whole

    async def _free_constants(self) -> None:
        """Have the page in service free what its device keeps for kernels; one that is broken keeps nothing."""
        if self.lane.guest is None and self.lane.station is None:
            return
        with contextlib.suppress(DamagedLaneError, BridgeError, RemoteError):
            await self.lane.here.free_constants(deadline=_FREES_S)

    # -- loads -------------------------------------------------------------------------------

    async def present(self, model: LoadedModel, deadline: float) -> None:
        """Load the model again where a repair since its load lost it."""
        if self._caused is not None:
            return  # the request that comes recovers from it, and brings the model along
        lost = self.lane.guest is None and self.lane.station is None
        if lost or self.lane.here.find(model) is None:
            await self._load(model.info, model.build, deadline)

    async def _load(self, info: ModelInfo, build: OrtBuild | None, deadline: float) -> LoadedModel:
        if self.lane.station is None and self.lane.guest is None:  # a repair was interrupted, by Ctrl-C or a deadline
            await self.lane.settle()
        chosen = self.lane.here.engine.choose(None if self.lane.guest is not None else build)
        request = Load(self.lane, info, chosen, deadline)
        if (story := self._caused_and_seen()) is not None:
            return await self._recovered_by(story, request, "the load that followed")
        if (plan := self.plans.take(loads=True)) is not None:
            return await self._disturbed_load(plan, request)
        if (here := request.present()) is not None:
            self.lane.want(here)
            return here
        return await self._answer(request)

    async def _disturbed_load(self, plan: FaultPlan, request: Load) -> LoadedModel:
        """Load once undisturbed, drop the model, then cause the fault in the middle of loading it again."""
        story, injector = self._begun(plan, request.model_name)
        if (here := request.present()) is not None:
            await self._dropped(here, request.deadline)
        begun = time.perf_counter()
        loaded = await self._answer(request.twin())
        story.undisturbed_ms = (time.perf_counter() - begun) * 1000
        await self.lane.spares.warm()
        await self._dropped(loaded, request.deadline)
        story.spare = self.lane.spares.ready > 0
        self._stories.append(story)
        with told(story), contextlib.closing(request):
            loaded = await self._under_fault(story, injector, request, answer_bytes=0)
            story.outcome, story.detail = Outcome.RECOVERED, ""
        return loaded

    async def dispatch(self, request: Request[T]) -> T:
        """Answer the dispatch of a kernel, recovered from a fault by hand that came before it; no plan strikes it."""
        async with self.transaction("run"):
            if (story := self._caused_and_seen()) is not None:
                return await self._recovered_by(story, request, "the kernel that followed")
            return await self._answer(request)

    def _caused_and_seen(self) -> Story | None:
        """Return the fault by hand that waits for a request, unless only a run can see it: then it is left for one."""
        return None if self._suspect else self._take_caused()

    async def _recovered_by(self, story: Story, request: Request[T], what: str) -> T:
        story.model = request.model_name
        with told(story):
            answer = await self._recover_told(story, request)
            story.outcome, story.detail = Outcome.RECOVERED, f"recovered by {what}"
        return answer

    # -- runs --------------------------------------------------------------------------------

    async def _answer(self, request: Request[T]) -> T:
        """Send a request that no fault is planned for; a lane that breaks under it is mended by the strategy."""
        try:
            await request.ready()
            request.send()
            return await request.answer()
        except DamagedLaneError as error:
            return await self._recover_unplanned(error.damage, request)
        finally:
            request.close()

    async def _disturbed(self, plan: FaultPlan, one: Asked) -> Reply:
        """Answer undisturbed, then cause the fault and recover the same request."""
        story, injector = self._begun(plan, one.model.info.name)
        reference = await self._undisturbed(story, one)
        self.life.refer(story, reference.tensors)
        self.lane.remember(one.model, one.arrays, one.outputs)
        await self.lane.spares.warm()
        story.spare = self.lane.spares.ready > 0
        self._stories.append(story)
        expected = one.expect or reference.tensors
        answer_bytes = sum(array.nbytes for array in reference.tensors.values())
        with told(story), contextlib.closing(self._request(one)) as request:
            if not contradiction(expected, reference.tensors):  # else no lane can give what the test expects
                request.check = checked(expected)
            reply = await self._under_fault(story, injector, request, answer_bytes=answer_bytes)
        self.judge(story, expected, reply)
        return reply

    async def _after_cause(self, story: Story, one: Asked) -> Reply:
        """Recover a request that comes after a fault by hand."""
        story.model = one.model.info.name
        self.lane.holdings.want(one.model)
        with told(story), contextlib.closing(self._request(one)) as request:
            reply = await self._recover_told(story, request)
            expected = one.expect or (await self._undisturbed(story, one)).tensors
        self.judge(story, expected, reply)
        return reply

    async def _repeated(self, one: Asked) -> Reply:
        """Answer a request of a test that is run again after its worker died: what was committed is not done twice."""
        kept, story, asked_at = self.life.kept(), self.life.struck(), time.time()
        self._stories += [story] if story is not None else []
        with told(story) if story is not None else contextlib.nullcontext():
            if (reply := kept) is None:
                async with self.transaction("run"):
                    reply = await self._answer(self._request(one))
            if story is None:
                return reply
            story.phases = self.life.phases(asked_at)
            expected = one.expect or self.life.reference() or (await self._undisturbed(story, one)).tensors
        self.judge(story, expected, reply)
        return reply

    async def _undisturbed(self, story: Story, one: Asked) -> Reply:
        begun, recoveries = time.perf_counter(), self.lane.counts["recoveries"]
        reply = await self._answer(self._request(one))
        if self.lane.counts["recoveries"] == recoveries:
            story.undisturbed_ms = (time.perf_counter() - begun) * 1000
        return reply

    def judge(self, story: Story, expected: Mapping[str, Any], reply: Reply) -> None:
        """Say what came of it; raises RecoveryError for an answer that contradicts its reference."""
        story.duplicated = max(reply.executions - 1, 0)
        if wrong := contradiction(expected, reply.tensors):
            story.outcome, story.detail = Outcome.FAILED, wrong
            raise RecoveryError(
                f"{self.lane.name}, model {story.model}: the answer recovered after {story.plan.fault} by strategy "
                f"{story.strategy} contradicts its reference and is not delivered: {wrong}. The reference is expect= "
                "where given, else the lane's own undisturbed answer."
            )
        if story.outcome is Outcome.FAILED:
            return
        story.outcome = Outcome.FAILED if story.duplicated else Outcome.RECOVERED
        story.detail = "" if story.rungs else "answered all the same; nothing had to be mended first"

    def _request(self, one: Asked) -> Run:
        request = one.request(self.lane)
        request.suspect = self._suspect
        return request

    # -- faults ------------------------------------------------------------------------------

    def _begun(self, plan: FaultPlan, model: str) -> tuple[Story, Injector]:
        """Return the story of a plan whose turn has come, and its injector; one that means nothing here is told too."""
        story = self.plans.story(plan, model)
        try:
            injector = self.plans.injector(plan, self.requests)
        except FaultError as error:
            story.detail = str(error)[:500]
            self.tell(story)
            raise
        story.kind = injector.variety
        return story, injector

    def _take_caused(self) -> Story | None:
        story, self._caused = self._caused, None
        if story is not None:
            story.detail = "interrupted before its end"
        return story

    async def _under_fault(self, story: Story, injector: Injector, request: Request[T], *, answer_bytes: int) -> T:
        """Strike ``request`` as planned, and return its answer, recovered where it has to be."""
        target = LaneTarget(self.lane)
        strike = Strike(
            self.lane,
            target,
            self.life.noting(injector, story, self._settle_stories),
            story.plan.at,
            undisturbed_s=story.undisturbed_ms / 1000,
            answer_bytes=answer_bytes,
            chance=self._chance,
        )
        account = Account(self.lane.around.running) if self.terms.account else None
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

    async def _mend(self, story: Story, damage: Damage, fault_at: float) -> None:
        """Mend a lane that broke after its answer, which stands whatever comes of it."""
        try:
            await self._recover(story, Ping(self.lane, OBSERVE_S), damage, fault_at)
        except GivenUpError as error:
            story.phases, story.rungs = error.phases, error.rungs
            story.outcome, story.detail = Outcome.FAILED, f"answered, but the lane was not mended: {error}"[:500]

    async def _roll_back(self) -> None:
        """Take away what faults by hand left in place."""
        left, self._left = self._left, []
        for injector, target in left:
            try:
                await injector.roll_back(target, deadline=CAUSE_S)
            except WebAccelError as error:  # what it was laid on is gone; the look at the lane that follows tells
                _log.debug("%s: rolling back %s: %s", self.lane.name, injector.fault, error)
            await target.roll_back_later()

    def _settle_stories(self) -> None:
        """Record what came of earlier faults, now that this worker is about to die."""
        for story in [story for story in self._stories if story.outcome is not Outcome.UNKNOWN]:
            self._record(story.row(self.terms, self.lane, whole=True))
        self._stories = [story for story in self._stories if story.outcome is Outcome.UNKNOWN]

    # -- recovery ----------------------------------------------------------------------------

    async def _recover_told(self, story: Story, request: Request[T]) -> T:
        """Recover from a fault by hand. What the test did between seeing it and asking counts as no recovery."""
        assert story.damage is not None
        loop = asyncio.get_running_loop()
        idle = loop.time() - story.damage.at
        damage, fault_at = dataclasses.replace(story.damage, at=story.damage.at + idle), story.fault_at + idle
        if story.mild:
            try:
                await request.ready()
                request.send()
                answer = await request.answer()
            except DamagedLaneError as error:
                damage = story.damage = error.damage
            else:
                story.phases = Phases(total=(loop.time() - fault_at) * 1000)
                return answer
        return await self._recover(story, request, damage, fault_at)

    async def _recover_unplanned(self, damage: Damage, request: Request[T]) -> T:
        """Recover from damage that nobody planned; it is told, or a flaky lane would pass for a sound one."""
        plan = FaultPlan(Fault.CONNECTION_LOST)  # stands for whatever broke; the story is not recorded
        story = Story(plan, self.terms.strategy, request.model_name)
        answer = await self._recover(story, request, damage, damage.at)
        self._unplanned(f"unplanned_recovery_{damage.symptom}", request.model_name, story.phases.total)
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
        if story.strategy is Strategy.WORKER_RESTART and any(planned is story for planned in self._stories):
            for driver in self.lane.around.running():
                driver.resume_page()  # a page that stands still would outlive this process, and its browser
            self.life.end(story, damage, fault_at, self._settle_stories)
        self.recovering = story
        return await mend(self.lane, self.terms, story, request, damage, fault_at, mended)

    def _unplanned(self, metric: str, model: str, milliseconds: float) -> None:
        self._record(unplanned_row(self.terms, self.lane, metric, model, milliseconds))


def _only_runs_see(story: Story) -> bool:
    return INJECTORS[story.plan.fault].seen_by_request
