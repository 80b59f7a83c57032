"""One conformance test on one leased lane: run, judged, recorded.

An output agrees where it is within the ONNX suite's own tolerance (a relative 1e-3 and an absolute 1e-7,
``onnx.backend.test``) or within what the WebNN conformance suite grants the operator
(:mod:`~pytest_webaccel.parity.operators`); integers, booleans and text must be equal. float16 has the mixed rule of
:mod:`~pytest_webaccel.parity.tolerance` in place of the first, which would be a single unit in the last place.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from typing import TYPE_CHECKING, Any

from pytest_webaccel.conformance.cases import suite_version
from pytest_webaccel.conformance.expectations import Place, Seen
from pytest_webaccel.faces.runner import LaneRunner
from pytest_webaccel.parity.operators import operator_tolerance
from pytest_webaccel.parity.tolerance import EXACT, Tolerance, tolerance_for
from pytest_webaccel.parity.verdict import Kind, Ran, Verdict, judged
from pytest_webaccel.rows import ConformanceRow
from pytest_webaccel.terms import CPU_PROVIDER, Backend

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from pytest_webaccel.conformance.cases import NodeCase
    from pytest_webaccel.conformance.expectations import Expectation
    from pytest_webaccel.parity.stored import Stored
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

__all__ = ["LaneSuite", "tolerances", "verdict_on"]

#: Seconds that loading, and then running, one test's model may take.
DEADLINE_S = 10.0

_SUITE = Tolerance(1e-7, 1e-3)

#: How engines say that they do not have something, as against having failed at it.
_REFUSAL = re.compile(
    r"not (yet )?(supported|implemented|registered)|unsupported|not_implemented|no opset import|"
    r"could not find an implementation|not a registered|unrecognized|under development|only guarantees|"
    r"temporarily not|does not support|NotSupportedError",
    re.IGNORECASE,
)


class LaneSuite:
    """A leased lane, on which tests are run one after the other; nothing of them stays."""

    def __init__(self, worker: Worker, lease: Lease) -> None:
        self._worker = worker
        self._lease = lease
        engine = lease.lane.here.engine
        self.place = Place(str(lease.lane.name), str(engine.choose(None)), engine.ort.version)
        probe = lease.lane.probe
        self.seen = Seen(suite_version(), f"{probe.lane.browser} {probe.version}", str(probe.evidence))
        self._runner = LaneRunner(worker, lease, None, DEADLINE_S)

    def run(self, case: NodeCase, expected: Expectation) -> Verdict:
        """Run a test and record what came of it, beside what was expected."""
        begun = time.perf_counter()
        ran, verdict = self._judged(case)
        self._record(case, expected, ran, verdict, (time.perf_counter() - begun) * 1000)
        return verdict

    def _judged(self, case: NodeCase) -> tuple[Ran, Verdict]:
        if case.obstacle:
            return Ran({}), Verdict(Kind.NOT_ASKED, case.obstacle)
        model, stored = case.read()
        ran = self._runner.run(model, stored.feeds)
        return ran, verdict_on(ran, model, stored, self._lease.lane.name.backend)

    def _record(self, case: NodeCase, expected: Expectation, ran: Ran, verdict: Verdict, ms: float) -> None:
        self._worker.record(
            ConformanceRow(
                run_id=self._worker.run_id,
                evidence=self._lease.lane.probe.evidence,
                test_id=self._lease.terms.test_id,
                lane=self.place.lane,
                case=case.name,
                operator=case.operator,
                opset=case.opset,
                kind=str(verdict.kind),
                expected=str(expected.kind),
                detail=verdict.detail[:500],
                build=self.place.build,
                version=self.place.version,
                max_abs=max((one.max_abs for one in verdict.differences.values()), default=0.0),
                max_ulp=max((one.max_ulp for one in verdict.differences.values()), default=0.0),
                ms=ms,
                placement=dict(ran.placement),
                suite=self.seen.suite,
                browser=self.seen.browser,
            )
        )


def verdict_on(ran: Ran, model: bytes, stored: Stored, backend: Backend) -> Verdict:
    """Return how the answer of a lane with ``backend`` stands to what is stored."""
    if ran.trouble in {Kind.UNSUPPORTED, Kind.FAILED}:
        return Verdict(Kind.UNSUPPORTED if _REFUSAL.search(ran.detail) else Kind.FAILED, ran.detail)
    if missing := [name for name in stored.expected if ran.trouble is None and name not in ran.outputs]:
        return Verdict(Kind.WRONG, f"no output {', '.join(missing)}")
    verdict = judged(ran, stored.expected, tolerances(model, stored))
    if verdict.kind is not Kind.AGREES or backend is Backend.CPU:
        return verdict
    accelerated = sum(nodes for name, nodes in ran.placement.items() if name != CPU_PROVIDER)
    if accelerated and not ran.fallbacks:
        return verdict
    told = ", ".join(f"{name} x{count}" for name, count in sorted(ran.fallbacks.items()))
    nothing = "every node ran on wasm" if ran.placement else "no node was left to run"
    return dataclasses.replace(verdict, kind=Kind.FELL_BACK, detail=f"ran on wasm: {told}" if told else nothing)


def tolerances(model: bytes, stored: Stored) -> dict[str, Tolerance]:
    """Return how far each stored output may be off, by name."""
    import onnx

    nodes = onnx.load_from_string(model).graph.node
    shapes = {name: array.shape for name, array in stored.feeds.items()}
    return {name: _tolerance(list(nodes), shapes, array) for name, array in stored.expected.items()}


def _tolerance(nodes: list[Any], shapes: Mapping[str, tuple[int, ...]], array: np.ndarray[Any, Any]) -> Tolerance:
    if array.dtype.kind != "f":
        return EXACT
    suite = tolerance_for(array.dtype) if array.dtype.name == "float16" else _SUITE
    rule = operator_tolerance(nodes[0], shapes, array.dtype) if len(nodes) == 1 else None
    if rule is None or not math.isfinite(rule.atol):
        return suite
    return Tolerance(max(suite.atol, rule.atol), suite.rtol, rule.ulp)
