"""The search for the constants under which a kernel is fastest on a lane."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.engines.kernels import KEPT, Computation, Resident, Target, Tensor, manifest, program
from pytest_webaccel.engines.kernels.reference import nmse, reference
from pytest_webaccel.engines.kernels.tuning import BETTER, Timing, TimingState, Tuning, descend, every, key
from pytest_webaccel.errors import ConfigurationError, FeedError, LaneUnavailableError, ModelError, WebAccelError
from pytest_webaccel.faces.choices import browser_of
from pytest_webaccel.pool.kernels import run_kernels, timings
from pytest_webaccel.rows import TuningRow

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.engines.kernels import Dispatch
    from pytest_webaccel.engines.kernels.tuning import Constants
    from pytest_webaccel.faces.choices import Choices
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

__all__ = ["Tuner"]

T = TypeVar("T")

#: Largest normalised squared error of a candidate's answer.
_RIGHT = 1e-6
#: Best candidates that are run once more in rounds with the untuned one, before one is chosen.
_FINALISTS = 3


class Tuner:
    """Looks for the best constants of one kernel on a leased lane. ``told`` is given a line of progress at a time."""

    def __init__(
        self, worker: Worker, lease: Lease, test_id: str, choices: Choices, told: Callable[[str], None]
    ) -> None:
        self._worker = worker
        self._lease = lease
        self._test_id = test_id
        self._choices = choices
        self._told = told

    def tune(
        self, kernel: str, inputs: Mapping[str, Any], *, whole: bool, repeats: int, seconds: float, timeout: float
    ) -> Tuning:
        """Return what was found; the best runs from now on. See :meth:`~pytest_webaccel.faces.WebAccel.tune`."""
        if repeats < 1:
            raise ConfigurationError(f"repeats={repeats}: a candidate is timed at least once")
        for name, given in inputs.items():
            if isinstance(given, Tensor):
                raise FeedError(f"{name} is to be computed by another kernel: a tuner takes arrays and weights")
        probe = self._lease.lane.probe
        kept = KEPT.get(kernel, ())
        resident = {
            name: Resident(one) if name in kept and not isinstance(one, Resident) else one
            for name, one in inputs.items()
        }
        untuned = program(kernel, resident).lowered(Target.of(probe))
        if not untuned.chosen:
            raise ConfigurationError(f"kernel {kernel} has nothing to tune on {probe.lane}")
        trial = _Trial(self._worker, self._lease, kernel, resident, timeout)
        tried = self._choices.tried(probe, untuned)
        try:
            self._search(kernel, untuned, trial, tried, whole=whole, repeats=repeats, seconds=seconds)
            finalists = self._finals(untuned, trial, tried, repeats)
        except BaseException:
            self._record(untuned, list(tried.values()), None)
            raise
        default = finalists[0]
        best = min(finalists, key=lambda timing: timing.median_ms)
        if best.median_ms >= default.median_ms * BETTER:  # that is noise
            best = default
        tuning = Tuning(kernel, list(tried.values()), default, best)
        self._choices.choose(probe, untuned, best.constants)
        self._record(untuned, tuning.timings, best)
        return tuning

    def _search(
        self,
        kernel: str,
        untuned: Dispatch,
        trial: _Trial,
        tried: dict[tuple[tuple[str, int], ...], Timing],
        *,
        whole: bool,
        repeats: int,
        seconds: float,
    ) -> None:
        """Add candidates to ``tried`` until the search ends, or its time."""
        probe = self._lease.lane.probe
        until = time.monotonic() + seconds
        search = (every if whole else descend)(
            manifest(untuned.kernel, probe.lane.backend).tunable, untuned.chosen, trial.fits
        )
        candidate = next(search)
        with contextlib.suppress(StopIteration):
            while True:
                if key(candidate) not in tried:
                    try:
                        tried[key(candidate)] = trial.timed(candidate, repeats)
                    except WebAccelError as error:  # not to be met again by a search that goes on
                        tried[key(candidate)] = Timing(
                            dict(candidate), TimingState.FAILED, detail=f"broke the lane: {error}"
                        )
                        raise
                    self._told(f"tuning {kernel} on {self._lease.lane.name}: {len(tried)} candidates")
                if time.monotonic() > until:
                    break
                candidate = search.send(tried[key(candidate)].median_ms)

    def _finals(
        self, untuned: Dispatch, trial: _Trial, tried: dict[tuple[tuple[str, int], ...], Timing], repeats: int
    ) -> list[Timing]:
        """Run the untuned candidate and the best ones in rounds; return those that were right every time, it first."""
        default = tried[key(untuned.chosen)]
        ordered = sorted(tried.values(), key=lambda timing: timing.median_ms)
        best = [one for one in ordered[:_FINALISTS] if one is not default and one.state is TimingState.TIMED]
        rounds: list[list[Timing]] = [[one] if one.state is not TimingState.TIMED else [] for one in (default, *best)]
        for _ in range(repeats):
            for one, found in zip((default, *best), rounds, strict=True):
                found.append(trial.timed(one.constants, 1))
        finalists = []
        for one, found in zip((default, *best), rounds, strict=True):
            bad = next((each for each in found if each.state is not TimingState.TIMED), None)
            after = bad or dataclasses.replace(one, times=[each.times[0] for each in found])
            tried[key(one.constants)] = after
            if bad is None:
                finalists.append(after)
            elif one is default:
                where = f"kernel {untuned.kernel} on {self._lease.lane.name}"
                raise ModelError(f"{where} cannot be tuned: untuned it {bad.detail}")
        return finalists

    def _record(self, untuned: Dispatch, timings: Sequence[Timing], best: Timing | None) -> None:
        probe = self._lease.lane.probe
        for timing in timings:
            timed = timing.state is TimingState.TIMED
            self._worker.record(
                TuningRow(
                    run_id=self._worker.run_id,
                    evidence=self._worker.pool.evidence(probe.lane),
                    test_id=self._test_id,
                    lane=str(probe.lane),
                    adapter=probe.adapter,
                    browser=browser_of(probe),
                    kernel=untuned.kernel,
                    signature=untuned.signature,
                    constants=timing.constants,
                    state=str(timing.state),
                    n=len(timing.times),
                    median_ms=timing.median_ms if timed else 0.0,
                    first_ms=timing.first_ms,
                    nmse=timing.nmse if math.isfinite(timing.nmse) else sys.float_info.max,
                    untuned=key(timing.constants) == key(untuned.chosen),
                    chosen=timing is best,
                )
            )


class _Trial:
    """Candidates of one kernel on one lane, beside what NumPy computes."""

    def __init__(self, worker: Worker, lease: Lease, kernel: str, inputs: Mapping[str, Any], timeout: float) -> None:
        self._worker = worker
        self._lease = lease
        self._kernel = kernel
        self._inputs = inputs
        self._timeout = timeout
        self._right = reference(kernel, inputs)

    def fits(self, constants: Constants) -> bool:
        """Whether the constants go together, and the adapter has what they need."""
        try:
            self._computation(constants).plan(self._lease.lane.probe)
        except ConfigurationError:
            return False
        return True

    def _computation(self, constants: Constants) -> Computation:
        return Computation(program(self._kernel, self._inputs, constants).all_outputs())

    def timed(self, constants: Constants, repeats: int) -> Timing:
        """Run a candidate once to compile it and ``repeats`` times with the clock beside it."""
        work = self._computation(constants)
        try:
            reply = self._on_own_browser(work, repeats)
            told = timings(reply, repeats)
        except ModelError as error:
            return Timing(dict(constants), TimingState.FAILED, detail=f"failed: {error}")
        error_of = nmse(reply.tensors["y"], self._right)
        if not error_of <= _RIGHT:
            detail = f"answers with an NMSE of {error_of:.1e}"
            return Timing(dict(constants), TimingState.WRONG, (), told.first_ms, error_of, detail)
        return Timing(dict(constants), TimingState.TIMED, told.times_ms, told.first_ms, error_of)

    def _on_own_browser(self, work: Computation, repeats: int) -> Reply:
        """Return the answer of the lane's own browser: what one that stands in takes says nothing of this adapter."""
        for _ in range(2):
            if self._lease.lane.guest is not None:
                self._call(self._lease.lane.settle())
            reply = self._call(run_kernels(self._lease, work, deadline=self._timeout, repeats=repeats))
            if self._lease.lane.guest is None:
                return reply
        raise LaneUnavailableError(f"another browser stands in for {self._lease.lane.name}: it cannot be tuned now")

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return self._worker.call(work, deadline=self._timeout + self._worker.recovery_s)
