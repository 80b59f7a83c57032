"""An ONNX graph as something that can be cut: steps in order, what crosses each place between them, parts as models.

A cut lies between two steps. What crosses it are the tensors that were made before it and are used after it; a part
between two cuts is a model of its own, fed with what crosses the first and answering what crosses the second. What
depends on no input of the model (weights, ``Constant`` nodes, and what is computed from them alone) belongs to no
step: each part takes along what it uses of it, so that an engine sees constants where the whole model has them. For
the same reason what depends on nothing but shapes enters a part as a constant: a shape, an axis, a size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

__all__ = ["Graph", "used_by"]

#: Domains whose nodes are ONNX's own, by either of its names.
_OWN = frozenset({"", "ai.onnx"})
#: What asks a tensor for its shape alone.
_SHAPES = frozenset({"Shape", "Size"})
#: What draws its values: a part of it, run by itself, need not answer what the whole does.
_DRAWING = frozenset(
    {"Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"}
)


class Graph:
    """The graph of ``model``, which must be whole: no weights in other files.

    ``steps`` are the nodes that depend on an input, in an order in which they can run; with ``every``, all nodes are,
    weights alone are constants. ``fed`` names inputs that are fed though the file has a value for them. Raises
    ModelError for a graph with a cycle, or that uses what nothing makes.
    """

    def __init__(self, model: ModelProto, *, every: bool = False, fed: Collection[str] = ()) -> None:
        self.model = model
        graph = model.graph
        self.weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in fed}
        self._sparse = {
            tensor.values.name: tensor for tensor in graph.sparse_initializer if tensor.values.name not in fed
        }
        fixed = {*self.weights, *self._sparse}
        self.inputs = tuple(value.name for value in graph.input if value.name not in fixed)
        self.outputs = tuple(value.name for value in graph.output)
        ordered = _ordered(graph, {*fixed, *self.inputs})
        self._constant: dict[str, NodeProto] = {}
        steps: list[NodeProto] = []
        for node in ordered:
            if not every and all(name in fixed for name in used_by(node)) and not draws(node):
                fixed.update(node.output)
                self._constant.update((name, node) for name in node.output if name)
            else:
                steps.append(node)
        self.steps: tuple[NodeProto, ...] = tuple(steps)
        self.fixed = frozenset(fixed)
        self._place = {id(node): place for place, node in enumerate(ordered)}
        self._made = {name: step for step, node in enumerate(steps) for name in node.output if name}
        self._last = self._last_uses()
        self._shapely = self._of_shapes()

    def __len__(self) -> int:
        """Return how many steps there are."""
        return len(self.steps)

    @property
    def draws(self) -> tuple[str, ...]:
        """Names of the operators that draw random values, so that no two runs need agree."""
        return tuple(sorted({node.op_type for node in self.steps if draws(node)}))

    def crossing(self, cut: int) -> tuple[str, ...]:
        """Return the tensors that cross ``cut``, which lies before the step of that number; inputs included."""
        made = [name for name in self.inputs if self._last.get(name, -1) >= cut]
        made += [name for name, step in self._made.items() if step < cut <= self._last.get(name, -1)]
        return tuple(made)

    def entering(self, steps: Iterable[int]) -> tuple[str, ...]:
        """Return what ``steps`` use that they do not make, that is no constant and tells of no shape alone.

        In order of first use.
        """
        chosen = sorted(steps)
        made = {name for step in chosen for name in self.steps[step].output}
        used = (name for step in chosen for name in used_by(self.steps[step]))
        known = self.fixed | self._shapely
        return tuple(dict.fromkeys(name for name in used if name not in made and name not in known))

    def shapes_entering(self, steps: Iterable[int]) -> tuple[str, ...]:
        """Return what ``steps`` use that tells of shapes alone and that they do not make: a constant in their part."""
        chosen = sorted(steps)
        made = {name for step in chosen for name in self.steps[step].output}
        used = (name for step in chosen for name in used_by(self.steps[step]))
        return tuple(dict.fromkeys(name for name in used if name in self._shapely and name not in made))

    def leaving(self, steps: Iterable[int]) -> tuple[str, ...]:
        """Return what ``steps`` make that later or other steps use, or the model answers."""
        chosen = set(steps)
        others = {name for step in range(len(self)) if step not in chosen for name in used_by(self.steps[step])}
        wanted = others | set(self.outputs)
        return tuple(name for step in sorted(chosen) for name in self.steps[step].output if name in wanted)

    def making(self, names: Iterable[str], within: Collection[int]) -> tuple[int, ...]:
        """Return those steps of ``within`` that ``names`` depend on."""
        inside, found, left = set(within), set(), list(names)
        while left:
            step = self._made.get(left.pop())
            if step is not None and step in inside and step not in found:
                found.add(step)
                left += used_by(self.steps[step])
        return tuple(sorted(found))

    def part(self, steps: Sequence[int], outputs: Sequence[str], values: Mapping[str, NDArray[Any]]) -> ModelProto:
        """Return ``steps`` as a model that answers ``outputs``.

        ``values`` gives what enters and leaves it, by name: dtype and shape, and of what tells of shapes the value.
        """
        from onnx import helper, numpy_helper

        nodes = [self.steps[step] for step in steps]
        needed = self._needed(nodes, outputs)
        constants = {id(node): node for name in needed if (node := self._constant.get(name)) is not None}
        body = sorted([*constants.values(), *nodes], key=lambda node: self._place[id(node)])
        graph = helper.make_graph(
            body,
            f"{self.model.graph.name or 'graph'}_part",
            [_value(name, values[name]) for name in self.entering(steps)],
            [_value(name, values[name]) for name in outputs],
            [
                *(self.weights[name] for name in self.weights if name in needed),
                *(numpy_helper.from_array(values[name], name) for name in self.shapes_entering(steps)),
            ],
            sparse_initializer=[self._sparse[name] for name in self._sparse if name in needed],
        )
        return self._model_of(graph)

    def exposed(self, names: Sequence[str]) -> ModelProto:
        """Return the whole model, answering ``names`` and nothing else. Their types are left to the engine."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        for name in names:
            model.graph.output.add().name = name
        return model

    # -- inside ------------------------------------------------------------------------------

    def _needed(self, nodes: Sequence[NodeProto], outputs: Sequence[str]) -> set[str]:
        """Return every constant that ``nodes`` and ``outputs`` depend on."""
        found: set[str] = set()
        left = [*outputs, *(name for node in nodes for name in used_by(node))]
        while left:
            name = left.pop()
            if name in self.fixed and name not in found:
                found.add(name)
                if name in self._constant:
                    left += used_by(self._constant[name])
        return found

    def _model_of(self, graph: GraphProto) -> ModelProto:
        from onnx import helper

        model = helper.make_model(
            graph,
            opset_imports=list(self.model.opset_import),
            functions=list(self.model.functions),
            ir_version=max(self.model.ir_version, 4),  # before that, weights had to be inputs too
        )
        model.producer_name = "pytest-webaccel"
        return model

    def _of_shapes(self) -> frozenset[str]:
        found: set[str] = set()
        for node in self.steps:
            told = node.op_type in _SHAPES and node.domain in _OWN
            names = used_by(node)
            known = all(name in self.fixed or name in found for name in names)
            if told or (known and not draws(node) and any(name in found for name in names)):
                found.update(name for name in node.output if name)
        return frozenset(found)

    def _last_uses(self) -> dict[str, int]:
        last: dict[str, int] = {}
        for step, node in enumerate(self.steps):
            last.update(dict.fromkeys(used_by(node), step))
        last.update(dict.fromkeys(self.outputs, len(self.steps)))
        return last


