"""How far one operator's answer may lie from another's: the rules of the WebNN conformance suite, by ONNX operator.

Source: web-platform-tests, ``webnn/resources/utils.js`` (``PrecisionMetrics``), whose rules stem from the precision
table in issue 265 of webmachinelearning/webnn. An operator has either a number of ULP, which for sums and dot products
grows with the terms that are added up, or an absolute tolerance. What only moves, picks or compares data must be exact.

For several operators the suite adds their ULP up. :func:`allowance` does the same over the operators of a model, and
the result is held against the mixed rule by dtype of :mod:`~pytest_webaccel.parity.tolerance`: of many operators the
sum would allow anything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.parity.tolerance import EXACT, Tolerance, tolerance_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray
    from onnx import ModelProto, NodeProto

__all__ = ["allowance", "model_tolerances", "operator_tolerance", "scaled"]

#: ULP of float32 and of float16 for operators whose error does not depend on sizes.
_ULP: Mapping[str, tuple[int, int]] = {
    "BatchNormalization": (6, 6),
    "Add": (1, 1),
    "Sub": (1, 1),
    "Mul": (1, 1),
    "Div": (2, 2),
    "Pow": (32, 2),
    "Exp": (32, 1),
    "Reciprocal": (2, 2),
    "Sqrt": (1, 1),
    "Elu": (18, 18),
    "HardSigmoid": (2, 2),
    "HardSwish": (4, 4),
    "LeakyRelu": (1, 1),
    "PRelu": (1, 1),
    "Sigmoid": (34, 3),
    "Softplus": (18, 18),
    "Softsign": (3, 3),
}

#: Absolute tolerance for float32 and for float16.
_ATOL: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("Cos", "Erf", "Sin", "Tan", "Tanh"), (1 / 1024, 1 / 512)),
    "Log": (1 / 1024, 1 / 1024),
}

#: Operators of a model up to which their tolerances are added up.
_MOST_ADDED_UP = 64

#: What computes nothing that could be rounded.
_EXACT = frozenset(
    {
        *("Abs", "ArgMax", "ArgMin", "Ceil", "Clip", "Concat", "Equal", "Expand", "Flatten", "Floor", "Gather"),
        *("GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max"),
        *("MaxPool", "Min", "Neg", "Not", "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape", "Slice", "Split"),
        *("Squeeze", "Transpose", "Unsqueeze", "Where", "ScatterElements", "ScatterND", "Tile", "DepthToSpace"),
    }
)


def operator_tolerance(
    node: NodeProto, shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike = np.float32
) -> Tolerance | None:
    """Return the suite's rule for a node, whose inputs have ``shapes``; None where it has none.

    ``dtype`` is that of the output: what is not floating-point must be exact.
    """
    kind = np.dtype(dtype)
    if node.domain not in {"", "ai.onnx"}:
        return None
    if node.op_type in _EXACT or kind.kind != "f":
        return EXACT
    half = kind.name == "float16"
    if node.op_type in _ATOL:
        return Tolerance(_ATOL[node.op_type][half])
    if node.op_type in _ULP:
        return Tolerance(0.0, ulp=_ULP[node.op_type][half])
    summing = _SUMMING.get(node.op_type)
    ulp = None if summing is None else summing(node, [shapes.get(name) for name in node.input])
    return None if ulp is None else Tolerance(0.0, ulp=max(ulp, 1))


def allowance(
    nodes: Iterable[NodeProto], shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike = np.float32
) -> Tolerance:
    """Return how far the answer of several operators may be off, at least the sum of what each may be.

    Where one of them has no rule, or they add up to more than the mixed rule by ``dtype`` allows, that rule stands.
    """
    whole = tolerance_for(dtype)
    if np.dtype(dtype).name not in {"float16", "float32"}:
        return whole
    ulp, atol = 0, 0.0
    for node in nodes:
        rule = operator_tolerance(node, shapes, dtype)
        if rule is None:
            return whole
        ulp += rule.ulp
        atol += rule.atol
    most = whole.rtol / float(np.finfo(np.dtype(dtype)).eps)
    return whole if ulp > most or atol > whole.atol else Tolerance(atol, ulp=ulp)


def scaled(rule: Tolerance, array: NDArray[Any], margin: int = 1) -> Tolerance:
    """Return ``rule``, ``margin`` times as wide, as it holds for a floating-point ``array``.

    Terms of a sum may cancel, which leaves the error of the terms and few digits of the sum: so the ULP are granted at
    the size of the array's largest element as well.
    """
    finite = np.abs(array[np.isfinite(array)].astype(np.float64))
    largest, info = float(finite.max(initial=0.0)), np.finfo(array.dtype)
    floor = max(margin * rule.ulp * float(info.eps) * largest, float(info.tiny))
    return Tolerance(max(rule.atol, floor), rule.rtol, rule.ulp * margin)


def model_tolerances(
    model: ModelProto, feeds: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]
) -> dict[str, Tolerance]:
    """Return how far each expected output of a whole model may be off, by name.

    That is what its operators may be off together where they are few and each has a rule (:func:`allowance`), and the
    mixed rule of the output's dtype otherwise.
    """
    few = len(model.graph.node) <= _MOST_ADDED_UP and not model.functions
    shapes = _shapes(model, feeds) if few else {}
    found = {}
    for name, array in expected.items():
        rule = tolerance_for(array.dtype)
        if few and array.dtype.kind == "f":
            rule = allowance(model.graph.node, shapes, array.dtype)
            rule = rule if rule.rtol else scaled(rule, array)
        found[name] = rule
    return found


def _shapes(model: ModelProto, feeds: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's tensors when it is fed with ``feeds``, as far as they can be inferred."""
    import onnx

    fed = onnx.ModelProto()
    fed.CopyFrom(model)
    for value in fed.graph.input:
        if value.name in feeds and value.type.HasField("tensor_type"):
            tensor = value.type.tensor_type
            tensor.ClearField("shape")
            sizes = feeds[value.name].shape
            tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in sizes)
    try:
        inferred = onnx.shape_inference.infer_shapes(fed, data_prop=True)
    except Exception:  # an operator without a rule then; the mixed rule stands
        inferred = fed
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in (*inferred.graph.input, *inferred.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


# -- operators that add up ------------------------------------------------------------------------


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def _conv(node: NodeProto, sizes: Sequence[tuple[int, ...] | None]) -> int | None:
    """Two operations for each element under the kernel, over the channels of one group."""
    data, kernel = sizes[0], sizes[1] if len(sizes) > 1 else None
    if data is None or kernel is None or len(data) < 3:
        return None
    return math.prod(kernel[2:]) * (data[1] // max(int(_attribute(node, "group", 1)), 1)) * 2


def _matmul(node: NodeProto, sizes: Sequence[tuple[int, ...] | None]) -> int | None:
    del node
    return 2 * sizes[0][-1] if sizes[0] else None


def _gemm(node: NodeProto, sizes: Sequence[tuple[int, ...] | None]) -> int | None:
    if not sizes[0]:
        return None
    alpha, beta = float(_attribute(node, "alpha", 1.0)), float(_attribute(node, "beta", 1.0))
    ulp = 2 * sizes[0][0 if _attribute(node, "transA", 0) else -1] + (alpha != 1.0)
    biased = len(node.input) > 2 and bool(node.input[2]) and beta != 0.0
    return int(ulp + (1 + (beta != 1.0) if biased else 0))


def _average(node: NodeProto, sizes: Sequence[tuple[int, ...] | None]) -> int | None:
    window = _attribute(node, "kernel_shape", None) or (sizes[0][2:] if sizes[0] else None)
    return None if window is None else math.prod(window) + 2


def _softmax(node: NodeProto, sizes: Sequence[tuple[int, ...] | None]) -> int | None:
    if not sizes[0]:
        return None
    return sizes[0][int(_attribute(node, "axis", -1))] * 3 + 3


def _reduced(times: int, more: int) -> Callable[[NodeProto, Sequence[tuple[int, ...] | None]], int | None]:
    """Return the rule of a reduction: so many ULP for each element that is added up, and so many more."""

    def rule(node: NodeProto, sizes: Sequence[tuple[int, ...] | None]) -> int | None:
        if sizes[0] is None:
            return None
        axes = _attribute(node, "axes", None)
        # axes that are a tensor are not looked at: all of them are the most that there can be
        count = math.prod(sizes[0][axis] for axis in axes) if axes else math.prod(sizes[0])
        return count * times + more

    return rule


_SUMMING: Mapping[str, Callable[[NodeProto, Sequence[tuple[int, ...] | None]], int | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "AveragePool": _average,
    "GlobalAveragePool": _average,
    "Softmax": _softmax,
    "ReduceL1": _reduced(1, 0),
    "ReduceProd": _reduced(1, 0),
    "ReduceSum": _reduced(1, 0),
    "ReduceL2": _reduced(2, 1),
    "ReduceMean": _reduced(1, 2),
    "ReduceLogSum": _reduced(1, 18),
    "ReduceLogSumExp": _reduced(2, 18),
    "ReduceSumSquare": _reduced(2, 0),
}
