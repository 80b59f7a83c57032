"""The lives of a test: what it goes on from in the worker that replaces the one in which it died.

A test whose worker is ended by a planned fault, or by the control ``worker_restart``, is handed out once
more. Its ledger says what was answered and why the worker died; here that becomes answers that need not be
computed again, planned faults that fire no more, and the row that tells how the fault was recovered from.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn, cast

from pytest_webaccel.bridge.protocol import Reply
from pytest_webaccel.pool.story import Story
from pytest_webaccel.recovery.ledger import Death, Ledger, Turn, digest, ledger_path
from pytest_webaccel.recovery.worker_restart import end_worker
from pytest_webaccel.terms import Damage, Fault, FaultPlan, FaultPoint, Phases, Strategy, Symptom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.faults.injector import FaultTarget, Injector
    from pytest_webaccel.pool.request import Arrays
    from pytest_webaccel.terms import Evidence, Lane

__all__ = ["NEW_WORKER", "Ledgers", "Life", "Taken"]

#: Name of the rung in the rows of tests that a replaced worker ran again.
NEW_WORKER = "new_worker"


class Taken(enum.StrEnum):
    """From where a fault was taken that fired: the plans for loads, those for runs, or the test's own hand."""

    LOAD = "load"
    RUN = "run"
    HAND = "hand"


