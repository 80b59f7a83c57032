"""Comparing lanes, and finding the operator to blame, for a test that has leased one of them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.models import MAX_BYTES, check_feeds, inspect_model
from pytest_webaccel.engines.onnx import LoadedModel
from pytest_webaccel.errors import (
    ConfigurationError,
    DamagedLaneError,
    FeedError,
    LaneUnavailableError,
    ModelError,
    RecoveryError,
    WebAccelError,
)
from pytest_webaccel.faces.arguments import SEARCH_S
from pytest_webaccel.faces.records import NO_ANSWER, Standing
from pytest_webaccel.faces.runner import LaneRunner
from pytest_webaccel.parity.blame import NondeterministicError, find_blame
from pytest_webaccel.parity.case import write_case
from pytest_webaccel.parity.compare import compare_all, message
from pytest_webaccel.parity.operators import model_tolerances
from pytest_webaccel.parity.reference import Reference, run_references
from pytest_webaccel.parity.stored import given_sets
from pytest_webaccel.parity.tolerance import Tolerance
from pytest_webaccel.terms import Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.models import ModelInfo
    from pytest_webaccel.faces.records import Records
    from pytest_webaccel.parity.blame import Blame
    from pytest_webaccel.parity.compare import Comparison
    from pytest_webaccel.parity.stored import Stored
    from pytest_webaccel.parity.verdict import Runner
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker
    from pytest_webaccel.terms import OrtBuild

__all__ = ["Parity", "Question"]

Arrays = Mapping[str, "NDArray[Any]"]

#: Bytes of a model from which on it is said that a search for the operator to blame holds it several times over.
_LARGE_BYTES = 512 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What a test asks of a comparison; see :meth:`pytest_webaccel.faces.WebAccel.check`."""

    lanes: Sequence[Lane] | None
    reference: Lane | Arrays | None
    tolerance: Tolerance | Mapping[str, Tolerance] | None
    blame: bool
    timeout: float
    cases: Path | None


class _FailedError(Exception):
    """A lane gave no answer to ``fed``, for ``error``."""

    def __init__(self, error: WebAccelError, fed: Stored) -> None:
        super().__init__(str(error))
        self.error = error
        self.fed = fed


