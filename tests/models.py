"""Small ONNX models for tests of the plugin itself."""

from __future__ import annotations

import functools
from typing import Any

from onnx import TensorProto, helper


@functools.cache
def scaled_sum(elem_type: int = TensorProto.FLOAT, shape: tuple[str | int | None, ...] = ("n",)) -> bytes:
    """z = (x + y) * 2 under names x, y, z; also the sum alone as ``s``."""
    two = helper.make_tensor("two", elem_type, [], [2])
    return _model(
        [helper.make_node("Add", ["x", "y"], ["s"]), helper.make_node("Mul", ["s", "two"], ["z"])],
        [helper.make_tensor_value_info(name, elem_type, list(shape)) for name in ("x", "y")],
        [helper.make_tensor_value_info(name, elem_type, list(shape)) for name in ("z", "s")],
        [two],
    )


@functools.cache
def unknown_operator() -> bytes:
    """A well-formed model with an operator that nobody has."""
    value = helper.make_tensor_value_info
    return _model(
        [helper.make_node("NoSuchOperator", ["x"], ["z"])],
        [value("x", TensorProto.FLOAT, [1])],
        [value("z", TensorProto.FLOAT, [1])],
    )


@functools.cache
def failing_reshape() -> bytes:
    """A model whose reshape to the shape in ``to`` fails at run time when the sizes do not fit."""
    return _model(
        [helper.make_node("Reshape", ["x", "to"], ["z"])],
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("to", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["m"])],
    )


@functools.cache
def recurrent(width: int = 4) -> bytes:
    """h = tanh(x W + h0 U) under names x, h0, h; y is the sum of h. W and U are fixed, of size ``width``."""
    count = width * width
    weights = [((7 * i) % 11 - 5) / 8 for i in range(2 * count)]
    value = helper.make_tensor_value_info
    return _model(
        [
            helper.make_node("MatMul", ["x", "w"], ["xw"]),
            helper.make_node("MatMul", ["h0", "u"], ["hu"]),
            helper.make_node("Add", ["xw", "hu"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["h"]),
            helper.make_node("ReduceSum", ["h"], ["y"], keepdims=0),
        ],
        [value(name, TensorProto.FLOAT, [1, width]) for name in ("x", "h0")],
        [value("h", TensorProto.FLOAT, [1, width]), value("y", TensorProto.FLOAT, [])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [width, width], weights[:count]),
            helper.make_tensor("u", TensorProto.FLOAT, [width, width], weights[count:]),
        ],
    )


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any] | None = None) -> bytes:
    graph = helper.make_graph(nodes, "small", inputs, outputs, constants or [])
    opset = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return data
