"""Kernels on a leased lane."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.pool.request import KernelRun
from pytest_webaccel.terms import Backend

if TYPE_CHECKING:
    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.engines.kernels import Program
    from pytest_webaccel.pool.lease import Lease

__all__ = ["run_kernel"]


async def run_kernel(lease: Lease, program: Program, *, deadline: float) -> Reply:
    """Return the answer of one dispatch; a lane that breaks under it is mended by the strategy, and it is asked again.

    Raises ConfigurationError for what the lane cannot run, before anything is sent, ModelError where the kernel fails.
    """
    lane = lease.lane
    if lane.name.backend is not Backend.WEBGPU:
        raise ConfigurationError(f"kernel {program.kernel} is there for webgpu, and {lane.name} is another backend")
    program.require(lane.probe.limits)
    if lane.station is None and lane.guest is None:  # a repair was interrupted, by Ctrl-C or a deadline
        await lane.settle()
    with contextlib.closing(KernelRun(lane, program, deadline)) as request:
        return await lease.dispatch(request)
