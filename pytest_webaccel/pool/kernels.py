"""Kernels on a leased lane."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from pytest_webaccel.engines.kernels import Computation
from pytest_webaccel.errors import ConfigurationError, ModelError, WebAccelError
from pytest_webaccel.pool.request import KernelRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.pool.lease import Lease

__all__ = ["Timings", "run_kernels", "timings"]


_log = logging.getLogger(__name__)
#: Milliseconds or bytes that no page can mean.
_MOST = 2**53


@dataclasses.dataclass(frozen=True, slots=True)
class Timings:
    """What the page tells of a run: milliseconds, and bytes of buffers that its device keeps and those of the run.

    ``first_ms`` is the whole first run, with what compiling and making buffers took; ``times_ms`` are the repeats, from
    the upload of the inputs to the outputs.
    """

    first_ms: float
    times_ms: Sequence[float]
    kept_bytes: int
    passing_bytes: int


async def run_kernels(lease: Lease, computation: Computation, *, deadline: float, repeats: int = 0) -> Reply:
    """Return the answer of a computation, run once and ``repeats`` times more with the clock beside it.

    A lane that breaks under it is mended by the strategy, and it is asked again, also of a browser that stands in. A
    state that it writes is then at its next version, and kept where its checkpoint has come. Raises ConfigurationError
    for what the lane cannot run, before anything is sent, ModelError where a kernel fails.
    """
    computation.require_current()
    if repeats and computation.writes:
        raise ConfigurationError("what writes a state runs once: it cannot be repeated with the clock beside it")
    reply = await _dispatched(lease, computation, deadline, repeats)
    computation.commit()
    if (state := computation.state) is not None and len(state.log) >= state.checkpoint:
        cells = [state.cell(name) for name in state.sizes]
        try:
            state.save((await _dispatched(lease, Computation({cell.key: cell for cell in cells}), deadline, 0)).tensors)
        except WebAccelError as error:  # the answer is there; the next computation tries again
            _log.warning("lane %s: a state could not be fetched to be kept: %s", lease.lane.name, error)
    return reply


async def _dispatched(lease: Lease, computation: Computation, deadline: float, repeats: int) -> Reply:
    lane = lease.lane
    computation.plan(lane.probe)
    if not lane.served:  # a repair was interrupted, by Ctrl-C or a deadline
        await lane.settle()
    with contextlib.closing(KernelRun(lane, computation, deadline, repeats=repeats)) as request:
        return await lease.dispatch(request)


def timings(reply: Reply, repeats: int) -> Timings:
    """Return what the page told of a run with so many repeats; raises ModelError where it told something else."""
    told = reply.value if isinstance(reply.value, dict) else {}
    names = ("first_ms", "kept_bytes", "passing_bytes")
    times: Any = told.get("times_ms")
    listed: list[Any] = times if isinstance(times, list) else [None]
    if len(listed) != repeats or not all(map(_is_amount, [*listed, *map(told.get, names)])):
        raise ModelError(f"the page told no times of {repeats} runs: {str(reply.value)[:200]}")
    first, kept, passing = (told[name] for name in names)
    return Timings(float(first), [float(one) for one in listed], int(kept), int(passing))


def _is_amount(value: Any) -> bool:
    return type(value) in {int, float} and 0 <= value < _MOST