class Ledgers:
    """The ledgers of a worker's tests, in the run's ``folder``; None: no worker replaces this one, nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._open: dict[str, Ledger] = {}

    def of(self, test_id: str) -> Ledger | None:
        """Return the ledger of a test, opened when first asked for."""
        if self._folder is None:
            return None
        if test_id not in self._open:
            self._open[test_id] = Ledger(ledger_path(self._folder, test_id), test_id)
        return self._open[test_id]

    def end(self, test_id: str) -> Death | None:
        """Remove the ledger of a test that ended; return the death of its earlier life where nothing told of it."""
        ledger = self._open.pop(test_id, None)
        if ledger is None:
            return None
        ledger.end()
        return None if ledger.told else ledger.death


class Life:
    """One lease's part in its test's ledger; ``ledger`` is None where nobody would replace this worker.

    ``step`` is the step of a request of many that is under way, ``struck_step`` the one that an earlier life
    ended in.
    """

    def __init__(self, ledger: Ledger | None, lane: Lane, evidence: Evidence) -> None:
        self._ledger = ledger
        self._lane = lane
        self._evidence = evidence
        self._taken = dict.fromkeys(Taken, 0)
        self._turn = Turn(None, lane, 0)
        self._began = time.time()
        self._asked = 0.0
        self._within = False
        self.step = self.struck_step = 0
        self._death = ledger.death if ledger is not None and not ledger.told else None
        if self._death is not None and self._death.lane != lane:
            self._death = None

    # -- requests ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def request(
        self, model: LoadedModel, arrays: Arrays, outputs: Sequence[str] | None, *options: object
    ) -> Iterator[Turn]:
        """Give the request within its place in the ledger; the caller commits it."""
        self._asked = self._asked or time.time()
        if self._ledger is None:
            self._turn = Turn(None, self._lane, 0)
        else:
            told = digest(model.info.sha256, [str(model.build), *options], arrays, outputs)
            self._turn = self._ledger.turn(self._lane, told)
            self._turn.start()
        self._within = True
        try:
            yield self._turn
        finally:
            self._within = False

    def kept(self) -> Reply | None:
        """Return the answer of the present request that an earlier life committed; it is not computed again."""
        answer = self._turn.answer
        return None if answer is None else Reply(None, answer, 0.0, 0)

    def refer(self, story: Story, tensors: Any) -> None:
        """Keep the undisturbed answer of the present request where the worker may die before the real one."""
        if story.plan.fault is Fault.WORKER_CRASH or story.strategy is Strategy.WORKER_RESTART:
            self._turn.refer(tensors)

    def reference(self) -> Arrays | None:
        """Return the undisturbed answer that an earlier life had of the present request."""
        return self._turn.reference

    # -- faults ------------------------------------------------------------------------------

    def fresh(self, kind: Taken) -> bool:
        """Count a fault that is about to fire; return whether it did not fire in an earlier life."""
        self._taken[kind] += 1
        return self._taken[kind] > self._spent(kind)

    def unfired(self) -> None:
        """Take back that the last fault for a run fired: what it was to strike never came."""
        self._taken[Taken.RUN] -= 1

    def unspent(self, planned: Sequence[FaultPlan]) -> tuple[FaultPlan, ...]:
        """Return those of ``planned`` that did not fire in an earlier life."""
        left = {kind: max(self._spent(kind) - self._taken[kind], 0) for kind in Taken}
        found = []
        for plan in planned:
            kind = Taken.LOAD if plan.at is FaultPoint.MID_LOAD else Taken.RUN
            if left[kind]:
                left[kind] -= 1
            else:
                found.append(plan)
        return tuple(found)

    @property
    def repeats(self) -> bool:
        """Whether the present request was asked in an earlier life, too: its fault, if it had any, has fired."""
        before = self._death is not None and self._turn.number <= self._death.request
        return before or self._turn.answer is not None

    def struck_before(self) -> Damage:
        """Return the damage of a fault by hand that fired in an earlier life."""
        now = asyncio.get_running_loop().time()
        return Damage(Symptom.BROWSER_EXITED, "it struck in the worker before this one, whose browsers are gone", now)

    # -- the end of a worker -----------------------------------------------------------------

    def noting(self, injector: Injector, story: Story, settle: Callable[[], None]) -> Injector:
        """Return ``injector``, or for ``worker_crash`` one that notes why the worker dies before it dies.

        ``settle`` is called before, to record what is known so far.
        """
        if injector.fault is not Fault.WORKER_CRASH:
            return injector

        def last_words() -> None:
            settle()
            end_worker(self._ledger, self._last_words(story, time.time(), 0.0))

        return cast("Injector", _Noting(injector, last_words))

    def end(self, story: Story, damage: Damage, fault_at: float, settle: Callable[[], None]) -> NoReturn:
        """End this worker: the control ``worker_restart`` mends nothing. ``fault_at`` is loop time, in seconds.

        Raises ConfigurationError where nobody would replace the worker.
        """
        story.damage = damage
        at = time.time() - (asyncio.get_running_loop().time() - fault_at)
        settle()
        end_worker(self._ledger, self._last_words(story, at, max(damage.at - fault_at, 0.0) * 1000))

    def struck(self) -> Story | None:
        """Return the story of the fault that ended an earlier life, when the present request is the one it struck."""
        death = self._death
        if death is None or self._turn.number != death.request:
            return None
        self._death, self.struck_step = None, death.step
        assert self._ledger is not None
        self._ledger.told = True
        story = Story(
            FaultPlan(death.fault, death.point, recovery=death.strategy),
            death.strategy,
            death.model,
            undisturbed_ms=death.undisturbed_ms,
            rungs=(NEW_WORKER,),
        )
        if death.symptom:
            story.damage = Damage(Symptom(death.symptom), "in the worker before this one", 0.0)
        return story

    def phases(self, asked_at: float) -> Phases:
        """Return where the time (ms) went since the fault that ended an earlier life.

        ``asked_at`` is when the struck request was asked here, in seconds since the epoch, as everything that two
        processes both know of time. ``load`` is from the lane to this life's first request, ``restore`` from
        there to the struck one.
        """
        assert self._ledger is not None
        assert self._ledger.death is not None
        death, now = self._ledger.death, time.time()
        noticed = self._ledger.past.noticed[-1] if self._ledger.past.noticed else death.at
        detect = death.detect_ms or (noticed - death.at) * 1000
        marks = [death.at * 1000 + detect, self._began * 1000, self._asked * 1000, asked_at * 1000, now * 1000]
        reassign, load, restore, replay = (max(later - sooner, 0.0) for sooner, later in pairwise(marks))
        return Phases((now - death.at) * 1000, detect, reassign, load, restore, replay)

    # -- inside ------------------------------------------------------------------------------

    def _spent(self, kind: Taken) -> int:
        death = self._ledger.death if self._ledger is not None else None
        return death.taken.get(kind, 0) if death is not None and death.lane == self._lane else 0

    def _last_words(self, story: Story, at: float, detect_ms: float) -> Death:
        # outside a request, in a load or by the test's own hand, the one to come is the one that is struck
        asked = self._ledger.count(self._lane) if self._ledger is not None else 0
        return Death(
            fault=story.plan.fault,
            strategy=story.strategy,
            point=story.plan.at,
            lane=self._lane,
            evidence=self._evidence,
            request=self._turn.number if self._within else asked,
            at=at,
            model=story.model,
            detect_ms=detect_ms,
            undisturbed_ms=story.undisturbed_ms,
            symptom=str(story.damage.symptom) if story.damage is not None else "",
            step=self.step,
            taken={str(kind): count for kind, count in self._taken.items()},
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Noting:
    """An injector that says its last words before it ends this process."""

    injector: Injector
    last_words: Callable[[], None]

    def __getattr__(self, name: str) -> Any:
        """Return what the injector has."""
        return getattr(self.injector, name)

    async def cause(self, target: FaultTarget, *, deadline: float) -> None:
        """End the worker; never returns."""
        del target, deadline
        self.last_words()
