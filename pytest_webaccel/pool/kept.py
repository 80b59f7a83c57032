"""What a page's device keeps for kernels between runs, and how a state is brought to a page that has lost it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.engines.kernels import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from pytest_webaccel.engines.kernels import State
    from pytest_webaccel.pool.station import Station

__all__ = ["Kept", "restore", "send_kernel"]


class Kept:
    """What a page keeps, as far as it was told: ``keys`` of weights and of states, ``versions`` of states by key."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.versions: dict[str, int] = {}
        #: Whether the page was asked for a kernel: what fails may leave something, too.
        self.asked = False

    def forget(self) -> None:
        """Note that it is all gone."""
        self.keys.clear()
        self.versions.clear()
        self.asked = False

    def add(self, plan: Plan) -> None:
        """Note that a plan has run."""
        self.keys.update(plan.constants, plan.states)


def send_kernel(
    station: Station,
    plan: Plan,
    repeats: int = 0,
    *,
    deadline: float,
    hold: bool = False,
    more: Mapping[str, np.ndarray] | None = None,
) -> int:
    """Send a plan with what the page does not keep yet, and ``more`` tensors by name; return the request's id."""
    kept = station.kept
    kept.asked = True
    tensors = {**plan.tensors(kept.keys), **(more or {})}
    args = plan.to_args(repeats, kept.keys)
    return station.channel.send("kernel", args, tensors=tensors, deadline=deadline, hold=hold)


async def restore(state: State, station: Station, plan_of: Callable[..., Plan], deadline: float) -> None:
    """Bring a state to the version that a station's page must go on from: its buffers as kept, then run by run."""

    async def run(plan: Plan, more: Mapping[str, np.ndarray] | None = None) -> None:
        request = send_kernel(station, plan, deadline=deadline, more=more)
        try:
            await station.unless_fatal(station.channel.answer(request))
        finally:
            station.channel.abandon(request)
        kept.add(plan)

    kept = station.kept
    have = kept.versions.get(state.key)
    if have is None and not state.version:
        return  # it begins with the run to come
    if have is None or not state.saved_version <= have <= state.version:
        have = state.saved_version
        anew = Plan.of_state(state)
        kept.keys -= anew.states.keys()
        await run(anew, state.saved)
        kept.versions[state.key] = have
    for computation in state.log[have - state.saved_version :]:
        await run(plan_of(computation))
        kept.versions[state.key] += 1
