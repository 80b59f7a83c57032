from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pytest_webaccel.errors import ModelError
from pytest_webaccel.parity.graph import Graph, used_by
from pytest_webaccel.parity.reference import run_reference

FLOAT = TensorProto.FLOAT


def made(nodes, inputs, outputs, weights=(), **more):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value(name, FLOAT, [2, 2]) for name in inputs],
        [value(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in dict(weights).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **more)


def diamond():
    """a = x + w; b = relu(a), c = -a; y = b * c, with w = abs(w0) computed from a weight."""
    return made(
        [
            helper.make_node("Abs", ["w0"], ["w"]),
            helper.make_node("Add", ["x", "w"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Neg", ["a"], ["c"]),
            helper.make_node("Mul", ["b", "c"], ["y"]),
        ],
        ["x"],
        ["y"],
        {"w0": [[-1, 2], [3, -4]]},
    )


X = {"x": np.array([[1, -2], [-5, 4]], np.float32)}


def run(model, feeds):
    answer = run_reference(model.SerializeToString(), feeds)
    assert answer is not None
    return answer[1]


def values(graph, feeds):
    names = [name for node in graph.steps for name in node.output]
    return {**feeds, **run(graph.exposed(names), feeds)}


def test_what_depends_on_no_input_is_no_step():
    graph = Graph(diamond())
    assert [node.op_type for node in graph.steps] == ["Add", "Relu", "Neg", "Mul"]
    assert graph.fixed == {"w0", "w"}
    assert (graph.inputs, graph.outputs) == (("x",), ("y",))


def test_what_crosses_a_cut_is_made_before_and_used_after():
    graph = Graph(diamond())
    assert [graph.crossing(cut) for cut in range(5)] == [("x",), ("a",), ("a", "b"), ("b", "c"), ("y",)]


def test_a_part_answers_what_the_whole_does_and_takes_its_constants_along():
    graph = Graph(diamond())
    known = values(graph, X)
    part = graph.part([0, 1], graph.leaving([0, 1]), known)
    onnx.checker.check_model(part, full_check=True)
    assert [node.op_type for node in part.graph.node] == ["Abs", "Add", "Relu"]
    assert [value.name for value in part.graph.input] == ["x"]
    for name, array in run(part, X).items():
        np.testing.assert_array_equal(array, known[name])
    last = graph.part([3], ["y"], known)
    assert [value.name for value in last.graph.input] == ["b", "c"]
    assert not last.graph.initializer


def test_the_steps_that_an_output_depends_on_are_told_from_those_beside_them():
    graph = Graph(diamond())
    assert graph.making(["c"], range(4)) == (0, 2)
    assert graph.making(["c"], [1, 2]) == (2,)
    assert graph.leaving([0, 2]) == ("a", "c")


@given(st.data())
def test_parts_on_either_side_of_any_cut_give_the_whole(data):
    """A random graph, cut anywhere: the second part fed with what the first answers is the model."""
    steps = data.draw(st.integers(1, 12))
    there, nodes = ["x", "w"], []
    for step in range(steps):
        names = data.draw(st.tuples(st.sampled_from(there), st.sampled_from(there)))
        kind = data.draw(st.sampled_from(["Add", "Mul", "Max", "Tanh", "Neg"]))
        nodes.append(helper.make_node(kind, names if kind in {"Add", "Mul", "Max"} else names[:1], [f"t{step}"]))
        there.append(f"t{step}")
    nodes.append(helper.make_node("Sum", ["x", *[f"t{step}" for step in range(steps)]], ["y"]))
    order = data.draw(st.permutations(nodes))
    model = made(order, ["x"], ["y"], {"w": [[0.5, -1], [2, 1]]})
    graph = Graph(model)
    known = values(graph, X)
    cut = data.draw(st.integers(0, len(graph)))
    answers = dict(X)
    for part in (range(cut), range(cut, len(graph))):
        if part:
            model = graph.part(part, graph.leaving(part), known)
            answers |= run(model, {name: answers[name] for name in graph.entering(part)})
            assert set(graph.entering(part)) <= {*graph.crossing(part.start)}
    np.testing.assert_array_equal(answers["y"], known["y"])


def test_graphs_inside_a_node_use_what_is_around_them():
    value = helper.make_tensor_value_info

    def branch(name, kind):
        node = helper.make_node(kind, ["a"], [name])
        return helper.make_graph([node], name, [], [value(name, FLOAT, None)])

    choice = helper.make_node("If", ["yes"], ["y"], then_branch=branch("t", "Relu"), else_branch=branch("e", "Neg"))
    nodes = [
        helper.make_node("Add", ["x", "x"], ["a"]),
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["yes"]),
        choice,
    ]
    assert used_by(choice) == ("yes", "a")
    graph = Graph(made(nodes, ["x"], ["y"], {"zero": 0}))
    assert graph.crossing(3) == ("a", "yes")
    known = values(graph, X)
    part = graph.part([3], ["y"], known)
    np.testing.assert_array_equal(run(part, {"a": known["a"], "yes": known["yes"]})["y"], known["y"])


def test_with_every_node_a_step_weights_alone_are_constants():
    graph = Graph(diamond(), every=True)
    assert [node.op_type for node in graph.steps] == ["Abs", "Add", "Relu", "Neg", "Mul"]
    assert graph.fixed == {"w0"}


def test_what_draws_is_a_step_and_told():
    drawn = helper.make_node("RandomNormal", [], ["r"], shape=[2, 2])
    graph = Graph(made([drawn, helper.make_node("Add", ["x", "r"], ["y"])], ["x"], ["y"]))
    assert len(graph) == 2
    assert graph.draws == ("RandomNormal",)


@pytest.mark.parametrize("inputs", [["z"], ["y"]], ids=["nothing makes it", "a cycle"])
def test_a_graph_that_cannot_run_is_refused(inputs):
    with pytest.raises(ModelError, match=f"Neg '' uses {inputs[0]}, which nothing makes"):
        Graph(made([helper.make_node("Neg", inputs, ["y"])], ["x"], ["y"]))
