"""Comparing lanes, and finding the operator to blame, for a test that has leased one of them."""

from __future__ import annotations

import contextlib
import logging
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_webaccel.engines.models import MAX_BYTES, check_feeds, inspect_model
from pytest_webaccel.engines.onnx import PROVIDERS, LoadedModel
from pytest_webaccel.errors import (
    DamagedLaneError,
    FeedError,
    LaneUnavailableError,
    ModelError,
    RecoveryError,
)
from pytest_webaccel.parity.blame import NondeterministicError, find_blame
from pytest_webaccel.parity.case import Surroundings, write_case
from pytest_webaccel.parity.compare import compare_all, message
from pytest_webaccel.parity.reference import Reference, run_reference
from pytest_webaccel.parity.verdict import Kind, Ran
from pytest_webaccel.rows import ParityRow
from pytest_webaccel.terms import Lane, OrtBuild

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np

    from pytest_webaccel.engines.models import ModelInfo
    from pytest_webaccel.parity.blame import Blame
    from pytest_webaccel.parity.compare import Comparison
    from pytest_webaccel.parity.verdict import Runner
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

__all__ = ["LaneRunner", "Parity"]

_log = logging.getLogger(__name__)

#: Bytes of a model from which on it is said that a search for the operator to blame holds it several times over.
_LARGE_BYTES = 512 << 20


