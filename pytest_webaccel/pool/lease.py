"""A lease: what one test does on one lane, with its journal, its planned faults and its rows.

A request is started in the journal, sent, perhaps hit by a planned fault, perhaps recovered, checked,
and committed. A fault's row is written when the lease ends and the lane has been looked at: only then is
it known whether the pool is whole again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.engines.models import ModelInfo, check_feeds, inspect_model
from pytest_webaccel.errors import (
    BridgeError,
    DamagedLaneError,
    FaultError,
    ModelError,
    RecoveryError,
    RemoteError,
)
from pytest_webaccel.pool.answering import Answering
from pytest_webaccel.pool.asked import Asked, checked, told
from pytest_webaccel.pool.by_hand import ByHand
from pytest_webaccel.pool.lives import Life, Taken
from pytest_webaccel.pool.plans import Plans, never_fired
from pytest_webaccel.pool.request import Arrays, Load, Request, Run
from pytest_webaccel.pool.story import Stories, Story, Terms, contradiction
from pytest_webaccel.pool.undoing import undo_load
from pytest_webaccel.terms import Backend, Damage, FaultPlan, OrtBuild, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.faults.injector import Injector
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.recovery.journal import Journal, TransactionScope
    from pytest_webaccel.rows import Row

__all__ = ["Arrays", "Lease", "Terms"]

T = TypeVar("T")

#: Seconds within which a page frees what its device keeps.
_FREES_S = 5.0


class Lease:
    """A leased lane. Every coroutine runs in the worker's loop.

    ``record`` takes finished rows; ``journal`` is the worker's.
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
        self.life = life or Life(None, lane.name, lane.probe.evidence)
        self.plans = Plans(lane.probe, terms, self.life)
        self._journal = journal
        self.folder = folder
        self._stories = Stories(lane, terms, record)
        self._by_hand = ByHand(lane, self._stories)
        self._answering = Answering(lane, terms, self.life, self._stories)

    @property
    def recovering(self) -> Story | None:
        """The story of the last recovery."""
        return self._answering.recovering

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
        if (there := self.lane.find(model)) is not None:
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
            there = self.lane.find(model)
            accelerated = self.lane.name.backend is not Backend.CPU
            if accelerated and there is not None and isinstance(error.__cause__, RemoteError):
                await self._dropped(there, deadline)
            raise

    async def _run(self, one: Asked) -> Reply:
        model, deadline = one.model, one.deadline
        story = self._by_hand.take()
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
                reply = await self._answering.answer(self._request(one))
        self._by_hand.suspect = False
        self._count(reply)
        self.lane.remember(model, one.arrays, one.outputs)
        return reply

    async def step(self, one: Asked, plan: FaultPlan | None) -> tuple[Reply, Story | None]:
        """Answer one step of a request of many, which ``plan`` strikes; return the story of its fault, too."""
        caused = self._by_hand.take()
        async with self._closing(one.model, one.deadline), self.transaction("step"):
            if caused is not None:
                reply, story = await self._after_cause(caused, one), caused
            elif plan is not None:
                reply, story = await self._disturbed(plan, one), self._stories.waiting[-1]
            else:
                reply, story = await self._answering.answer(self._request(one)), None
        self._count(reply)
        return reply, story

    def _count(self, reply: Reply) -> None:
        self.lane.counts["duplicated"] += max(reply.executions - 1, 0)

    def transaction(self, kind: str) -> TransactionScope:
        """Return the scope of one change that this lease undertakes."""
        return self._journal.transaction(kind, self.lane.name, self.terms.test_id, self.lane.distrust)

    def tell(self, story: Story) -> None:
        """Have ``story`` recorded when the lease ends."""
        self._stories.tell(story)

    async def cause(self, plan: FaultPlan) -> Damage:
        """Cause a fault now, outside any request, and return the damage once it is seen.

        The next request recovers from it; its row is written when the lease ends.
        """
        story, injector = self._begun(plan, "")
        if not self.life.fresh(Taken.HAND):
            return self.life.struck_before()
        return await self._by_hand.cause(story, self.life.noting(injector, story, self._stories.settle))

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
        await self._by_hand.end()
        if self._by_hand.suspect or self._stories.unseen:  # nothing but a run would find the lane broken
            self.lane.distrust("a fault that only runs can see was left in the page")
        await self._free_constants()  # of one that stands in, which is let go
        whole = await self.lane.settle()
        await self._free_constants()
        if self.lane.counts["starts"] != starts and not self._stories.waiting:
            self._stories.unplanned("unplanned_restart", "", 0.0)
        self._stories.end(whole=whole)
        # The page keeps its models, but repairs under a later lease need not bring this one's back: their
        # files may be gone by then.
        self.lane.holdings.clear()
        return whole

    async def _free_constants(self) -> None:
        """Have the page in service free what its device keeps for kernels; one that is broken keeps nothing."""
        if self.lane.served:
            with contextlib.suppress(DamagedLaneError, BridgeError, RemoteError):
                await self.lane.here.free_constants(deadline=_FREES_S)

    # -- loads -------------------------------------------------------------------------------

    async def present(self, model: LoadedModel, deadline: float) -> None:
        """Load the model again where a repair since its load lost it."""
        if self._by_hand.waits:
            return  # the request that comes recovers from it, and brings the model along
        if self.lane.find(model) is None:
            await self._load(model.info, model.build, deadline)

    async def _load(self, info: ModelInfo, build: OrtBuild | None, deadline: float) -> LoadedModel:
        if not self.lane.served:  # a repair was interrupted, by Ctrl-C or a deadline
            await self.lane.settle()
        chosen = self.lane.here.engine.choose(None if self.lane.guest is not None else build)
        request = Load(self.lane, info, chosen, deadline)
        if (story := self._by_hand.take_seen()) is not None:
            return await self._recovered_by(story, request, "the load that followed")
        if (plan := self.plans.take(loads=True)) is not None:
            return await self._disturbed_load(plan, request)
        if (here := request.present()) is not None:
            self.lane.want(here)
            return here
        return await self._answering.answer(request)

    async def _disturbed_load(self, plan: FaultPlan, request: Load) -> LoadedModel:
        """Load once undisturbed, drop the model, then cause the fault in the middle of loading it again."""
        story, injector = self._begun(plan, request.model_name)
        if (here := request.present()) is not None:
            await self._dropped(here, request.deadline)
        begun = time.perf_counter()
        loaded = await self._answering.answer(request.twin())
        story.undisturbed_ms = (time.perf_counter() - begun) * 1000
        await self.lane.spares.warm()
        await self._dropped(loaded, request.deadline)
        story.spare = self.lane.spares.ready > 0
        self.tell(story)
        with told(story), contextlib.closing(request):
            loaded = await self._answering.under_fault(story, injector, request, answer_bytes=0)
            story.outcome, story.detail = Outcome.RECOVERED, ""
        return loaded

    async def dispatch(self, request: Request[T]) -> T:
        """Answer the dispatch of a kernel, recovered from a fault by hand that came before it; no plan strikes it."""
        async with self.transaction("run"):
            if (story := self._by_hand.take_seen()) is not None:
                return await self._recovered_by(story, request, "the kernel that followed")
            return await self._answering.answer(request)

    async def _recovered_by(self, story: Story, request: Request[T], what: str) -> T:
        story.model = request.model_name
        with told(story):
            answer = await self._answering.after_fault(story, request)
            story.outcome, story.detail = Outcome.RECOVERED, f"recovered by {what}"
        return answer

    # -- runs --------------------------------------------------------------------------------

    async def _disturbed(self, plan: FaultPlan, one: Asked) -> Reply:
        """Answer undisturbed, then cause the fault and recover the same request."""
        story, injector = self._begun(plan, one.model.info.name)
        reference = await self._undisturbed(story, one)
        self.life.refer(story, reference.tensors)
        self.lane.remember(one.model, one.arrays, one.outputs)
        await self.lane.spares.warm()
        story.spare = self.lane.spares.ready > 0
        self.tell(story)
        expected = one.expect or reference.tensors
        answer_bytes = sum(array.nbytes for array in reference.tensors.values())
        with told(story), contextlib.closing(self._request(one)) as request:
            if not contradiction(expected, reference.tensors):  # else no lane can give what the test expects
                request.check = checked(expected)
            reply = await self._answering.under_fault(story, injector, request, answer_bytes=answer_bytes)
        self.judge(story, expected, reply)
        return reply

    async def _after_cause(self, story: Story, one: Asked) -> Reply:
        """Recover a request that comes after a fault by hand."""
        story.model = one.model.info.name
        self.lane.holdings.want(one.model)
        with told(story), contextlib.closing(self._request(one)) as request:
            reply = await self._answering.after_fault(story, request)
            expected = one.expect or (await self._undisturbed(story, one)).tensors
        self.judge(story, expected, reply)
        return reply

    async def _repeated(self, one: Asked) -> Reply:
        """Answer a request of a test that is run again after its worker died: what was committed is not done twice."""
        kept, story, asked_at = self.life.kept(), self.life.struck(), time.time()
        if story is not None:
            self.tell(story)
        with told(story) if story is not None else contextlib.nullcontext():
            if (reply := kept) is None:
                async with self.transaction("run"):
                    reply = await self._answering.answer(self._request(one))
            if story is None:
                return reply
            story.phases = self.life.phases(asked_at)
            expected = one.expect or self.life.reference() or (await self._undisturbed(story, one)).tensors
        self.judge(story, expected, reply)
        return reply

    async def _undisturbed(self, story: Story, one: Asked) -> Reply:
        begun, recoveries = time.perf_counter(), self.lane.counts["recoveries"]
        reply = await self._answering.answer(self._request(one))
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
        request.suspect = self._by_hand.suspect
        return request

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
