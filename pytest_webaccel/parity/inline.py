"""Taking an operator apart that is made of others: an ``If`` whose condition is known, a function of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

    from pytest_webaccel.parity.verdict import Runner

__all__ = ["inlined"]


def inlined(data: bytes, feeds: Mapping[str, NDArray[Any]], reference: Runner) -> ModelProto | None:
    """Return the model with every branch taken in place of its ``If``, and every function in place of its call.

    Which branch is taken ``reference`` says, for ``feeds``. None where there is nothing to take apart.
    """
    import onnx

    model = onnx.load_from_string(data)
    called = {(function.domain, function.name) for function in model.functions}
    whole = not any((node.domain, node.op_type) in called for node in model.graph.node)
    if not whole:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    choices = [node for node in model.graph.node if node.op_type == "If"]
    if not choices:
        return None if whole else model
    taken = _conditions(model, sorted({node.input[0] for node in choices}), feeds, reference)
    for node in choices:
        if node.input[0] in taken:
            _put_in_place(model.graph, node, taken=taken[node.input[0]])
            whole = False
    return None if whole else model


def _conditions(
    model: ModelProto, names: list[str], feeds: Mapping[str, NDArray[Any]], reference: Runner
) -> dict[str, bool]:
    import onnx

    known = {name: bool(feeds[name].item()) for name in names if name in feeds}
    if left := [name for name in names if name not in known]:
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        del shown.graph.output[:]
        for name in left:
            shown.graph.output.add().name = name
        ran = reference.run(shown.SerializeToString(), feeds)
        known |= {name: bool(ran.outputs[name].item()) for name in left if name in ran.outputs}
    return known


def _put_in_place(graph: GraphProto, choice: NodeProto, *, taken: bool) -> None:
    from onnx import helper

    wanted = "then_branch" if taken else "else_branch"
    (branch,) = [attribute.g for attribute in choice.attribute if attribute.name == wanted]
    place = list(graph.node).index(choice)
    prefix = f"{next(name for name in choice.output if name)}/"  # names of outputs are unique, those of nodes need not
    own = {name for node in branch.node for name in node.output} | {tensor.name for tensor in branch.initializer}
    own |= {tensor.values.name for tensor in branch.sparse_initializer}
    names = {name: f"{prefix}{name}" for name in own if name}
    body = []
    for node in branch.node:
        copied = type(node)()
        copied.CopyFrom(node)
        _rename(copied, names)
        body.append(copied)
    for tensor in branch.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = names[tensor.name]
    for sparse in branch.sparse_initializer:
        graph.sparse_initializer.add().CopyFrom(sparse)
        graph.sparse_initializer[-1].values.name = names[sparse.values.name]
    # A branch may answer with what it did not make, so each output is named anew rather than what makes it.
    body += [
        helper.make_node("Identity", [names.get(inner.name, inner.name)], [outer])
        for inner, outer in zip(branch.output, choice.output, strict=True)
        if outer
    ]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*rest[:place], *body, *rest[place + 1 :]])


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Rename what ``node`` uses and makes, in the graphs inside it too; names are unique throughout a model."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                _rename(inner, names)
            for value in graph.output:
                value.name = names.get(value.name, value.name)
