"""What a page's device keeps for kernels between runs, and how a state is brought to a page that has lost it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING

from pytest_webaccel.engines.kernels import Plan, State
from pytest_webaccel.errors import DamagedLaneError, ModelError, RemoteError
from pytest_webaccel.terms import Damage, Symptom

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.pool.station import Station

__all__ = ["Kept", "kernel_answer", "restore", "send_kernel"]

#: Buffers of states that are kept before any is looked for that nobody holds.
_FEW_STATES = 16


class Kept:
    """What a page keeps, as far as it was told: ``keys`` of weights and of states, ``versions`` of states by key."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.versions: dict[str, int] = {}
        self._most_states = _FEW_STATES
        self._owners: weakref.WeakValueDictionary[str, object] = weakref.WeakValueDictionary()
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
        self._owners.update(plan.owners)

    def orphans(self) -> list[str]:
        """Return the keys of what nobody holds any more, which are not kept from now on."""
        states = sum(isinstance(owner, State) for owner in self._owners.values())
        if states >= self._most_states:  # a state's log refers to the state: only a collection shows that it is left
            gc.collect()
            states = sum(isinstance(owner, State) for owner in self._owners.values())
            self._most_states = max(_FEW_STATES, 2 * states)
        found = sorted(key for key in self.keys if key not in self._owners)
        self.keys.difference_update(found)
        return found

    def drop(self, state: State) -> None:
        """Have a state begin anew with what is sent next."""
        self.versions.pop(state.key, None)
        self.keys -= state.keys


def send_kernel(
    station: Station,
    plan: Plan,
    repeats: int = 0,
    *,
    written: State | None,
    deadline: float,
    hold: bool = False,
    more: Mapping[str, np.ndarray] | None = None,
) -> int:
    """Send a plan with what the page does not keep yet, and ``more`` tensors by name; return the request's id.

    ``written`` is the state that it writes.
    """
    kept = station.kept
    kept.asked = True
    orphans = kept.orphans()
    tensors = {**plan.tensors(kept.keys), **(more or {})}
    args = plan.to_args(repeats, kept.keys, orphans)
    request = station.channel.send("kernel", args, tensors=tensors, deadline=deadline, hold=hold)
    if written is not None:  # until it is answered nobody knows what the state is there
        kept.versions.pop(written.key, None)
    return request


async def kernel_answer(station: Station, plan: Plan, request: int) -> Reply:
    """Wait for the answer of a plan that was sent; what it brought is kept from then on.

    Raises DamagedLaneError where the page has lost what it kept, ModelError where a kernel failed.
    """
    try:
        reply = await station.channel.answer(request)
    except RemoteError as error:
        words = " ".join(str(error).split())
        if error.kind == "not_held":  # another page, or another device, than the one that was sent to before
            now = asyncio.get_running_loop().time()
            damage = Damage(Symptom.PAGE_REPLACED, f"the page lost what kernels keep: {words}"[:300], now)
            raise DamagedLaneError(damage, str(station.lane)) from error
        raise ModelError(f"kernel {plan.kernel} failed on {station.lane}: {words}") from error
    station.kept.add(plan)
    return reply


async def restore(state: State, station: Station, plan_of: Callable[..., Plan], deadline: float) -> None:
    """Bring a state to the version that a station's page must go on from: its buffers as kept, then run by run.

    Raises as :func:`kernel_answer`.
    """

    async def run(plan: Plan, version: int, more: Mapping[str, np.ndarray] | None = None) -> None:
        request = send_kernel(station, plan, written=state, deadline=deadline, more=more)
        try:
            await station.unless_fatal(kernel_answer(station, plan, request))
        finally:
            station.channel.abandon(request)
        kept.versions[state.key] = version

    kept = station.kept
    have = kept.versions.get(state.key)
    if have is None or not state.saved_version <= have <= state.version:
        kept.drop(state)
        if not state.version:
            return  # it begins with the run to come
        have = state.saved_version
        await run(Plan.of_state(state), have, state.saved)
    for computation in state.log[have - state.saved_version :]:
        have += 1
        await run(plan_of(computation), have)
