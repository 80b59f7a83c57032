"""The faults that are planned for one lease: which comes next, what each is on this lane, which never struck."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.errors import FaultError
from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.faults.schedule import chance_of
from pytest_webaccel.pool.lives import Taken
from pytest_webaccel.pool.story import Story
from pytest_webaccel.terms import FaultPlan, FaultPoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.faults.injector import Injector
    from pytest_webaccel.pool.lives import Life
    from pytest_webaccel.pool.story import Terms
    from pytest_webaccel.terms import ProbeResult

__all__ = ["Plans", "never_fired"]


class Plans:
    """``waiting`` are the plans that have not come to their turn, in order; ``life`` knows those that struck before."""

    def __init__(self, probe: ProbeResult, terms: Terms, life: Life) -> None:
        self.waiting: list[FaultPlan] = []
        self._probe = probe
        self._terms = terms
        self._life = life

    def take(self, *, loads: bool) -> FaultPlan | None:
        """Take the next planned fault, if it is for a load, or for a run, as asked."""
        for plan in [plan for plan in self.waiting if (plan.at is FaultPoint.MID_LOAD) == loads]:
            self.waiting.remove(plan)
            if self._life.fresh(Taken.LOAD if loads else Taken.RUN):
                return plan
        return None

    def unfired(self) -> tuple[FaultPlan, ...]:
        """Return the planned faults that no request has met so far."""
        return self._life.unspent(self.waiting)

    def story(self, plan: FaultPlan, model: str) -> Story:
        """Return the story of a plan, which begins."""
        return Story(plan, plan.recovery or self._terms.strategy, model)

    def injector(self, plan: FaultPlan, requests: int) -> Injector:
        """Return what causes a plan's fault, drawn by how many ``requests`` came before; raises FaultError for none."""
        lane, injector = self._probe.lane, INJECTORS[plan.fault]
        if reason := injector.meaning(self._probe):
            raise FaultError(f"lane {lane}: fault {plan.fault} has no meaning here: {reason}")
        if reason := injector.misfit(plan.at):
            raise FaultError(f"lane {lane}: fault {plan.fault} can never fire at {plan.at}: {reason}")
        return injector.drawn(chance_of(self._terms.seed, self._terms.drawn_by, requests), self._probe)


def never_fired(plans: Sequence[FaultPlan], requests: int) -> str:
    """Return what to say of faults that were planned and never caused in a test that made so many requests."""
    left = ", ".join(f"{plan.fault} at {plan.at}" for plan in plans)
    loads = "webaccel.load(...) of a model that the page does not hold yet"
    wants = {loads if plan.at is FaultPoint.MID_LOAD else "webaccel.run(...)" for plan in plans}
    return (
        f"planned and never caused: {left}. The test made {requests} requests; such a fault strikes a "
        f"{' or a '.join(sorted(wants))}. Make one for each fault, or plan fewer."
    )
