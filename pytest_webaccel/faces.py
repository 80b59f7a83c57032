"""What tests hold in their hands: synchronous faces of a lease, of the pool and of the faults."""

from __future__ import annotations

import contextlib
import enum
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.errors import (
    ConfigurationError,
    FaultError,
    LaneUnavailableError,
    ModelError,
    RecoveryError,
    WebAccelError,
)
from pytest_webaccel.pool.steps import MAX_STEPS, Script, run_steps
from pytest_webaccel.rows import MeasurementRow, ParityRow, Row
from pytest_webaccel.terms import Damage, Engine, Fault, FaultPlan, FaultPoint, Lane, OrtBuild, ProbeResult, Strategy
from pytest_webaccel.words import pick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.parity.compare import Comparison
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

__all__ = ["Faults", "PoolFace", "WebAccel"]

Word = TypeVar("Word", bound=enum.StrEnum)

#: Seconds that a load or a run may take when the test does not say.
DEADLINE_S = 60.0

#: Seconds between two looks at whether an app has recovered.
_ASK_AGAIN_S = 0.005

#: Seconds beyond a request's own deadline that recovery may take.
RECOVERY_S = 150.0

#: Seconds that a fault by hand may take, a spare made ready before it included.
_INJECT_S = 90.0


class WebAccel:
    """A leased lane: load models, run them, compare, measure.

    ``lane`` is its :class:`~pytest_webaccel.terms.Lane`, ``probe`` what the probe saw of it.
    """

    def __init__(self, worker: Worker, lease: Lease, *, strict: bool, family: str) -> None:
        self.lane: Lane = lease.lane.name
        self.probe: ProbeResult = lease.lane.probe
        self._worker = worker
        self._lease = lease
        self._strict = strict
        self._family = family
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
            chosen = _word(OrtBuild, build, "build", ConfigurationError)
        loaded = self._worker.call(self._lease.load(source, chosen, deadline=timeout), deadline=timeout + RECOVERY_S)
        self._note_placement(loaded)
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
        arrays, _ = self._worker.call(work, deadline=2 * timeout + RECOVERY_S)
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
        return self._worker.call(work, deadline=(known + 1) * timeout + RECOVERY_S)

    def check(
        self,
        model: LoadedModel,
        feeds: Mapping[str, Any],
        *,
        lanes: Sequence[str] | None = None,
        timeout: float = DEADLINE_S,
    ) -> Comparison:
        """Hold the answers of lanes (all of the run that work, or those named) against a reference.

        The reference is onnxruntime on the CPU where installed, else the first lane. Raises
        AssertionError naming the output, the worst element and which lanes agree with which.
        """
        from pytest_webaccel.parity.compare import compare_all, message
        from pytest_webaccel.parity.reference import run_reference

        names = self._worker.pool.lanes if lanes is None else tuple(Lane.parse(name) for name in lanes)
        answers: dict[str, Mapping[str, np.ndarray[Any, Any]]] = {}
        loaded: dict[str, LoadedModel] = {}
        reference = run_reference(model.info.path, feeds)
        if reference is not None:
            answers[reference[0]] = reference[1]
        for name in names:
            build = model.build if name == self.lane else None
            loaded[str(name)], answers[str(name)] = self._answer_of(name, model, build, feeds, timeout)
        if len(answers) < 2:
            raise LaneUnavailableError(
                f"there is nothing to compare {self.lane} with: install onnxruntime for a reference, or run more lanes."
            )
        comparison = compare_all(answers, next(iter(answers)))
        for lane, differences in comparison.differences.items():
            for output, difference in differences.items():
                self._worker.record(
                    ParityRow(
                        run_id=self._worker.run_id,
                        evidence=self._worker.pool.evidence(Lane.parse(lane)),
                        test_id=self._lease.terms.test_id,
                        lane=lane,
                        model=model.info.name,
                        output=output,
                        reference=comparison.reference,
                        agrees=difference.agrees,
                        max_abs=float(difference.max_abs),
                        max_ulp=float(difference.max_ulp),
                        tolerance=float(difference.tolerance.atol),
                        placement=loaded[lane].placement.nodes,
                    )
                )
        assert comparison.agrees, message(comparison, model.info.name)
        return comparison

    def measure(self, metric: str, value: float, unit: str, *, model: LoadedModel | None = None) -> None:
        """Record a figure of the test's own."""
        self._worker.record(
            MeasurementRow(
                run_id=self._worker.run_id,
                evidence=self.probe.evidence,
                test_id=self._lease.terms.test_id,
                lane=str(self.lane),
                model=model.info.name if model else "",
                family=self._family,
                engine=str(Engine.ONNX),
                bits=32,
                metric=metric,
                value=float(value),
                unit=unit,
            )
        )

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
                self._worker.record(self._request_row(name, times))

    # -- inside ------------------------------------------------------------------------------

    def _request_row(self, name: str, times: list[float]) -> Row:
        return MeasurementRow(
            run_id=self._worker.run_id,
            evidence=self.probe.evidence,
            test_id=self._lease.terms.test_id,
            lane=str(self.lane),
            model=name,
            family=self._family,
            engine=str(Engine.ONNX),
            bits=32,
            metric="request_median",
            value=statistics.median(times),
            unit="ms",
        )

    def _note_placement(self, model: LoadedModel) -> None:
        for provider, nodes in model.placement.nodes.items():
            self.measure(f"nodes_on_{provider}", nodes, "nodes", model=model)
        fallen = sum(model.placement.fallbacks.values())
        if not fallen:
            return
        self.measure("nodes_fallen_back", fallen, "nodes", model=model)
        if self._strict:
            raise ModelError(
                f"model {model.info} on {self.lane}: silent fallback to wasm: {model.placement.describe()}. Without "
                "--webaccel-strict this is recorded and shown, not failed."
            )

    def _answer_of(
        self, name: Lane, model: LoadedModel, build: OrtBuild | None, feeds: Mapping[str, Any], timeout: float
    ) -> tuple[LoadedModel, Mapping[str, np.ndarray[Any, Any]]]:
        if name == self.lane:
            return model, self._worker.call(
                self._lease.run(model, feeds, deadline=timeout), deadline=2 * timeout + RECOVERY_S
            )[0]
        held = self._worker.held.get(name)  # by this test, through the pool
        scope = self._worker.lease(name, self._lease.terms.test_id) if held is None else contextlib.nullcontext(held)
        with scope as other:
            loaded = self._worker.call(
                other.load(model.info.path, build, deadline=timeout), deadline=timeout + RECOVERY_S
            )
            answer = self._worker.call(other.run(loaded, feeds, deadline=timeout), deadline=2 * timeout + RECOVERY_S)[0]
        return loaded, answer


