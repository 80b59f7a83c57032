"""Kernels on a leased lane."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.pool.request import KernelRun
from pytest_webaccel.terms import Backend

if TYPE_CHECKING:
    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.engines.kernels import Plan
    from pytest_webaccel.pool.lease import Lease

__all__ = ["run_kernels"]


async def run_kernels(lease: Lease, plan: Plan, *, deadline: float, repeats: int = 0) -> Reply:
    """Return the answer of a plan, run once and ``repeats`` times more with the clock beside it.

    A lane that breaks under it is mended by the strategy, and it is asked again. Raises ConfigurationError for what the
    lane cannot run, before anything is sent, ModelError where a kernel fails.
    """
    lane = lease.lane
    if lane.name.backend is not Backend.WEBGPU:
        raise ConfigurationError(f"kernel {plan.kernel} is there for webgpu, and {lane.name} is another backend")
    plan.require(lane.probe.limits)
    if missing := plan.needs - set(lane.probe.features):
        raise ConfigurationError(f"kernel {plan.kernel} needs {', '.join(sorted(missing))}, which {lane.name} has not")
    if lane.station is None and lane.guest is None:  # a repair was interrupted, by Ctrl-C or a deadline
        await lane.settle()
    with contextlib.closing(KernelRun(lane, plan, deadline, repeats=repeats)) as request:
        return await lease.dispatch(request)
