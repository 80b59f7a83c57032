"""The face of one leased lane: the fixture ``webaccel``."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.faces.arguments import DEADLINE_S, SEARCH_S, word
from pytest_webaccel.faces.faults import Faults
from pytest_webaccel.faces.records import Records
from pytest_webaccel.pool.steps import MAX_STEPS, Script, run_steps
from pytest_webaccel.terms import Lane, OrtBuild, ProbeResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np

    from pytest_webaccel.engines.kernels import Tensor
    from pytest_webaccel.engines.kernels.tuning import Tuning
    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.faces.arguments import Manner
    from pytest_webaccel.parity.blame import Blame
    from pytest_webaccel.parity.compare import Comparison
    from pytest_webaccel.parity.tolerance import Tolerance
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

__all__ = ["WebAccel"]


class WebAccel:
    """A leased lane: load models, run them, compare, measure.

    ``lane`` is its :class:`~pytest_webaccel.terms.Lane`, ``probe`` what the probe saw of it.
    """

    def __init__(self, worker: Worker, lease: Lease, manner: Manner) -> None:
        self.lane: Lane = lease.lane.name
        self.probe: ProbeResult = lease.lane.probe
        self._worker = worker
        self._lease = lease
        self._manner = manner
        self._records = Records(worker, lease.terms.test_id, manner)
        self._times: dict[str, list[float]] = {}

    def load(self, source: Path | str | bytes, *, build: str | None = None, timeout: float = DEADLINE_S) -> LoadedModel:
        """Load an ONNX model (a path, or its bytes) into the lane's page.

        ``build`` names the onnxruntime-web build: ``wasm``, ``jsep`` or ``native``; by default the one
        that fits the backend. ``timeout`` is in seconds. Raises ModelError for a file that is no
        model, or one that the engine refuses; under ``--webaccel-strict`` also when nodes that were
        asked to be on the lane's backend fell back to wasm.
        """
        chosen = None
        if build is not None:
            chosen = word(OrtBuild, build, "build", ConfigurationError)
        loaded = self._worker.call(
            self._lease.load(source, chosen, deadline=timeout), deadline=timeout + self._worker.recovery_s
        )
        self._records.placement(self._lease, loaded)
        return loaded

    def run(
        self,
        model: LoadedModel,
        feeds: Mapping[str, Any],
        *,
        outputs: Sequence[str] | None = None,
        timeout: float = DEADLINE_S,
        expect: Mapping[str, Any] | None = None,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Return the model's outputs (all, or those named) for ``feeds``, arrays by input name.

        A fault planned for the test fires here, and the answer that comes is the recovered one,
        held against ``expect`` (outputs by name) or against the lane's own undisturbed answer.
        ``timeout`` is in seconds, recovery not counted. Raises FeedError for feeds that do not fit,
        ModelError when an operator fails, RecoveryError when recovery gives up.
        """
        work = self._lease.run(model, feeds, outputs, deadline=timeout, expect=expect)
        begun = time.perf_counter()
        arrays, _ = self._worker.call(work, deadline=2 * timeout + self._worker.recovery_s)
        self._times.setdefault(model.info.name, []).append((time.perf_counter() - begun) * 1000)
        return arrays

    def run_steps(
        self,
        model: LoadedModel,
        feeds: Sequence[Mapping[str, Any]] | Callable[[int, dict[str, Any]], Mapping[str, Any] | None],
        *,
        carry: Mapping[str, str],
        initial: Mapping[str, Any],
        outputs: Sequence[str] | None = None,
        checkpoint: int = 1,
        limit: int = MAX_STEPS,
        timeout: float = DEADLINE_S,
    ) -> list[dict[str, np.ndarray[Any, Any]]]:
        """Return the outputs (all, or those named) of each step of one request of many.

        ``feeds`` are those of each step, or a function that gives them from the step's number and the outputs
        of the step before (empty for step 0), and None when it is done; more than ``limit`` steps are refused.
        ``carry`` maps an output of a step to the input of the next, ``initial`` feeds those inputs first. A fault
        planned for the test strikes at one of the steps, drawn from the run's seed: ``coordinated`` goes on from
        the last multiple of ``checkpoint`` steps, the other strategies start over. ``timeout`` is a step's, in
        seconds. Raises as :meth:`run` does.
        """
        script = Script(feeds, carry, initial, outputs, checkpoint, limit)
        known = script.length or limit
        work = run_steps(self._lease, model, script, deadline=timeout)
        return self._worker.call(work, deadline=(known + 1) * timeout + self._worker.recovery_s)

    def kernel(
        self,
        name: str,
        *,
        constants: Mapping[str, int] | None = None,
        timeout: float = DEADLINE_S,
        **inputs: Any,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Return the outputs of one of this project's own kernels, arrays by name.

        ``matmul_nbits`` takes ``x``, float32 of shape (rows, k), and ``weights``, a
        :class:`~pytest_webaccel.engines.packing.Packed` or float32 of n rows and k columns, and gives ``y`` of shape
        (rows, n); for the others see what makes their programs in :mod:`pytest_webaccel.engines.kernels`.
        ``constants`` are those that a manifest calls tunable, by default what :meth:`tune` chose for this adapter.
        ``timeout`` is in seconds. Faults that were planned strike models, not kernels; a lane that breaks all the same
        is mended. Raises ConfigurationError for what is not known or what the adapter cannot hold, FeedError for inputs
        that do not fit, ModelError when it fails.
        """
        from pytest_webaccel.engines.kernels import program

        return self.compute(program(name, inputs, constants).all_outputs(), timeout=timeout)

    def compute(self, outputs: Mapping[str, Tensor], *, timeout: float = DEADLINE_S) -> dict[str, np.ndarray[Any, Any]]:
        """Return what kernels compute that feed one another, arrays by name.

        ``outputs`` are tensors of programs of :mod:`pytest_webaccel.engines.kernels`: what lies between them stays on
        the device, and so do :class:`~pytest_webaccel.engines.kernels.Resident` weights, to the end of the test. Raises
        as :meth:`kernel` does.
        """
        from pytest_webaccel.engines.kernels import Computation
        from pytest_webaccel.pool.kernels import run_kernels

        choices = self._manner.choices
        work = Computation(outputs, choices.tuned) if choices else Computation(outputs)
        answer = run_kernels(self._lease, work, deadline=timeout)
        return dict(self._worker.call(answer, deadline=timeout + self._worker.recovery_s).tensors)

    def tune(
        self,
        name: str,
        *,
        whole: bool = False,
        repeats: int = 7,
        seconds: float = SEARCH_S,
        timeout: float = DEADLINE_S,
        **inputs: Any,
    ) -> Tuning:
        """Look for the constants under which a kernel is fastest here; it runs so from now on, for such shapes.

        One constant is changed after the other, from the defaults on, or every combination is tried (``whole``); each
        candidate's answer is held against NumPy, and timed ``repeats`` times. The best ones run against the untuned one
        in rounds before one is chosen. What was tried is recorded in the table ``tunings``; later runs with the same
        database, adapter and browser take the choice from there. ``seconds`` bounds the search; one that was cut off by
        an error goes on where it was. Print ``table()`` of what comes back to see the grid. Raises as :meth:`kernel`.
        """
        from pytest_webaccel.faces.choices import Choices
        from pytest_webaccel.faces.tuning import Tuner

        choices = self._manner.choices or Choices(None)
        tuner = Tuner(self._worker, self._lease, self._lease.terms.test_id, choices, self._manner.tell)
        return tuner.tune(name, inputs, whole=whole, repeats=repeats, seconds=seconds, timeout=timeout)

    def check(
        self,
        model: LoadedModel,
        feeds: Mapping[str, Any] | Path | str | Iterable[Mapping[str, Any]],
        *,
        lanes: Sequence[str] | None = None,
        reference: Lane | str | Mapping[str, Any] | None = None,
        tolerance: Tolerance | Mapping[str, Tolerance] | None = None,
        blame: bool = True,
        timeout: float = DEADLINE_S,
    ) -> Comparison:
        """Hold the answers of lanes (all of the run that work, or those named) against a reference.

        ``feeds`` are arrays by input; or several such sets, from a generator perhaps; or where they lie: an ``.npz``
        file, a folder of them, or a folder with ONNX's ``test_data_set_0`` and so on. ``reference`` is a lane, or the
        right outputs by name; by default what is stored beside the feeds, else onnxruntime on the CPU where
        installed, else the first lane. ``tolerance`` is for all outputs, or by output; by default it follows from
        dtype and operators (:func:`~pytest_webaccel.parity.operators.model_tolerances`).

        Raises AssertionError naming the output, the worst element, how the differences are spread, which lanes agree
        with which, and, unless ``blame`` is false, the operator to blame on each lane that disagrees (see
        :meth:`blame`).
        """
        from pytest_webaccel.faces.parity import Parity, Question

        beside = _lane(reference) if isinstance(reference, Lane | str) else reference
        named = None if lanes is None else [_lane(name) for name in lanes]
        asked = Question(named, beside, tolerance, blame, timeout, self._manner.cases)
        return Parity(self._worker, self._lease, self._records, self._manner.tell).check(model, feeds, asked)

    def check_repeats(
        self,
        model: LoadedModel,
        feeds: Mapping[str, Any],
        *,
        times: int = 3,
        after: Sequence[str] = (),
        fault: str = "browser_crash",
        tolerance: Tolerance | None = None,
        timeout: float = DEADLINE_S,
    ) -> None:
        """Hold the lane's answer against itself: asked ``times`` times, and after a recovery by each of ``after``.

        ``after`` names strategies; for each, ``fault`` is caused and recovered from. The answers must be the same to
        the bit, unless there is a ``tolerance``. Raises AssertionError naming the output and the worst element.
        """
        from pytest_webaccel.faces.metamorphic import Relations

        relations = Relations(self._worker, self._lease, self._records, model, timeout)
        relations.repeats(feeds, times=times, after=after, fault=fault, tolerance=tolerance)

    def check_batch(
        self,
        model: LoadedModel,
        feeds: Mapping[str, Any],
        *,
        axes: int | Mapping[str, int] = 0,
        output_axes: int | Mapping[str, int] = 0,
        tolerance: Tolerance | None = None,
        timeout: float = DEADLINE_S,
    ) -> None:
        """Hold the lane's answer to a batch against its answers to the items one by one.

        ``axes`` is the axis that counts the items, of all inputs or by name; an input that is not named is the same for
        all. ``output_axes`` likewise. By default the tolerance is that of the dtype. Raises AssertionError as
        :meth:`check_repeats` does, FeedError for feeds that hold no batch of two or more.
        """
        from pytest_webaccel.faces.metamorphic import Relations

        relations = Relations(self._worker, self._lease, self._records, model, timeout)
        relations.batch(feeds, axes=axes, output_axes=output_axes, tolerance=tolerance)

    def check_permutation(
        self,
        model: LoadedModel,
        feeds: Mapping[str, Any],
        *,
        axes: int | Mapping[str, int] = 0,
        output_axes: int | Mapping[str, int] = 0,
        tolerance: Tolerance | None = None,
        timeout: float = DEADLINE_S,
    ) -> None:
        """Hold the lane's answer to a batch in another order, drawn by the run's seed, against that in the first.

        Arguments and errors are those of :meth:`check_batch`.
        """
        from pytest_webaccel.faces.metamorphic import Relations

        relations = Relations(self._worker, self._lease, self._records, model, timeout)
        relations.permutation(feeds, axes=axes, output_axes=output_axes, tolerance=tolerance)

    def blame(
        self,
        model: LoadedModel | Path | str | bytes,
        feeds: Mapping[str, Any],
        lane: Lane | str | None = None,
        *,
        build: str | None = None,
        reference: Lane | str | None = None,
        fallbacks: bool = False,
        case: Path | str | None = None,
        timeout: float = DEADLINE_S,
        budget: float = SEARCH_S,
    ) -> Blame:
        """Return the smallest part of a model that answers otherwise on ``lane`` (this one) than on ``reference``.

        The reference is onnxruntime on this machine's CPU, or another lane that is named. What is blamed may also be
        an operator that the engine refuses, that fails, that crashes the page, or, with ``fallbacks``, that quietly
        runs on wasm. ``case`` is a folder into which a case to file is written. ``timeout`` is that of each part that
        is tried, in seconds; a lane that breaks meanwhile is mended and the search goes on. After ``budget`` seconds
        nothing smaller is looked for, and what is left so far is confirmed and returned. Progress is shown, a line at
        a time.

        Raises ModelError for a model that is none or that the reference cannot run,
        :class:`~pytest_webaccel.parity.blame.NondeterministicError` for one whose answers change by themselves.
        """
        from pytest_webaccel.faces.parity import Parity

        return Parity(self._worker, self._lease, self._records, self._manner.tell).blame(
            model,
            feeds,
            self.lane if lane is None else _lane(lane),
            build=None if build is None else word(OrtBuild, build, "build", ConfigurationError),
            reference=None if reference is None else _lane(reference),
            fallbacks=fallbacks,
            timeout=timeout,
            case=None if case is None else Path(case),
            budget=budget,
        )

    def measure(self, metric: str, value: float, unit: str, *, model: LoadedModel | None = None) -> None:
        """Record a figure of the test's own."""
        self._records.measure(self.lane, metric, value, unit, model.info.name if model else "")

    @property
    def faults(self) -> Faults:
        """Faults by hand on this lane, as the fixture ``webaccel_faults`` gives them for the test's own."""
        return Faults(self._worker, self._lease)

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot of the lane: state, counts, models held."""
        return self._lease.lane.statistics()

    def finish(self) -> None:
        """Record how long requests took; called when the lease ends."""
        for name, times in self._times.items():
            models = [info for info in self._lease.models.values() if info.name == name]
            if models:
                self._records.measure(self.lane, "request_median", statistics.median(times), "ms", name)


def _lane(name: Lane | str) -> Lane:
    if isinstance(name, Lane):
        return name
    try:
        return Lane.parse(name)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