class LaneRunner:
    """A leased lane as somewhere that models run. Nothing of a model stays on it.

    A lane that breaks under a model is mended by the test's strategy and asked again; where that is in vain the model
    is what crashes it.
    """

    def __init__(self, worker: Worker, lease: Lease, build: OrtBuild | None, timeout: float) -> None:
        self._worker = worker
        self._lease = lease
        self._build = build
        self._timeout = timeout

    @property
    def name(self) -> str:
        """The lane, with the build where one was named."""
        return f"{self._lease.lane.name}{f' ({self._build} build)' if self._build else ''}"

    def run(self, model: bytes, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Ran:
        """Load a model, run it once, drop it."""
        call, lease, deadline = self._worker.call, self._lease, self._timeout + self._worker.recovery_s
        held = set(lease.models)  # the test's own stay, also where the whole model is one of them
        try:
            loaded = call(lease.load(model, self._build, deadline=self._timeout), deadline=deadline)
        except ModelError as error:
            return Ran({}, Kind.UNSUPPORTED, str(error))
        except (RecoveryError, DamagedLaneError) as error:
            return Ran({}, Kind.CRASHED, str(error))
        try:
            outputs, _ = call(lease.run(loaded, feeds, deadline=self._timeout), deadline=deadline)
        except (ModelError, FeedError) as error:
            return Ran({}, Kind.FAILED, str(error))
        except (RecoveryError, DamagedLaneError) as error:
            return Ran({}, Kind.CRASHED, str(error))
        finally:
            if loaded.key not in held:
                call(lease.drop(loaded, deadline=self._timeout), deadline=deadline)
                if loaded.info.path.parent == lease.folder:
                    loaded.info.path.unlink(missing_ok=True)
        return Ran(outputs, fallbacks=loaded.placement.fallbacks)

    def surroundings(self, model: str) -> Surroundings:
        """Return what a case that was found here says of the place."""
        lane = self._lease.lane
        engine, probe = lane.here.engine, lane.probe
        return Surroundings(
            lane=str(lane.name),
            browser=f"{probe.lane.browser} {probe.version}",
            adapter=probe.adapter,
            engine=engine.ort.version,
            module=engine.ort.module(engine.choose(self._build)),
            provider=PROVIDERS[lane.name.backend],
            system=platform.platform(),
            model=model,
        )


class Parity:
    """Holds the lanes of a worker against each other; the one that is leased runs under its own lease."""

    def __init__(self, worker: Worker, lease: Lease) -> None:
        self._worker = worker
        self._lease = lease

    def check(
        self,
        model: LoadedModel,
        feeds: Mapping[str, Any],
        *,
        lanes: Sequence[str] | None,
        timeout: float,
        blame: bool,
        cases: Path | None,
    ) -> Comparison:
        """Hold the answers of ``lanes`` against a reference; see :meth:`pytest_webaccel.faces.WebAccel.check`."""
        names = self._worker.pool.lanes if lanes is None else tuple(Lane.parse(name) for name in lanes)
        answers: dict[str, Mapping[str, np.ndarray[Any, Any]]] = {}
        loaded: dict[str, LoadedModel] = {}
        reference = run_reference(model.info.path, feeds)
        if reference is not None:
            answers[reference[0]] = reference[1]
        for name in names:
            build = model.build if name == self._lease.lane.name else None
            loaded[str(name)], answers[str(name)] = self._answer_of(name, model, build, feeds, timeout)
        if len(answers) < 2:
            raise LaneUnavailableError(
                f"there is nothing to compare {self._lease.lane.name} with: install onnxruntime for a reference, or "
                "run more lanes."
            )
        comparison = compare_all(answers, next(iter(answers)))
        blamed: dict[str, Blame] = {}
        told = message(comparison, model.info.name)
        if blame and reference is not None:
            blamed, story = self._blamed(comparison, loaded, feeds, timeout, cases)
            told = "\n".join([told, *story])
        self._record(comparison, loaded, blamed)
        assert comparison.agrees, told
        return comparison

    def blame(
        self,
        model: LoadedModel | Path | str | bytes,
        feeds: Mapping[str, Any],
        lane: Lane,
        *,
        build: OrtBuild | None,
        reference: Lane | None,
        fallbacks: bool,
        timeout: float,
        case: Path | None,
        tell: Callable[[str], None] | None = None,
    ) -> Blame:
        """Find the operator to blame; see :meth:`pytest_webaccel.faces.WebAccel.blame`."""
        import onnx

        info = self._info(model)
        arrays = check_feeds(info, feeds)
        if info.bytes > _LARGE_BYTES:
            _log.warning(
                "model %s: %d bytes are held several times over while the operator to blame is looked for; what an "
                "ONNX file can hold at all is %d bytes",
                info,
                info.bytes,
                MAX_BYTES,
            )
        with contextlib.ExitStack() as leases:
            runner = LaneRunner(self._worker, leases.enter_context(self._leased(lane)), build, timeout)
            beside: Runner = Reference()
            if reference is not None:
                held = leases.enter_context(self._leased(reference))
                beside = LaneRunner(self._worker, held, None, timeout)
            whole = onnx.load_from_string(info.path.read_bytes())
            blame = find_blame(whole, arrays, runner, beside, fallbacks=fallbacks, tell=tell or _log.info)
            if case is not None and blame.whole.kind is not Kind.AGREES:
                write_case(blame, runner.surroundings(info.name), case)
        return blame

    # -- inside ------------------------------------------------------------------------------

    def _info(self, model: LoadedModel | Path | str | bytes) -> ModelInfo:
        return model.info if isinstance(model, LoadedModel) else inspect_model(model, self._lease.folder)

    def _blamed(
        self,
        comparison: Comparison,
        loaded: Mapping[str, LoadedModel],
        feeds: Mapping[str, Any],
        timeout: float,
        cases: Path | None,
    ) -> tuple[dict[str, Blame], list[str]]:
        """Return what is to blame on each lane that disagrees, and the lines that say so."""
        found: dict[str, Blame] = {}
        lines: list[str] = []
        for lane, outputs in comparison.differences.items():
            if all(one.agrees for one in outputs.values()):
                continue
            model = loaded[lane]
            case = None if cases is None else cases / f"{Path(model.info.name).stem}-{lane.replace(':', '-')}"
            try:
                blame = found[lane] = self.blame(
                    model,
                    feeds,
                    Lane.parse(lane),
                    build=model.build,
                    reference=None,
                    fallbacks=False,
                    timeout=timeout,
                    case=case,
                )
            except NondeterministicError as error:
                lines.append(f"  not deterministic: {error}")
                continue
            except ModelError as error:
                lines.append(f"  no operator could be looked for on {lane}: {error}")
                continue
            lines += [f"  {line}" for line in str(blame).splitlines()]
            if case is not None:
                lines.append(f"  a case to file: {case}")
        return found, lines

    def _record(self, comparison: Comparison, loaded: Mapping[str, LoadedModel], blamed: Mapping[str, Blame]) -> None:
        for lane, differences in comparison.differences.items():
            for output, difference in differences.items():
                self._worker.record(
                    ParityRow(
                        run_id=self._worker.run_id,
                        evidence=self._worker.pool.evidence(Lane.parse(lane)),
                        test_id=self._lease.terms.test_id,
                        lane=lane,
                        model=loaded[lane].info.name,
                        output=output,
                        reference=comparison.reference,
                        agrees=difference.agrees,
                        max_abs=float(difference.max_abs),
                        max_ulp=float(difference.max_ulp),
                        tolerance=float(difference.tolerance.atol),
                        blamed_operator="" if difference.agrees or lane not in blamed else blamed[lane].operator,
                        placement=loaded[lane].placement.nodes,
                    )
                )

    @contextlib.contextmanager
    def _leased(self, name: Lane) -> Iterator[Lease]:
        """Give the lease of a lane: the test's own, one that it holds through the pool, or one for this alone."""
        held = self._lease if name == self._lease.lane.name else self._worker.held.get(name)
        if held is not None:
            yield held
            return
        with self._worker.lease(name, self._lease.terms.test_id) as lease:
            yield lease

    def _answer_of(
        self, name: Lane, model: LoadedModel, build: OrtBuild | None, feeds: Mapping[str, Any], timeout: float
    ) -> tuple[LoadedModel, Mapping[str, np.ndarray[Any, Any]]]:
        call, deadline = self._worker.call, timeout + self._worker.recovery_s
        with self._leased(name) as lease:
            there = model
            if lease is not self._lease:
                there = call(lease.load(model.info.path, build, deadline=timeout), deadline=deadline)
            answer, _ = call(lease.run(there, feeds, deadline=timeout), deadline=timeout + deadline)
        return there, answer
