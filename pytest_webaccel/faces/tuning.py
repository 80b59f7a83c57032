"""The search for the constants under which a kernel is fastest on a lane."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from typing import TYPE_CHECKING, Any

from pytest_webaccel.engines.kernels import Plan, Resident, manifest, program
from pytest_webaccel.engines.kernels.reference import nmse, reference
from pytest_webaccel.engines.kernels.tuning import FAILED, TIMED, WRONG, Timing, Tuning, descend, every, key
from pytest_webaccel.engines.packing import Packed
from pytest_webaccel.errors import ConfigurationError, ModelError
from pytest_webaccel.faces.choices import browser_of
from pytest_webaccel.pool.kernels import run_kernels, timings
from pytest_webaccel.rows import TuningRow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_webaccel.engines.kernels import Program
    from pytest_webaccel.engines.kernels.tuning import Constants
    from pytest_webaccel.faces.choices import Choices
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

__all__ = ["Tuner"]

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
        probe = self._lease.lane.probe
        inputs = {name: Resident(one) if isinstance(one, Packed) else one for name, one in inputs.items()}
        untuned = program(kernel, inputs, features=probe.features)
        trial = _Trial(self._worker, self._lease, kernel, inputs, timeout)
        tried = self._choices.tried(probe, untuned)
        until = time.monotonic() + seconds
        search = (every if whole else descend)(manifest(kernel).tunable, untuned.chosen, trial.fits)
        candidate = next(search)
        with contextlib.suppress(StopIteration):
            while True:
                if key(candidate) not in tried:
                    tried[key(candidate)] = trial.timed(candidate, repeats)
                    self._told(f"tuning {kernel} on {probe.lane}: {len(tried)} candidates")
                if time.monotonic() > until:
                    break
                candidate = search.send(tried[key(candidate)].median_ms)
        default = tried[key(untuned.chosen)]
        if default.state != TIMED:
            raise ModelError(f"kernel {kernel} on {probe.lane} cannot be tuned: untuned it {default.detail}")
        ordered = sorted(tried.values(), key=lambda timing: timing.median_ms)
        finalists = [default, *(one for one in ordered[:_FINALISTS] if one is not default and one.state == TIMED)]
        times: dict[int, list[float]] = {at: [] for at in range(len(finalists))}
        for _ in range(repeats):
            for at, one in enumerate(finalists):
                times[at] += trial.timed(one.constants, 1).times
        for at, one in enumerate(finalists):
            tried[key(one.constants)] = finalists[at] = dataclasses.replace(one, times=times[at])
        best = min(finalists, key=lambda timing: timing.median_ms)
        tuning = Tuning(kernel, list(tried.values()), finalists[0], best)
        self._choices.choose(probe, untuned, best.constants)
        self._record(untuned, tuning)
        return tuning

    def _record(self, untuned: Program, tuning: Tuning) -> None:
        probe = self._lease.lane.probe
        for timing in tuning.timings:
            self._worker.record(
                TuningRow(
                    run_id=self._worker.run_id,
                    evidence=self._worker.pool.evidence(probe.lane),
                    test_id=self._test_id,
                    lane=str(probe.lane),
                    adapter=probe.adapter,
                    browser=browser_of(probe),
                    kernel=tuning.kernel,
                    signature=untuned.signature,
                    constants=timing.constants,
                    state=timing.state,
                    n=len(timing.times),
                    median_ms=timing.median_ms if timing.state == TIMED else 0.0,
                    first_ms=timing.first_ms,
                    nmse=min(timing.nmse, sys.float_info.max),
                    untuned=timing is tuning.untuned,
                    chosen=timing is tuning.best,
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
            made = program(self._kernel, self._inputs, constants)
        except ConfigurationError:
            return False
        return set(made.needs) <= set(self._lease.lane.probe.features)

    def timed(self, constants: Constants, repeats: int) -> Timing:
        """Run a candidate once to compile it and ``repeats`` times with the clock beside it."""
        made = program(self._kernel, self._inputs, constants)
        work = run_kernels(self._lease, Plan.of({"y": made["y"]}), deadline=self._timeout, repeats=repeats)
        try:
            reply = self._worker.call(work, deadline=self._timeout + self._worker.recovery_s)
        except ModelError as error:
            return Timing(dict(constants), FAILED, detail=f"failed: {error}")
        told = timings(reply, repeats)
        error_of = nmse(reply.tensors["y"], self._right)
        if not error_of <= _RIGHT:
            return Timing(
                dict(constants), WRONG, (), told.first_ms, error_of, f"answers with an NMSE of {error_of:.1e}"
            )
        return Timing(dict(constants), TIMED, told.times_ms, told.first_ms, error_of)