class Parity:
    """Holds the lanes of a worker against each other; the one that is leased runs under its own lease.

    ``tell`` is given a line of progress at a time.
    """

    def __init__(self, worker: Worker, lease: Lease, records: Records, tell: Callable[[str], None]) -> None:
        self._worker = worker
        self._lease = lease
        self._records = records
        self._tell = tell
        self._fell_back: list[str] = []

    def check(
        self, model: LoadedModel, feeds: Mapping[str, Any] | Path | str | Iterable[Mapping[str, Any]], asked: Question
    ) -> Comparison:
        """Hold the answers of lanes against a reference; see :meth:`pytest_webaccel.faces.WebAccel.check`."""
        data = model.info.path.read_bytes()
        sets = [dataclasses.replace(one, feeds=check_feeds(model.info, one.feeds)) for one in given_sets(feeds, data)]
        self._look_at(asked, model, sets)
        names = self._worker.pool.lanes if asked.lanes is None else asked.lanes
        # the reference comes first: what it cannot run is said before any lane is asked
        reference, right = self._right(model, sets, asked)
        answers: dict[str, Sequence[Arrays]] = {} if right is None else {reference: right}
        loaded: dict[str, LoadedModel] = {}
        failed: dict[str, _FailedError] = {}
        for name in names:
            if str(name) not in answers:
                try:
                    loaded[str(name)], answers[str(name)] = self._answers_of(name, model, sets, asked.timeout)
                except _FailedError as error:
                    failed[str(name)] = error
        if len(answers) + len(failed) < 2:
            raise LaneUnavailableError(
                f"there is nothing to compare {self._lease.lane.name} with: install onnxruntime for a reference, or "
                "run more lanes."
            )
        if not answers:
            raise next(iter(failed.values())).error
        reference = next(iter(answers))
        allowed = self._allowed(data, sets, answers[reference], asked.tolerance)
        merged = {source: _merged(sets, found, answers[reference]) for source, found in answers.items()}
        comparison = compare_all(merged, reference, allowed)
        blamed: dict[str, Blame] = {}
        told = [] if comparison.agrees and failed else [message(comparison, model.info.name)]
        told += [str(one.error) for one in failed.values()]
        if asked.blame and (failed or not comparison.agrees):
            blamed, story = self._blamed(comparison, loaded, failed, model, sets, asked)
            told += story
        self._record(comparison, loaded, failed, model, answers[reference][0], blamed)
        assert comparison.agrees, "\n".join(told)
        if failed:
            raise ModelError("\n".join(told)) from next(iter(failed.values())).error
        if self._fell_back:
            raise ModelError("\n".join(self._fell_back))
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
        tolerances: Mapping[str, Tolerance] | None = None,
        budget: float = SEARCH_S,
    ) -> Blame:
        """Find the operator to blame; see :meth:`pytest_webaccel.faces.WebAccel.blame`."""
        import onnx

        info = self._info(model)
        arrays = check_feeds(info, feeds)
        if info.bytes > _LARGE_BYTES:
            self._tell(
                f"model {info}: {info.bytes:,} bytes are held several times over while the operator to blame is looked "
                f"for; the most that an ONNX file can hold is {MAX_BYTES:,}"
            )
        with contextlib.ExitStack() as leases:
            runner = LaneRunner(self._worker, leases.enter_context(self._leased(lane)), build, timeout)
            beside: Runner = Reference()
            if reference is not None:
                held = leases.enter_context(self._leased(reference))
                beside = LaneRunner(self._worker, held, None, timeout)
            whole = onnx.load_from_string(info.path.read_bytes())
            blame = find_blame(
                whole,
                arrays,
                runner,
                beside,
                tolerances=tolerances,
                fallbacks=fallbacks,
                budget_s=budget,
                tell=self._tell,
            )
            if case is not None and blame.confirmed:
                write_case(blame, runner.surroundings(info.name), case)
        return blame

    # -- inside ------------------------------------------------------------------------------

    def _info(self, model: LoadedModel | Path | str | bytes) -> ModelInfo:
        return model.info if isinstance(model, LoadedModel) else inspect_model(model, self._lease.folder)

    def _right(
        self, model: LoadedModel, sets: Sequence[Stored], asked: Question
    ) -> tuple[str, Sequence[Arrays] | None]:
        """Return the reference's name and its answer to each set; None for it where the first lane must do."""
        if isinstance(asked.reference, Lane):
            try:
                _, answers = self._answers_of(asked.reference, model, sets, asked.timeout)
            except _FailedError as failed:
                raise ModelError(f"the reference {asked.reference} gives no answer: {failed.error}") from failed.error
            return str(asked.reference), answers
        if asked.reference is not None:
            return "given", [{name: np.asarray(array) for name, array in asked.reference.items()}]
        if all(one.expected for one in sets):
            return "stored", [one.expected for one in sets]
        found = run_references(model.info.path, [one.feeds for one in sets])
        return ("", None) if found is None else found

    def _look_at(self, asked: Question, model: LoadedModel, sets: Sequence[Stored]) -> None:
        """Refuse what cannot be meant, before any lane is asked."""
        known = [info.name for info in model.info.outputs]
        named = {
            "tolerance=": asked.tolerance if isinstance(asked.tolerance, Mapping) else {},
            "reference=": asked.reference if isinstance(asked.reference, Mapping) else {},
        }
        for what, given in named.items():
            if unknown := [name for name in given if name not in known]:
                raise ConfigurationError(
                    f"{what} has {', '.join(unknown)}, which {model.info} does not give; it gives {', '.join(known)}"
                )
        if isinstance(asked.reference, Mapping) and len(sets) > 1:
            raise ConfigurationError(
                f"reference= holds the answers to one set of feeds, and there are {len(sets)}. Store the answers "
                "beside the feeds, in the same .npz."
            )
        stored = sum(bool(one.expected) for one in sets)
        if asked.reference is None and 0 < stored < len(sets):
            raise FeedError(
                f"feeds: answers are stored beside {stored} of {len(sets)} sets. Store them beside all or none, or "
                "name a reference."
            )

    def _allowed(
        self,
        data: bytes,
        sets: Sequence[Stored],
        right: Sequence[Arrays],
        given: Tolerance | Mapping[str, Tolerance] | None,
    ) -> dict[str, Tolerance]:
        """Return the tolerance of each output of each set, as :func:`_merged` names them."""
        import onnx

        whole = onnx.load_from_string(data) if not isinstance(given, Tolerance) else None
        found = {}
        for one, expected in zip(sets, right, strict=True):
            rules = {} if whole is None else model_tolerances(whole, one.feeds, expected)
            for name in expected:
                rule = given if isinstance(given, Tolerance) else (given or {}).get(name, rules.get(name))
                if rule is not None:
                    found[_key(name, one)] = rule
        return found

    def _blamed(
        self,
        comparison: Comparison,
        loaded: Mapping[str, LoadedModel],
        failed: Mapping[str, _FailedError],
        model: LoadedModel,
        sets: Sequence[Stored],
        asked: Question,
    ) -> tuple[dict[str, Blame], list[str]]:
        """Return what is to blame on each lane that disagrees or fails, and the lines that say so."""
        found: dict[str, Blame] = {}
        lines: list[str] = []
        beside = {str(lane): lane for lane in self._worker.pool.lanes}.get(comparison.reference)
        for lane in (*comparison.differences, *failed):
            outputs = comparison.differences.get(lane, {})
            bad = [name for name, each in outputs.items() if not each.agrees]
            if not bad and lane not in failed:
                continue
            wrong = next((one for one in sets if any(_of(name, one) for name in bad)), sets[0])
            if lane in failed:
                wrong = failed[lane].fed
            rules = {info.name: _key(info.name, wrong) for info in model.info.outputs}
            case = asked.cases and asked.cases / self._case_name(model, lane)
            mine = model.build if Lane.parse(lane) == self._lease.lane.name else None
            try:
                blame = found[lane] = self.blame(
                    model,
                    wrong.feeds,
                    Lane.parse(lane),
                    build=loaded[lane].build if lane in loaded else mine,
                    reference=beside,
                    fallbacks=False,
                    timeout=asked.timeout,
                    case=case,
                    tolerances={name: outputs[key].tolerance for name, key in rules.items() if key in outputs},
                )
            except NondeterministicError as error:
                lines.append(f"  not deterministic: {error}")
                continue
            except ModelError as error:
                lines.append(f"  no operator could be looked for on {lane}: {error}")
                continue
            lines += [f"  {line}" for line in str(blame).splitlines()]
            if case is not None and blame.confirmed:
                lines.append(f"  a case to file: {case}")
        return found, lines

    def _record(
        self,
        comparison: Comparison,
        loaded: Mapping[str, LoadedModel],
        failed: Mapping[str, _FailedError],
        model: LoadedModel,
        expected: Arrays,
        blamed: Mapping[str, Blame],
    ) -> None:
        name, reference = model.info.name, comparison.reference
        for lane, differences in comparison.differences.items():
            nodes = loaded[lane].placement.nodes
            for output, found in differences.items():
                operator = "" if found.agrees or lane not in blamed else blamed[lane].operator
                standing = Standing.of(found)
                self._records.parity(
                    Lane.parse(lane), name, output, reference, standing, blamed=operator, placement=nodes
                )
        for lane in failed:
            operator = blamed[lane].operator if lane in blamed else ""
            for output in expected:
                self._records.parity(Lane.parse(lane), name, output, reference, NO_ANSWER, blamed=operator)

    def _case_name(self, model: LoadedModel, lane: str) -> str:
        """Return the folder of a case: models of one name, tests and versions of the engine each have their own."""
        said = "\0".join([model.info.sha256, self._lease.terms.test_id, self._lease.lane.here.engine.ort.version])
        mark = hashlib.sha256(said.encode()).hexdigest()[:6]
        return f"{Path(model.info.name).stem}-{lane.replace(':', '-')}-{mark}"

    @contextlib.contextmanager
    def _leased(self, name: Lane) -> Iterator[Lease]:
        """Give the lease of a lane: the test's own, one that it holds through the pool, or one for this alone."""
        held = self._lease if name == self._lease.lane.name else self._worker.held.get(name)
        if held is not None:
            yield held
            return
        with self._worker.lease(name, self._lease.terms.test_id) as lease:
            yield lease

    def _answers_of(
        self, name: Lane, model: LoadedModel, sets: Sequence[Stored], timeout: float
    ) -> tuple[LoadedModel, list[Arrays]]:
        """Return the model as a lane has it, and its answer to each set; raises _FailedError where one has none."""
        call, deadline = self._worker.call, timeout + self._worker.recovery_s
        build = model.build if name == self._lease.lane.name else None
        with self._leased(name) as lease:
            there, fed = model, sets[0]
            answers: list[Arrays] = []
            try:
                if lease is not self._lease:
                    there = call(lease.load(model.info.path, build, deadline=timeout), deadline=deadline)
                    self._note_placement(lease, there)
                for fed in sets:
                    answer, _ = call(lease.run(there, fed.feeds, deadline=timeout), deadline=timeout + deadline)
                    answers.append(answer)
            except (ModelError, RecoveryError, DamagedLaneError) as error:
                raise _FailedError(error, fed) from error
        return there, answers

    def _note_placement(self, lease: Lease, there: LoadedModel) -> None:
        """Record where a model ran that the test did not load there; what strict fails is kept for the end."""
        try:
            self._records.placement(lease, there)
        except ModelError as error:
            self._fell_back.append(str(error))


def _key(output: str, one: Stored) -> str:
    """Return the name of an output of a set among those of all sets."""
    return f"{output} of {one.name}" if one.name else output


def _of(key: str, one: Stored) -> bool:
    return not one.name or key.endswith(f" of {one.name}")


def _merged(sets: Sequence[Stored], answers: Sequence[Arrays], right: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    """Return the outputs of every set in one mapping, those that the reference has."""
    return {
        _key(name, one): answer[name]
        for one, answer, expected in zip(sets, answers, right, strict=True)
        for name in expected
    }