class Faults:
    """Faults by hand, on the lane that the test has leased."""

    def __init__(self, worker: Worker, lease: Lease) -> None:
        self._worker = worker
        self._lease = lease

    def inject(self, name: str, *, recovery: str | None = None) -> Damage:
        """Cause a fault now and return the damage that was seen.

        The next request meets a damaged lane and is recovered by ``recovery``, by default the run's
        strategy; what came of it is recorded as for a planned fault. Raises FaultError for an unknown
        fault, and where it has no meaning on this lane or did no harm; ConfigurationError for an
        unknown strategy.
        """
        plan = FaultPlan(_word(Fault, name, "fault", FaultError), recovery=_strategy(recovery))
        return self._worker.call(self._lease.cause(plan), deadline=_INJECT_S)

    def plan(self, name: str, *, recovery: str | None = None, at: str = "mid_request", times: int = 1) -> None:
        """Plan a fault for the next ``times`` requests, as the ``fault`` marker does.

        Raises FaultError for an unknown fault, ConfigurationError for other arguments that cannot be meant.
        """
        if isinstance(times, bool) or not isinstance(times, int) or times < 1:
            raise ConfigurationError(f"times={times!r} is not a whole number from 1")
        plan = FaultPlan(
            _word(Fault, name, "fault", FaultError),
            at=_word(FaultPoint, at, "at", ConfigurationError),
            times=times,
            recovery=_strategy(recovery),
        )
        self._lease.planned.extend([plan] * times)

    def expect_recovery(self, predicate: Callable[[], object], *, within_ms: float) -> float:
        """Return the milliseconds until ``predicate()`` is true, asked again and again.

        Raises RecoveryError when it is not true ``within_ms``; an exception of the predicate counts
        as not yet, and the last one is its cause.
        """
        begun = time.perf_counter()
        pause = threading.Event()
        last: Exception | None = None
        while (elapsed := (time.perf_counter() - begun) * 1000) <= within_ms:
            try:
                if predicate():
                    return (time.perf_counter() - begun) * 1000
                last = None
            except Exception as error:
                last = error
            pause.wait(_ASK_AGAIN_S)
        raise RecoveryError(f"not recovered within {within_ms:g} ms ({elapsed:.0f} ms waited)") from last


class PoolFace:
    """Several lanes at once, for tests that compare or fail over by hand."""

    def __init__(self, worker: Worker, test_id: str, *, strict: bool, family: str) -> None:
        self._worker = worker
        self._test_id = test_id
        self._strict = strict
        self._family = family

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """Lanes of the run that work on this machine."""
        return self._worker.pool.lanes

    @property
    def probes(self) -> tuple[ProbeResult, ...]:
        """What the probe saw of every lane of the run, working or not."""
        return self._worker.pool.probes

    @contextlib.contextmanager
    def lease(self, lane: Lane | str) -> Iterator[WebAccel]:
        """Lease a lane by name until the block ends; raises LaneUnavailableError with the reason."""
        name = Lane.parse(lane) if isinstance(lane, str) else lane
        with self._worker.lease(name, self._test_id) as lease:
            face = WebAccel(self._worker, lease, strict=self._strict, family=self._family)
            yield face
            face.finish()

    def statistics(self) -> list[dict[str, Any]]:
        """Return a snapshot of every lane that was started."""
        return self._worker.pool.statistics()


def _word(kind: type[Word], text: object, what: str, error: type[WebAccelError]) -> Word:
    """Return the word of the vocabulary spelt ``text``; raises ``error`` with those that are known."""
    if not isinstance(text, str):
        raise error(f"{what}={text!r} is not a word (known: {', '.join(kind)})")
    try:
        return pick(kind, text, what)
    except ValueError as wrong:
        raise error(str(wrong)) from None


def _strategy(text: str | None) -> Strategy | None:
    return None if text is None else _word(Strategy, text, "recovery", ConfigurationError)
