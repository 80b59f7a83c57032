"""Racing: several rungs at once, each on a browser of its own; the first right answer wins.

Each contender is driven by an ordinary recovery machine that knows one rung. So what a rung does, its
deadline and its account of time are the same in a race as alone.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pytest_webaccel.recovery.conductor import ANSWERS, GivenUpError, Recovery, Repairable, Replay, recover
from pytest_webaccel.recovery.rungs import Rung, Situation, Step
from pytest_webaccel.terms import Phases

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from pytest_webaccel.recovery.strategies import RecoveryStrategy
    from pytest_webaccel.terms import Damage, Strategy

__all__ = ["OWN_BROWSER", "Contender", "race"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: Rounds at most: what strikes during a race may leave other rungs to try.
_ROUNDS = 4

#: Steps that need something of their own: the spare, a new browser, another lane. All others share the present browser.
OWN_BROWSER = frozenset({Step.USE_SPARE, Step.RESTART_BROWSER, Step.FAIL_OVER})


class Contender(Protocol[T_co]):
    """One rung's own way to an answer: a lane to mend that nobody else mends, and a request sent nowhere else."""

    @property
    def lane(self) -> Repairable:
        """What this contender mends."""
        ...

    @property
    def replay(self) -> Replay[T_co]:
        """Sends the request to that lane and returns its checked result."""
        ...

    def win(self) -> None:
        """Put what was mended into service. Returns at once."""
        ...

    def lose(self) -> None:
        """Give back what was taken; nothing of it stays. Returns at once, the ending goes on behind."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Only:
    """A strategy of one rung."""

    name: Strategy
    only: Rung
    races: int = 1
    resumes: bool = False

    def rungs(self, situation: Situation) -> tuple[Rung, ...]:
        """Return the rung, whatever the damage."""
        del situation
        return (self.only,)


class _Heat(Generic[T]):
    """Contenders that run at the same time; ``reasons`` collects why those failed that did."""

    def __init__(self, reasons: list[str]) -> None:
        self.tasks: dict[asyncio.Task[Recovery[T]], Contender[T]] = {}
        self._reasons = reasons

    async def first(self) -> Recovery[T] | None:
        """Return the first recovery, its contender put into service and out of the heat; None: all failed."""
        waiting = set(self.tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    self.tasks.pop(task).win()
                    return task.result()
                if isinstance(error, ANSWERS):
                    self.tasks.pop(task).win()
                    raise error
                self._reasons.append(str(error)[:300])
        return None

    async def end(self) -> None:
        """Cancel those that still run; each ends its own step, and gives back what it took."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for contender in self.tasks.values():
            contender.lose()


async def race(
    lane: Repairable,
    contend: Callable[[Rung], Contender[T]],
    *,
    damage: Damage,
    strategy: RecoveryStrategy,
    fault_at: float,
    budget_s: float,
    clock: Callable[[], float],
    behind: Callable[[Coroutine[Any, Any, None]], None],
    mended: Callable[[Repairable], Awaitable[None]] | None = None,
) -> Recovery[T]:
    """Return the first answer among several rungs at once; arguments as of :func:`recover`.

    ``behind`` runs the ending of the losers in the background. Raises GivenUpError when every rung failed or
    the budget is spent. An error that is the request's own answer comes out once a contender got it.
    Cancellation leaves no contender behind.
    """
    begun = clock()
    tried: list[str] = []
    reasons: list[str] = []
    for _ in range(_ROUNDS):
        left = budget_s - (clock() - begun)
        field = _field(strategy, damage, lane, tuple(tried))
        if not field or left <= 0:
            break
        tried += [rung.name for rung in field]
        heat: _Heat[T] = _Heat(reasons)
        try:
            for rung in field:
                contender = contend(rung)
                work = recover(
                    contender.lane,
                    contender.replay,
                    damage=damage,
                    strategy=_Only(strategy.name, rung),
                    fault_at=fault_at,
                    budget_s=left,
                    clock=clock,
                    mended=mended,
                )
                heat.tasks[asyncio.ensure_future(work)] = contender
            won = await heat.first()
        except BaseException:
            await heat.end()
            raise
        if won is not None:
            behind(heat.end())
            return dataclasses.replace(won, rungs=tuple(tried))
        await heat.end()
    total = (clock() - fault_at) * 1000
    detect = min(max(damage.at - fault_at, 0.0) * 1000, total)
    why = f"every contender failed: {'; '.join(reasons)}" if reasons else "there was no rung to race"
    if clock() - begun >= budget_s:
        why = f"the budget of {budget_s:g} s is spent{f'; {why}' if reasons else ''}"
    raise GivenUpError(
        f"{lane.name}: recovery by strategy {strategy.name} gave up: {damage.symptom} ({damage.detail}): {why}",
        phases=Phases(total=total, detect=detect),
        rungs=tuple(tried),
        steps=(),
        damage=damage,
    )


def _field(strategy: RecoveryStrategy, damage: Damage, lane: Repairable, tried: tuple[str, ...]) -> list[Rung]:
    """Return the rungs that can be tried now at the same time, each needing something else for itself."""
    there = lane.survey()
    situation = Situation(
        damage, there.spares > 0, there.models, tried, startable=there.startable, elsewhere=there.elsewhere
    )
    chosen: dict[Step, Rung] = {}
    for rung in strategy.rungs(situation):
        if rung.name not in tried and len(chosen) < strategy.races:
            chosen.setdefault(rung.steps[0] if rung.steps[0] in OWN_BROWSER else Step.NEW_PAGE, rung)
    return list(chosen.values())
