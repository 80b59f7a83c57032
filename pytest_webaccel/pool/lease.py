"""A lease: what one test does on one lane, with its journal, its planned faults and its rows.

A request is started in the journal, sent, perhaps hit by a planned fault, perhaps recovered, checked,
and committed. Its row is written when the lease ends and the lane has been looked at: only then is it
known whether the pool is whole again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pytest_webaccel.engines.models import ModelInfo, check_feeds, inspect_model
from pytest_webaccel.errors import DamagedLaneError, FaultError, RecoveryError
from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.parity.compare import compare
from pytest_webaccel.parity.tolerance import Tolerance, tolerance_for
from pytest_webaccel.recovery.conductor import GivenUpError, Recovery, recover
from pytest_webaccel.recovery.strategies import STRATEGIES
from pytest_webaccel.terms import (
    Damage,
    FaultPlan,
    FaultPoint,
    LaneState,
    OrtBuild,
    Outcome,
    Phases,
    RecoveryRow,
    Row,
    Strategy,
    Symptom,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.faults.injector import Injector
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.station import Station
    from pytest_webaccel.recovery.journal import Journal

__all__ = ["Arrays", "Lease", "Terms"]

Arrays = dict[str, np.ndarray[Any, Any]]

_STARTED_S = 30.0
_CAUSE_S = 10.0
_OBSERVE_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What a lease is held under: where its rows belong, and how damage is to be answered."""

    run_id: str
    test_id: str
    worker: str
    strategy: Strategy
    budget_s: float = 120.0


