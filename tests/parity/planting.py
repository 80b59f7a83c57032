"""Engines that are wrong on purpose: one operator is changed, wherever it turns up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pytest_webaccel.parity.reference import Reference
from pytest_webaccel.parity.verdict import Kind, Ran

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.parity.verdict import Runner

WIDTH = 8
#: What a chain is made of: operators that neither lose what was wrong before them nor let it grow without end.
_KINDS = ("Add", "Sub", "Mul", "Neg", "MatMul", "Bent")


class Planted:
    """An engine (onnxruntime on the CPU), but for the node called ``bad``: its answer is multiplied by ``factor``.

    ``trouble`` in place of that: a model that holds the node ends so. ``needs`` names a node without which in the same
    model nothing is wrong, as where an engine fuses the two.
    """

    name = "planted"

    def __init__(
        self,
        bad: str,
        *,
        factor: float = 1.01,
        trouble: Kind | None = None,
        needs: str | None = None,
        engine: Runner | None = None,
    ) -> None:
        self.bad = bad
        self.factor = factor
        self.trouble = trouble
        self.needs = needs
        self.runs = 0
        self._engine = engine or Reference()

    def run(self, model: bytes, feeds: Mapping[str, NDArray[Any]]) -> Ran:
        self.runs += 1
        proto = onnx.load_from_string(model)
        names = {node.name for node in proto.graph.node}
        if self.bad not in names or (self.needs is not None and self.needs not in names):
            return self._engine.run(model, feeds)
        if self.trouble is Kind.FELL_BACK:
            ran = self._engine.run(model, feeds)
            return Ran(ran.outputs, fallbacks={"Planted": 1})
        if self.trouble is not None:
            return Ran({}, self.trouble, f"{self.bad} is not to be had")
        self._spoil(proto)
        return self._engine.run(proto.SerializeToString(), feeds)

    def _spoil(self, proto: onnx.ModelProto) -> None:
        nodes = []
        for node in proto.graph.node:
            nodes.append(node)
            if node.name == self.bad:
                output = node.output[0]
                node.output[0] = f"{output}__right"
                nodes.append(helper.make_node("Mul", [node.output[0], "planted__factor"], [output]))
        body = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del proto.graph.node[:]
        proto.graph.node.extend(body)
        factor = numpy_helper.from_array(np.asarray(self.factor, np.float32), "planted__factor")
        proto.graph.initializer.append(factor)


def chain(steps: int, chance: np.random.Generator, *, branching: bool = False) -> onnx.ModelProto:
    """Return a random model of ``steps`` nodes called n0, n1, ... in which an error anywhere reaches the end.

    ``branching`` has nodes take their second input from any earlier one, else from a weight.
    """
    turn, _ = np.linalg.qr(chance.standard_normal((WIDTH, WIDTH)))
    signs = chance.choice([-1.0, 1.0], (1, WIDTH))
    weights = {"turn": turn, "signs": signs, "half": 0.7071, "v": chance.uniform(0.5, 1.0, (1, WIDTH))}
    nodes: list[onnx.NodeProto] = []
    there, bent, summed = ["x"], False, False

    def add(kind: str, *inputs: str, **attributes: Any) -> None:
        step = len(nodes)
        nodes.append(helper.make_node(kind, inputs, [f"t{step}"], name=f"n{step}", **attributes))
        there.append(f"t{step}")

    while len(nodes) < steps:
        last, kind = there[-1], str(chance.choice(_KINDS))
        if summed:
            add("Mul", last, "half")
            summed = False
        elif kind in {"Add", "Sub"}:
            summed = branching
            others = [name for name in there if name != last] if branching else []
            add(kind, last, str(chance.choice(others or ["v"])))
        elif kind == "Bent":  # and the next time straight again
            add("LeakyRelu", last, alpha=1 / 0.8 if bent else 0.8)
            bent = not bent
        else:
            add(kind, last, *{"Mul": ["signs"], "MatMul": ["turn"]}.get(kind, []))
    return _model(nodes, there[-1:], weights)


def _model(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], weights: Mapping[str, Any]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "planted",
        [value("x", TensorProto.FLOAT, [1, WIDTH])],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
