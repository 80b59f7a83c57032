"""What a test's faces write down: where the nodes of a model ran, and how an output stands to its reference."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_webaccel.errors import ModelError
from pytest_webaccel.rows import MeasurementRow, ParityRow, PlacementRow
from pytest_webaccel.terms import Engine, Lane

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.faces.arguments import Manner
    from pytest_webaccel.parity.compare import Difference
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

__all__ = ["NO_ANSWER", "Records", "Standing"]


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """How far an output is from its reference, and what was allowed."""

    agrees: bool
    max_abs: float
    max_ulp: float
    atol: float
    rule: str

    @classmethod
    def of(cls, difference: Difference) -> Standing:
        """Return the standing that a comparison found."""
        rule = difference.tolerance
        return cls(difference.agrees, float(difference.max_abs), float(difference.max_ulp), float(rule.atol), str(rule))


#: An output that never came is as far away as can be.
NO_ANSWER = Standing(False, float("inf"), float("inf"), 0.0, "no answer")


class Records:
    """The rows of one test."""

    def __init__(self, worker: Worker, test_id: str, manner: Manner) -> None:
        self._worker = worker
        self._test_id = test_id
        self._manner = manner

    def measure(self, lane: Lane, metric: str, value: float, unit: str, model: str) -> None:
        """Record a figure of a lane."""
        self._worker.record(
            MeasurementRow(
                run_id=self._worker.run_id,
                evidence=self._worker.pool.evidence(lane),
                test_id=self._test_id,
                lane=str(lane),
                model=model,
                family=self._manner.family,
                engine=str(Engine.ONNX),
                bits=32,
                metric=metric,
                value=float(value),
                unit=unit,
            )
        )

    def placement(self, lease: Lease, model: LoadedModel) -> None:
        """Record, once a test, where the nodes of a model ran; under strict, raises ModelError where some fell back."""
        lane, placement = lease.lane.name, model.placement
        fallen = sum(placement.fallbacks.values())
        if self._worker.first_told(self._test_id, f"placement of {model.key} on {lane}"):
            self._write_placement(lease, model)
        if fallen and self._manner.strict:
            raise ModelError(
                f"model {model.info} on {lane}: silent fallback to wasm: {placement.describe()}. Without "
                "--webaccel-strict this is recorded and shown, not failed."
            )

    def _write_placement(self, lease: Lease, model: LoadedModel) -> None:
        lane, placement = lease.lane.name, model.placement
        for provider, nodes in placement.nodes.items():
            self.measure(lane, f"nodes_on_{provider}", nodes, "nodes", model.info.name)
            self._worker.record(
                PlacementRow(
                    run_id=self._worker.run_id,
                    evidence=self._worker.pool.evidence(lane),
                    test_id=self._test_id,
                    lane=str(lane),
                    model=model.info.name,
                    build=str(model.build),
                    version=lease.lane.here.engine.ort.version,
                    provider=provider,
                    nodes=nodes,
                    operators=placement.operators.get(provider, {}),
                    names=list(placement.names.get(provider, ())),
                )
            )
        if fallen := sum(placement.fallbacks.values()):
            self.measure(lane, "nodes_fallen_back", fallen, "nodes", model.info.name)

    def parity(
        self,
        lane: Lane,
        model: str,
        output: str,
        reference: str,
        standing: Standing,
        *,
        blamed: str = "",
        placement: Mapping[str, int] | None = None,
    ) -> None:
        """Record how one output of a model on a lane stands to its reference."""
        self._worker.record(
            ParityRow(
                run_id=self._worker.run_id,
                evidence=self._worker.pool.evidence(lane),
                test_id=self._test_id,
                lane=str(lane),
                model=model,
                output=output,
                reference=reference,
                agrees=standing.agrees,
                max_abs=standing.max_abs,
                max_ulp=standing.max_ulp,
                tolerance=standing.atol,
                rule=standing.rule,
                blamed_operator=blamed,
                placement=placement or {},
            )
        )
