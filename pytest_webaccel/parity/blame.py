"""Which operator is to blame: the smallest part of a model that fails by itself, where its inputs are right.

The model is cut between its steps (:mod:`~pytest_webaccel.parity.graph`). A part is fed with what the reference has at
its first cut, so that no earlier error reaches it, and must answer what the reference has at its second. The search
(:mod:`~pytest_webaccel.parity.search`) halves the model until nothing can be taken from either end of what fails; then
steps inside that do not matter are taken out. What is left has been seen to fail alone, twice, and to be right on the
reference. It works alike for wrong answers, NaN and infinity, operators that are refused, that fail, that crash the
page, and that quietly run elsewhere.

An engine may fuse what it sees together, so that a part answers otherwise than the same steps do within the whole. This
is why a part counts only where it fails by itself, and why what is left may be more than one operator.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.errors import ModelError
from pytest_webaccel.parity.blank import blank_feeds, blank_model
from pytest_webaccel.parity.compare import compare
from pytest_webaccel.parity.graph import Graph, used_by
from pytest_webaccel.parity.inline import inlined
from pytest_webaccel.parity.operators import allowance, scaled
from pytest_webaccel.parity.search import narrow
from pytest_webaccel.parity.tolerance import Tolerance, tolerance_for
from pytest_webaccel.parity.verdict import Kind, Ran, Verdict, alike, judged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from pytest_webaccel.parity.verdict import Runner

__all__ = ["Blame", "NondeterministicError", "find_blame"]

#: Steps of a part up to which each of them is tried to be taken out.
_MOST_TAKEN_OUT = 48
#: How many times what an operator's own rule allows its answer must be off to be blamed by that rule.
_MARGIN = 4

Arrays = dict[str, "NDArray[Any]"]


class NondeterministicError(ModelError):
    """A model that answers the same feeds differently, so that nothing can be blamed for a difference."""


@dataclasses.dataclass(frozen=True, slots=True)
class Blame:
    """What is to blame for ``whole``, the verdict on the whole model.

    ``operators`` are those of the smallest part that fails alone, by type, in order; ``nodes`` their names, ``steps``
    their places among the model's steps, of which there are ``total``. ``model`` is that part as an ONNX file,
    ``feeds`` what it is fed, ``expected`` what the reference ``reference`` answers, ``got`` what ``lane`` does (nothing
    where it does not answer), and ``verdict`` says how they differ. ``runs`` counts what was tried on the lane, in
    ``seconds``. ``confirmed`` says whether the part failed on the lane both times that it was asked, and the
    reference, given the part alone, agreed with itself; ``blank`` whether its larger floating-point weights and its
    floating-point feeds are zeros in place of the model's own, since it fails all the same. ``cut_short`` says whether
    the time for the search was over before it was at its end: a smaller part may fail as well. An ``agrees`` as
    ``whole`` means that nothing is to blame.
    """

    lane: str
    reference: str
    whole: Verdict
    total: int
    verdict: Verdict
    operators: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    model: bytes = b""
    feeds: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    expected: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    got: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    runs: int = 0
    seconds: float = 0.0
    confirmed: bool = False
    blank: bool = False
    cut_short: bool = False

    @property
    def operator(self) -> str:
        """The operator to blame, or those that fail only together, with ``+`` between; empty where none is."""
        return "+".join(self.operators)

    def __str__(self) -> str:
        """Return what was found, in two lines or three."""
        if self.whole.kind is Kind.AGREES:
            return f"{self.lane} agrees with {self.reference}; nothing is to blame"
        what = self.operator if len(self.operators) <= 4 else f"{len(self.operators)} operators together"
        sure = "fails alone, confirmed" if self.confirmed else "NOT confirmed"
        named = ", ".join(name for name in self.nodes if name)
        return (
            f"{self.lane}: {what} is to blame ({self.verdict.kind}, {sure}; {len(self.steps)} of {self.total} steps"
            f"{f': {named}' if named and len(self.nodes) <= 4 else ''}; {self.runs} runs, {self.seconds:.1f} s"
            f"{', ended by its budget: a smaller part may fail too' if self.cut_short else ''})\n"
            f"  {self.verdict.detail}{self._of_the_whole()}"
        )

    def _of_the_whole(self) -> str:
        """Return a line with what the whole model was told, where that is something else than the part was."""
        told = self.whole.detail
        if self.whole.differences or not told or told == self.verdict.detail:
            return ""
        return f"\n  the whole model: {told}"


def find_blame(
    model: ModelProto,
    feeds: Mapping[str, NDArray[Any]],
    lane: Runner,
    reference: Runner,
    *,
    tolerances: Mapping[str, Tolerance] | None = None,
    fallbacks: bool = False,
    budget_s: float = math.inf,
    tell: Callable[[str], None] = lambda line: None,
) -> Blame:
    """Return what is to blame for how ``lane`` answers ``feeds``, by the answers of ``reference``.

    ``tolerances`` are by output of the model, its dtype's own where absent. ``fallbacks`` has operators that run
    elsewhere than asked blamed too, where nothing else is wrong. After ``budget_s`` seconds nothing smaller is looked
    for; what is left is still confirmed. ``tell`` is given a line of progress at a time.
    Raises ModelError for a model that the reference cannot run, NondeterministicError for one that draws its answers.
    """
    begun = time.monotonic()
    counted = _Counted(lane, begun + budget_s)
    graph = Graph(model, fed=feeds.keys())
    search = _Search(graph, dict(feeds), counted, reference, tolerances or {}, fallbacks, tell)
    blame = _blanked(search.found(), counted, reference, fallbacks=fallbacks)
    spent = time.monotonic() - begun
    return dataclasses.replace(blame, runs=counted.runs, seconds=spent, cut_short=counted.cut_short)


def _blanked(blame: Blame, lane: _Counted, reference: Runner, *, fallbacks: bool) -> Blame:
    """Return the same case with zeros for its larger weights, where it is no wrong answer and fails with them as well.

    Whoever files it gives less away, and it packs to next to nothing.
    """
    if not blame.confirmed or blame.whole.kind in {Kind.WRONG, Kind.NOT_FINITE} or lane.over:
        return blame
    import onnx

    model = blank_model(onnx.load_from_string(blame.model))
    if model is None:
        return blame
    data, feeds = model.SerializeToString(), blank_feeds(blame.feeds)
    right = reference.run(data, feeds)
    if right.trouble is not None:
        return blame
    verdicts = [judged(lane.run(data, feeds), right.outputs, {}, fallbacks=fallbacks) for _ in range(2)]
    if not all(verdict.is_like(blame.verdict) for verdict in verdicts):
        return blame
    verdict = verdicts[-1]
    return dataclasses.replace(
        blame, model=data, feeds=feeds, expected=right.outputs, got=verdict.got, verdict=verdict, blank=True
    )


class _Counted:
    """A runner that counts, and knows until when a search may go on."""

    def __init__(self, inner: Runner, until: float) -> None:
        self._inner = inner
        self._until = until
        self.runs = 0
        self.cut_short = False

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._until

    def spent(self) -> bool:
        """Whether the time is over; that it is asked means that the search would have gone on."""
        over = self.over
        self.cut_short = self.cut_short or over
        return over

    @property
    def name(self) -> str:
        return self._inner.name

    def run(self, model: bytes, feeds: Mapping[str, NDArray[Any]]) -> Ran:
        self.runs += 1
        return self._inner.run(model, feeds)


class _Search:
    def __init__(
        self,
        graph: Graph,
        feeds: Arrays,
        lane: _Counted,
        reference: Runner,
        tolerances: Mapping[str, Tolerance],
        fallbacks: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._graph = graph
        self._feeds = feeds
        self._lane = lane
        self._reference = reference
        self._tolerances = tolerances
        self._fallbacks = fallbacks
        self._tell = tell
        self._values: Arrays = dict(feeds)
        self._strict = False
        self._whole = Verdict(Kind.AGREES)
        self._other = _no_tensors(graph.model)

    def found(self) -> Blame:
        graph = self._graph
        if graph.draws:
            raise NondeterministicError(
                f"the model draws random values ({', '.join(graph.draws)}), so no two runs of it need agree. Replace "
                "them by feeds before it is compared."
            )
        whole = self._whole = self._verdict_on_whole()
        total = len(graph)
        if whole.kind is Kind.AGREES:
            return Blame(self._lane.name, self._reference.name, whole, total, whole)
        if (whole.differences and all(name in graph.fixed for name in whole.differences)) or not total:
            return self._every(whole)
        self._tell(f"{self._lane.name}: {whole.kind}; looking for the operator among {total} steps")
        cuts = self._cuts()
        first, last = narrow(cuts, self._fails) if len(cuts) > 2 else (cuts[0], cuts[-1])
        if last - first > 1 and whole.kind is Kind.WRONG:
            first, last = self._stricter([cut for cut in cuts if first <= cut <= last])
        return self._inside(self._finished(self._taken_out(list(range(first, last)))))

    def _every(self, whole: Verdict) -> Blame:
        """Look among all nodes, where what is wrong depends on no input of the model."""
        every = Graph(self._graph.model, every=True, fed=self._feeds.keys())
        if len(every) == len(self._graph):
            return Blame(self._lane.name, self._reference.name, whole, len(every), whole)
        return self._among(every, self._feeds).found()

    def _among(self, graph: Graph, feeds: Mapping[str, NDArray[Any]]) -> _Search:
        return _Search(graph, dict(feeds), self._lane, self._reference, {}, self._fallbacks, self._tell)

    # -- asking ------------------------------------------------------------------------------

    def _verdict_on_whole(self) -> Verdict:
        data, graph = self._graph.model.SerializeToString(), self._graph
        right = self._right(data, self._feeds, "the whole model")
        self._values.update(right)
        again = self._right(data, self._feeds, "the whole model")
        if odd := [name for name in right if not compare(right[name], again[name]).agrees]:
            raise NondeterministicError(
                f"{self._reference.name} itself answers {', '.join(odd)} differently each time: the model is not "
                "deterministic, so no operator can be blamed for a difference."
            )
        ran = self._lane.run(data, self._feeds)
        verdict = judged(
            ran, {name: right[name] for name in graph.outputs}, self._tolerances, fallbacks=self._fallbacks
        )
        if verdict.kind is Kind.NOT_ASKED:
            raise ModelError(f"{self._lane.name} cannot be asked: {verdict.detail}")
        if verdict.kind not in {Kind.AGREES, Kind.FELL_BACK}:
            second = self._lane.run(data, self._feeds)
            if not alike(second.trouble, ran.trouble) or (ran.trouble is None and not _same(ran, second)):
                raise NondeterministicError(
                    f"{self._lane.name} answers the same feeds differently each time ({_how(ran)}, then "
                    f"{_how(second)}), so no operator can be blamed for it: look for a race, or for memory that is not "
                    "initialised."
                )
        return verdict

    def _right(self, model: bytes, feeds: Mapping[str, NDArray[Any]], what: str) -> Arrays:
        ran = self._reference.run(model, feeds)
        if ran.trouble is not None:
            raise ModelError(f"{what} cannot be run by the reference, {self._reference.name}: {ran.detail}")
        return dict(ran.outputs)

    def _known(self, names: Sequence[str]) -> Arrays:
        """Return what the reference has for ``names`` within the whole model."""
        if missing := [name for name in names if name not in self._values]:
            data = self._graph.exposed(missing).SerializeToString()
            self._values.update(self._right(data, self._feeds, "the model with inner tensors shown"))
        return {name: self._values[name] for name in names}

    def _cuts(self) -> list[int]:
        """Return where the model can be cut: where nothing but tensors crosses."""
        return [
            cut
            for cut in range(len(self._graph) + 1)
            if cut in {0, len(self._graph)} or not self._other.intersection(self._graph.crossing(cut))
        ]

    def _fails(self, first: int, last: int) -> bool:
        if self._lane.spent():
            return False
        steps = list(range(first, last))
        verdict = self._verdict(steps, self._graph.leaving(steps))
        word = "fails alone" if verdict.is_like(self._whole) else "is well"
        self._tell(f"steps {first} to {last - 1} of {len(self._graph)}: {word}")
        return verdict.is_like(self._whole)

    def _verdict(self, steps: Sequence[int], outputs: Sequence[str]) -> Verdict:
        if not steps or not outputs:
            return Verdict(Kind.AGREES)
        known = self._known([*self._graph.entering(steps), *self._graph.shapes_entering(steps), *outputs])
        part = self._graph.part(steps, outputs, known).SerializeToString()
        ran = self._lane.run(part, {name: known[name] for name in self._graph.entering(steps)})
        expected = {name: known[name] for name in outputs}
        return judged(ran, expected, self._allowed(steps, expected), fallbacks=self._fallbacks)

    def _allowed(self, steps: Sequence[int], expected: Arrays) -> dict[str, Tolerance]:
        return {name: self._tolerance(name, array, steps) for name, array in expected.items()}

    def _tolerance(self, name: str, array: NDArray[Any], steps: Sequence[int]) -> Tolerance:
        if name in self._tolerances:
            return self._tolerances[name]
        makers = [self._graph.steps[step] for step in self._graph.making([name], steps)]
        if array.dtype.kind in "iu" and any("Quantize" in node.op_type or "QLinear" in node.op_type for node in makers):
            return Tolerance(0.0, ulp=1)  # a step of the quantisation: honest backends round either way
        if not self._strict or array.dtype.kind != "f":
            return tolerance_for(array.dtype)
        known = {used for node in makers for used in used_by(node)} - {*self._graph.weights}
        shapes = {used: value.shape for used, value in self._known(sorted(known - self._other)).items()}
        shapes |= {used: tuple(tensor.dims) for used, tensor in self._graph.weights.items()}
        return scaled(allowance(makers, shapes, array.dtype), array, _MARGIN)

    # -- making smaller ----------------------------------------------------------------------

    def _stricter(self, cuts: Sequence[int]) -> tuple[int, int]:
        """Look once more with the tolerances of single operators: a small error may have grown on its way."""
        self._strict = True
        if self._fails(cuts[0], cuts[-1]):
            first, last = narrow(cuts, self._fails)
            if last - first < cuts[-1] - cuts[0]:
                return first, last
        self._strict = False
        return cuts[0], cuts[-1]

    def _taken_out(self, steps: list[int]) -> list[int]:
        """Leave away what the wrong outputs do not depend on, then every step that fails without as well."""
        verdict = self._verdict(steps, self._graph.leaving(steps))
        if verdict.differences:
            fewer = list(self._graph.making(verdict.differences, steps))
            if len(fewer) < len(steps) and self._still(fewer):
                steps = fewer
        if 1 < len(steps) <= _MOST_TAKEN_OUT:
            for step in list(steps):
                fewer = [one for one in steps if one != step]
                if fewer and self._still(fewer):
                    steps = fewer
        return steps

    def _still(self, steps: Sequence[int]) -> bool:
        outputs = self._graph.leaving(steps)
        if self._other.intersection([*outputs, *self._graph.entering(steps)]) or self._lane.spent():
            return False
        return self._verdict(steps, outputs).is_like(self._whole)

    def _finished(self, steps: Sequence[int]) -> Blame:
        graph = self._graph
        outputs, entering = graph.leaving(steps), graph.entering(steps)
        known = self._known([*entering, *graph.shapes_entering(steps), *outputs])
        feeds, expected = ({name: known[name] for name in names} for names in (entering, outputs))
        part = graph.part(steps, outputs, known)
        data = part.SerializeToString()
        verdicts = [self._verdict(steps, outputs) for _ in range(2)]
        right = judged(self._reference.run(data, feeds), expected, self._allowed(steps, expected))
        return Blame(
            lane=self._lane.name,
            reference=self._reference.name,
            whole=self._whole,
            total=len(graph),
            verdict=verdicts[-1],
            operators=tuple(node.op_type for node in part.graph.node),
            nodes=tuple(node.name for node in part.graph.node),
            steps=tuple(steps),
            model=data,
            feeds=feeds,
            expected=expected,
            got=verdicts[-1].got,
            confirmed=right.kind is Kind.AGREES and all(verdict.is_like(self._whole) for verdict in verdicts),
        )

    def _inside(self, blame: Blame) -> Blame:
        """Go on inside what is left: a branch that was taken, a function of the model, what its constants come from."""
        if not blame.confirmed:
            return blame
        import onnx

        part = onnx.load_from_string(blame.model)
        try:
            model = inlined(blame.model, blame.feeds, self._reference) or part
            inner = Graph(model, every=True)
            if len(inner) <= len(blame.steps) or self._lane.spent():
                return blame
            found = self._among(inner, blame.feeds).found()
        except ModelError:  # it cannot be taken apart; what was found stands
            return blame
        if not found.confirmed or not found.whole.is_like(self._whole):
            return blame
        return dataclasses.replace(found, whole=self._whole, total=len(self._graph), steps=blame.steps)


def _how(ran: Ran) -> str:
    return "an answer" if ran.trouble is None else f"{ran.trouble}: {ran.detail[:200]}"


def _same(one: Ran, two: Ran) -> bool:
    return all(
        np.array_equal(array, two.outputs[name], equal_nan=array.dtype.kind == "f")
        or compare(array, two.outputs[name]).agrees
        for name, array in one.outputs.items()
    )


def _no_tensors(model: ModelProto) -> frozenset[str]:
    """Return the names of what is no tensor: sequences, maps, optional values. They cannot be fed to a page."""
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # what cannot be inferred is found out by running it
        inferred = model
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    return frozenset(value.name for value in values if not value.type.HasField("tensor_type"))