def draws(node: NodeProto) -> bool:
    """Whether a node draws random values."""
    training = node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2])
    return node.domain in _OWN and (node.op_type in _DRAWING or training)


def used_by(node: NodeProto) -> tuple[str, ...]:
    """Return the names that a node uses, those that the graphs in it take from around it included."""
    from onnx import AttributeProto

    names = [name for name in node.input if name]
    for attribute in node.attribute:
        inner: list[Any] = []
        if attribute.type == AttributeProto.GRAPH:
            inner = [attribute.g]
        elif attribute.type == AttributeProto.GRAPHS:
            inner = list(attribute.graphs)
        names += [name for graph in inner for name in _taken(graph)]
    return tuple(dict.fromkeys(names))


def _taken(graph: GraphProto) -> Iterator[str]:
    """Yield what a graph inside a node uses without making it."""
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        yield from (name for name in used_by(node) if name not in made)
        made.update(node.output)
    yield from (value.name for value in graph.output if value.name not in made)


def _ordered(graph: GraphProto, there: set[str]) -> list[NodeProto]:
    """Return the nodes in an order in which they can run; the file's own wherever that is one."""
    ready, waiting, left = set(there), list(graph.node), -1
    ordered: list[NodeProto] = []
    while waiting and len(waiting) != left:
        left, late = len(waiting), []
        for node in waiting:
            if all(name in ready for name in used_by(node)):
                ordered.append(node)
                ready.update(node.output)
            else:
                late.append(node)
        waiting = late
    if waiting:
        node = waiting[0]
        missing = [name for name in used_by(node) if name not in ready]
        raise ModelError(
            f"the graph cannot be put in order: {node.op_type} {node.name!r} uses {', '.join(missing)}, which nothing "
            "makes before it. `python -m onnx.checker FILE` says more."
        )
    return ordered


def _value(name: str, array: NDArray[Any]) -> ValueInfoProto:
    from onnx import helper

    dtype = np.dtype(object) if array.dtype.kind in "OUST" else array.dtype
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), array.shape)
