"""Requests of many steps: a sequence through a recurrent model, or a decoding loop.

Each step is a transaction. Every few steps what they carry is committed, here and in the test's ledger;
after a fault in the middle, ``coordinated`` goes on from there and the other strategies start over.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.bridge.protocol import Reply
from pytest_webaccel.engines.models import check_feeds
from pytest_webaccel.errors import ConfigurationError, FeedError, ModelError, WrongAnswerError
from pytest_webaccel.pool.asked import Asked, told
from pytest_webaccel.pool.story import contradiction
from pytest_webaccel.recovery.strategies import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.request import Arrays
    from pytest_webaccel.pool.station import Station
    from pytest_webaccel.pool.story import Story
    from pytest_webaccel.recovery.ledger import Turn
    from pytest_webaccel.terms import FaultPlan

__all__ = ["MAX_STEPS", "Script", "run_steps"]

#: Steps of one request at most: a loop that never says that it is done ends here.
MAX_STEPS = 10_000

#: Of a loop whose length nobody knows, one of the first steps is struck: after the first, before this one.
_STRUCK_BEFORE = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Script:
    """What the steps are.

    ``feeds`` are those of each step, without what is carried, or a function that gives them: from the step's number
    and the outputs of the step before (empty for step 0); None when it is done. ``carry`` maps an output of each step
    to the input of the next; ``initial`` feeds those inputs at step 0. ``outputs`` names what is returned of each step
    (None: all), ``checkpoint`` is how many steps are committed at a time, ``limit`` how many there may be.
    """

    feeds: Sequence[Mapping[str, Any]] | Callable[[int, Arrays], Mapping[str, Any] | None]
    carry: Mapping[str, str]
    initial: Mapping[str, Any]
    outputs: Sequence[str] | None = None
    checkpoint: int = 1
    limit: int = MAX_STEPS

    def check(self, model: LoadedModel) -> None:
        """Raise ConfigurationError, FeedError or ModelError for what cannot be meant."""
        if self.checkpoint < 1 or self.limit < 1:
            raise ConfigurationError(f"checkpoint={self.checkpoint}, limit={self.limit}: both must be 1 or more")
        inputs = {info.name for info in model.info.inputs}
        outputs = {info.name for info in model.info.outputs}
        if unknown := sorted(({*self.carry} | {*(self.outputs or ())}) - outputs):
            raise ModelError(f"model {model.info}: it has no output {', '.join(unknown)}; it has {', '.join(outputs)}.")
        if unknown := sorted({*self.carry.values()} - inputs):
            raise ModelError(f"model {model.info}: it has no input {', '.join(unknown)}; it has {', '.join(inputs)}.")
        if {*self.initial} != {*self.carry.values()}:
            raise FeedError(
                f"model {model.info}: initial= must feed exactly the carried inputs, {sorted(self.carry.values())}; it "
                f"feeds {sorted(self.initial)}."
            )

    @property
    def length(self) -> int | None:
        """How many steps there are; None where only the function knows."""
        return None if callable(self.feeds) else len(self.feeds)

    def step(self, number: int, before: Arrays) -> Mapping[str, Any] | None:
        """Return the feeds of a step; None when there is none."""
        if callable(self.feeds):
            return self.feeds(number, before)
        return self.feeds[number] if number < len(self.feeds) else None


async def run_steps(lease: Lease, model: LoadedModel, script: Script, *, deadline: float) -> list[Arrays]:
    """Return the outputs of each step; ``deadline`` is each step's own, in seconds.

    A fault planned for the request strikes at one of its steps, drawn from the run's seed. Raises FeedError,
    ModelError and RecoveryError as a run does, and ConfigurationError for a script that cannot be meant.
    """
    script.check(model)
    first = script.step(0, {})
    if first is None:
        return []
    initial = check_feeds(model.info, {**first, **script.initial})
    told_apart = ("steps", sorted(script.carry.items()), script.checkpoint, script.length)
    with lease.life.request(model, {**initial, **_flat(script)}, script.outputs, *told_apart) as turn:
        lease.requests += 1
        lease.lane.counts["requests"] += 1
        if (kept := turn.answer) is not None:
            results = _unpack(kept)
            if (story := lease.life.struck()) is not None:
                lease.tell(story)
                story.steps = story.steps_saved = len(results)
                story.phases = lease.life.phases(time.time())
                lease.judge(story, {}, Reply(None, {}, 0.0, 1))
            return results
        results = await _Walk(lease, model, script, first, deadline, turn).all()
        turn.commit(_pack(results))
    return results


class _Walk:
    """One request of many steps on its way."""

    def __init__(
        self,
        lease: Lease,
        model: LoadedModel,
        script: Script,
        first: Mapping[str, Any],
        deadline: float,
        turn: Turn,
    ) -> None:
        self._lease = lease
        self._first = first
        self._model = model
        self._script = script
        self._deadline = deadline
        self._turn = turn
        self._fetched = None if script.outputs is None else list(dict.fromkeys([*script.outputs, *script.carry]))
        self._fed: list[Arrays] = []
        self._replies: list[Arrays] = []
        self._initial: Arrays = {name: np.asarray(value) for name, value in script.initial.items()}
        self._carried = self._saved = self._initial
        self._committed = 0
        self._redone = 0
        self._stories: list[Story] = []

    async def all(self) -> list[Arrays]:
        """Return the outputs of each step."""
        lease = self._lease
        asked_at, repeats, struck = time.time(), lease.life.repeats, lease.life.struck()
        await lease.present(self._model, self._deadline)
        if struck is not None:
            lease.tell(struck)
            with told(struck):
                await self._again(struck, asked_at)
        plan = None if repeats else lease.plans.take(loads=False)
        at = self._draw() if plan is not None else -1
        while (one := self._next()) is not None:
            if len(self._replies) == at:
                plan, strikes = None, plan
                await self._step(one, strikes)
            else:
                await self._step(one, None)
        if plan is not None:
            lease.plans.waiting.insert(0, plan)  # the loop ended before the step that was drawn: it never fired
            lease.life.unfired()
        for story in self._stories:
            story.steps = len(self._replies)
        return [self._shown(tensors) for tensors in self._replies]

    # -- inside ------------------------------------------------------------------------------

    async def _again(self, story: Story, asked_at: float) -> None:
        """Get as far as the step in which the worker before this one died, and say what came of it."""
        lease = self._lease
        self._stories.append(story)
        saved = self._resume() if STRATEGIES[story.strategy].resumes else 0
        reply: Reply | None = None
        while len(self._replies) <= lease.life.struck_step and (one := self._next()) is not None:
            reply = await self._step(one, None)
        story.phases = lease.life.phases(asked_at)
        story.steps_saved = saved
        reply = reply or Reply(None, self._replies[-1], 0.0, 1)
        lease.judge(story, lease.life.reference() or {}, reply)

    async def _step(self, one: Asked, plan: FaultPlan | None) -> Reply:
        lease = self._lease
        before = lease.life.step = len(self._replies)
        self._redone = 0
        reply, story = await lease.step(one, plan)
        if story is not None:
            story.steps_saved = before - self._redone
            self._stories.append(story)
        self._replies.append(dict(reply.tensors))
        self._carried = self._carry(reply.tensors)
        if before + 1 - self._committed >= self._script.checkpoint:
            new = {step: self._replies[step] for step in range(self._committed, before + 1)}
            self._turn.checkpoint(
                before + 1, {f"{step}:{name}": each for step in new for name, each in new[step].items()}
            )
            self._committed, self._saved = before + 1, self._carried
        return reply

    def _next(self) -> Asked | None:
        """Return the next step; None when there is none."""
        step = len(self._replies)
        before = self._shown(self._replies[-1]) if self._replies else {}
        # the first is known already: a function that counts its calls is not asked for it twice
        feeds = self._script.step(step, before) if step else self._first
        if feeds is None:
            return None
        if step >= self._script.limit:
            raise ConfigurationError(
                f"model {self._model.info}: {step} steps were done and the feeds do not end; raise limit= if so many "
                "are meant"
            )
        arrays = check_feeds(self._model.info, {**feeds, **self._carried})
        self._fed.append({name: arrays[name] for name in feeds})
        return Asked(self._model, arrays, self._fetched, self._deadline, redo=self._redo)

    def _carry(self, tensors: Mapping[str, Any]) -> Arrays:
        return {name: tensors[output] for output, name in self._script.carry.items()}

    def _resume(self) -> int:
        """Go on where an earlier life's last checkpoint left off; return how many steps that saves."""
        done, kept = self._turn.resumable
        replies = _unpack(kept)[:done]
        if len(replies) < done:
            return 0
        for reply in replies:
            if self._next() is None:
                return 0
            self._replies.append(reply)
            self._carried = self._carry(reply)
        self._committed, self._saved = done, self._carried
        return done

    async def _redo(self, station: Station, deadline: float) -> Arrays:
        """Do again the steps that are not committed, on ``station``; return what to feed the present one."""
        until = asyncio.get_running_loop().time() + deadline
        story = self._lease.recovering
        resumes = story is not None and STRATEGIES[story.strategy].resumes
        begin, carried = (self._committed, self._saved) if resumes else (0, self._initial)
        self._redone = 0
        present = len(self._replies)
        model = station.find(self._model) or self._model
        for step in range(begin, present):
            async with self._lease.transaction("step"):
                left = max(until - asyncio.get_running_loop().time(), 0.001)
                feeds = {**self._fed[step], **carried}
                request = station.engine.send_run(model, feeds, self._fetched, deadline=left)
                reply = await station.unless_fatal(station.engine.answer(model, request))
                if wrong := contradiction(self._replies[step], reply.tensors):
                    raise WrongAnswerError(f"step {step}, done again, contradicts what it answered before: {wrong}")
            carried = self._carry(reply.tensors)
            self._redone += 1
        return {**self._fed[present], **carried}

    def _draw(self) -> int:
        """Return the step to strike: not the first, where there are more."""
        lease = self._lease
        length = self._script.length or _STRUCK_BEFORE
        chance = random.Random(f"steps\0{lease.terms.seed}\0{lease.terms.drawn_by}\0{lease.requests}")
        return chance.randrange(1, length) if length > 1 else 0

    def _shown(self, tensors: Arrays) -> Arrays:
        names = self._script.outputs
        return dict(tensors) if names is None else {name: tensors[name] for name in names}


def _flat(script: Script) -> Arrays:
    """Return every step's feeds under names of their own; nothing for a function, which only the run can ask."""
    if callable(script.feeds):
        return {}
    return {
        f"{step}:{name}": np.asarray(value) for step, feeds in enumerate(script.feeds) for name, value in feeds.items()
    }


def _pack(results: Sequence[Arrays]) -> Arrays:
    return {f"{step}:{name}": array for step, tensors in enumerate(results) for name, array in tensors.items()}


def _unpack(packed: Mapping[str, Any]) -> list[Arrays]:
    steps: dict[int, Arrays] = {}
    for key, array in packed.items():
        step, _, name = key.partition(":")
        steps.setdefault(int(step), {})[name] = array
    return [steps[step] for step in sorted(steps)]