@dataclasses.dataclass(slots=True)
class _Story:
    """One fault and what came of it, until its row can be written."""

    plan: FaultPlan
    strategy: Strategy
    model: str
    undisturbed_ms: float = 0.0
    phases: Phases = dataclasses.field(default_factory=Phases)
    attempts: int = 0
    duplicated: int = 0
    outcome: Outcome = Outcome.UNKNOWN
    detail: str = "interrupted before its end"


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
        self._stories: list[_Story] = []

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
        is held against; without it the lane answers once undisturbed, before the fault.
        """
        arrays = check_feeds(model.info, feeds)
        await self._present(model, deadline)
        self.requests += 1
        self.lane.counts["requests"] += 1
        plan = self.planned.pop(0) if self.planned else None
        if plan is not None:
            return await self._disturbed(plan, model, arrays, outputs, deadline, expect)
        async with self._journal.transaction("run", self.lane.name, self.terms.test_id):
            reply = await self._answer(_Request(self.lane, model, arrays, outputs, deadline))
        return dict(reply.tensors), reply

    async def cause(self, plan: FaultPlan) -> Damage:
        """Cause a fault now, outside any request, and return the damage once it is seen."""
        injector = _injector(plan, self.lane)
        self.lane.here.damages.clear()
        await injector.cause(self.lane, deadline=_CAUSE_S)
        return await injector.observe(self.lane, deadline=_OBSERVE_S)

    async def end(self) -> bool:
        """Leave the lane whole for the next test, write the rows; return whether it is whole."""
        whole = await self.lane.settle()
        for story in self._stories:
            self._write(story, whole)
        self._stories.clear()
        # The page keeps its models, but repairs under a later lease need not bring this one's back: their
        # files may be gone by then.
        self.lane.wanted.clear()
        return whole

    # -- inside ------------------------------------------------------------------------------

    async def _present(self, model: LoadedModel, deadline: float) -> None:
        """Load the model again where a repair since its load lost it."""
        if self.lane.station is None or model.key not in self.lane.here.loaded:
            await self._load(model.info, model.build, deadline)

    async def _load(self, info: ModelInfo, build: OrtBuild | None, deadline: float) -> LoadedModel:
        if self.lane.station is None:  # a repair was interrupted, by Ctrl-C or a deadline
            await self.lane.settle()
        try:
            return await self.lane.load(info, build, deadline=deadline)
        except DamagedLaneError as error:
            again = lambda left: self.lane.load(info, build, deadline=left)  # noqa: E731 - said where it is used
            recovery = await self._recover(again, error.damage, error.damage.at, self.terms.strategy)
            return cast("LoadedModel", recovery.result)

    async def _answer(self, request: _Request) -> Reply:
        """Send a request that no fault is planned for; a lane that breaks under it is mended by the strategy."""
        request.send()
        try:
            return await request.answer()
        except DamagedLaneError as error:
            recovery = await self._recover(request.again, error.damage, error.damage.at, self.terms.strategy)
            return cast("Reply", recovery.result)
        finally:
            request.drop()

    async def _disturbed(
        self,
        plan: FaultPlan,
        model: LoadedModel,
        arrays: Arrays,
        outputs: Sequence[str] | None,
        deadline: float,
        expect: Mapping[str, Any] | None,
    ) -> tuple[Arrays, Reply]:
        injector = _injector(plan, self.lane)
        story = _Story(plan, plan.recovery or self.terms.strategy, model.info.name)
        async with self._journal.transaction("run", self.lane.name, self.terms.test_id):
            begun, recoveries = time.perf_counter(), self.lane.counts["recoveries"]
            reference = await self._answer(_Request(self.lane, model, arrays, outputs, deadline))
            if self.lane.counts["recoveries"] == recoveries:
                story.undisturbed_ms = (time.perf_counter() - begun) * 1000
            self._stories.append(story)
            request = _Request(self.lane, model, arrays, outputs, deadline)
            try:
                reply = await self._under_fault(story, injector, request)
            except (RecoveryError, DamagedLaneError, FaultError) as error:
                story.outcome, story.detail = Outcome.FAILED, str(error)[:500]
                if isinstance(error, GivenUpError):
                    story.phases, story.attempts = error.phases, error.attempts
                raise
            finally:
                request.drop()
            wrong = _wrong(dict(expect or reference.tensors), reply.tensors)
            story.duplicated = reply.executions - 1
            story.outcome = Outcome.FAILED if wrong or story.duplicated else Outcome.RECOVERED
            story.detail = wrong
        return dict(reply.tensors), reply

    async def _under_fault(self, story: _Story, injector: Injector, request: _Request) -> Reply:
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

    def _write(self, story: _Story, whole: bool) -> None:
        outcome, detail = story.outcome, story.detail
        if outcome is Outcome.RECOVERED and not whole:
            outcome, detail = Outcome.FAILED, "the answer came, but the lane was not whole again afterwards"
        phases = story.phases
        held = self.lane.here.loaded if self.lane.station is not None else {}
        self._record(
            RecoveryRow(
                run_id=self.terms.run_id,
                evidence=self.lane.probe.evidence,
                test_id=self.terms.test_id,
                lane=str(self.lane.name),
                fault=str(story.plan.fault),
                strategy=str(story.strategy),
                outcome=str(outcome),
                total_ms=phases.total,
                detect_ms=phases.detect,
                reassign_ms=phases.reassign,
                load_ms=phases.load,
                restore_ms=phases.restore,
                replay_ms=phases.replay,
                attempts=story.attempts,
                duplicated=story.duplicated,
                lost=len(set(self.lane.wanted) - set(held)) if outcome is Outcome.RECOVERED else 0,
                undisturbed_ms=story.undisturbed_ms,
                worker=self.terms.worker,
                model=story.model,
                detail=detail,
            )
        )


class _Request:
    """One run, which may have to be asked for again on another page or browser."""

    def __init__(
        self, lane: LiveLane, model: LoadedModel, arrays: Arrays, outputs: Sequence[str] | None, deadline: float
    ) -> None:
        self._lane = lane
        self._model = model
        self._arrays = arrays
        self._outputs = outputs
        self._deadline = deadline
        self._station: Station = lane.here
        self._id = 0

    def send(self, *, hold: bool = False, deadline: float | None = None) -> None:
        """Send it to the station in service."""
        self._station = self._lane.here
        self._id = self._station.engine.send_run(
            self._model, self._arrays, self._outputs, deadline=deadline or self._deadline, hold=hold
        )

    async def started(self, *, deadline: float) -> None:
        """Wait until the page has taken it up."""
        await self._station.channel.started(self._id, deadline=deadline)

    def release(self) -> None:
        """Let it go on from where it is held."""
        self._station.channel.release(self._id)

    async def answer(self) -> Reply:
        """Wait for its answer."""
        return await self._station.unless_fatal(self._station.engine.answer(self._model, self._id))

    def drop(self) -> None:
        """Stop waiting for it, if it is still owed."""
        self._station.channel.abandon(self._id)

    async def again(self, deadline: float) -> Reply:
        """Return its answer: the one still owed by the page it was sent to, else of one more sending."""
        if self._station is self._lane.here and self._station.channel.is_pending(self._id):
            return await self.answer()
        self._station.channel.abandon(self._id)
        self.send(deadline=deadline)
        return await self.answer()


def _injector(plan: FaultPlan, lane: LiveLane) -> Injector:
    injector = INJECTORS[plan.fault]
    if reason := injector.meaning(lane.probe):
        raise FaultError(f"lane {lane.name}: fault {plan.fault} has no meaning here: {reason}")
    return injector


def _wrong(expected: Mapping[str, Any], got: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Return what is wrong with ``got``, or nothing."""
    for name, value in expected.items():
        if name not in got:
            return f"output {name!r} is missing"
        wanted = np.asarray(value)
        base = tolerance_for(wanted.dtype)
        # two runs of one model on one lane differ by summation order only; lanes among each other by more
        difference = compare(wanted, got[name], Tolerance(base.atol * 4, base.rtol * 4))
        if not difference.agrees:
            return f"output {name!r}: {difference}"
    return ""
