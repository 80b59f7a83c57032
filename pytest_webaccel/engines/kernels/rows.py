"""Kernels of sequences: element by element, row by row, and every row over all (``self_attention``)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels.cpu import on_cpu
from pytest_webaccel.engines.kernels.gpu import on_webgpu
from pytest_webaccel.engines.kernels.graph import Port, graph_dispatch
from pytest_webaccel.engines.kernels.program import Output, Program, Tensor, require
from pytest_webaccel.engines.kernels.weights import array_operand
from pytest_webaccel.errors import ConfigurationError, FeedError
from pytest_webaccel.terms import Backend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.dispatch import Dispatch, Operand, Target
    from pytest_webaccel.engines.kernels.program import Floats
    from pytest_webaccel.engines.kernels.weights import Resident

__all__ = ["add", "gelu", "layer_norm", "mean_pool", "rope", "self_attention", "silu", "softmax"]

#: Rows whose scores a workgroup keeps.
_MOST_ROWS = 2048


def layer_norm(
    x: Floats,
    weight: NDArray[Any] | Resident[NDArray[Any]],
    bias: NDArray[Any] | Resident[NDArray[Any]],
    *,
    epsilon: float = 1e-5,
    constants: Mapping[str, int] | None = None,
) -> Program:
    """Return the program of ``(x - mean) / sqrt(variance + epsilon) * weight + bias`` over the last axis, as ``y``.

    All are float32; ``weight`` and ``bias`` have the length of the last axis of ``x``. Raises FeedError for what does
    not fit.
    """
    _floats("x", x)
    inputs: dict[str, Operand] = {"x": x}
    for name, given in (("weight", weight), ("bias", bias)):
        array, inputs[name] = array_operand(name, given)
        if array.dtype != np.float32 or array.shape != x.shape[-1:]:
            raise FeedError(
                f"{name} is float32 of shape {list(x.shape[-1:])}, as the last axis of x; got {array.dtype} of shape "
                f"{list(array.shape)}"
            )
    if not epsilon > 0:
        raise ConfigurationError(f"epsilon={epsilon!r} is not over 0")
    rows, columns = _rows(x)
    bits = int(np.float32(epsilon).view(np.uint32))
    return _program(
        "layer_norm",
        inputs,
        x.shape,
        uniform=(rows, columns, bits),
        workgroups=(rows, 1, 1),
        constants=constants,
        shapes={"x": (rows, columns)},
        attributes={"epsilon": float(np.float32(epsilon))},
    )


def softmax(x: Floats, *, constants: Mapping[str, int] | None = None) -> Program:
    """Return the program of the softmax of ``x``, float32, over its last axis, as ``y``."""
    _floats("x", x)
    rows, columns = _rows(x)
    return _program(
        "softmax",
        {"x": x},
        x.shape,
        uniform=(rows, columns),
        workgroups=(rows, 1, 1),
        constants=constants,
        shapes={"x": (rows, columns)},
    )


def mean_pool(x: Floats, *, normalise: bool = False, constants: Mapping[str, int] | None = None) -> Program:
    """Return the program of the mean of the rows of ``x``, float32 of shape (rows, columns), as ``y`` of (columns).

    Where ``normalise``, it is brought to length 1. Raises FeedError for what does not fit.
    """
    _floats("x", x)
    if x.ndim != 2:
        raise FeedError(f"x is of shape [rows, columns]; got {list(x.shape)}")
    return _program(
        "mean_pool",
        {"x": x},
        x.shape[1:],
        uniform=x.shape,
        workgroups=(1, 1, 1),
        constants=constants,
        fixed={"NORMALISE": int(normalise)},
    )


def add(a: Floats, b: Floats | Resident[NDArray[Any]], *, constants: Mapping[str, int] | None = None) -> Program:
    """Return the program of ``a + b``, float32, as ``y`` of the shape of ``a``; ``b`` has that of its last axes.

    Raises FeedError for what does not fit.
    """
    _floats("a", a)
    shape: tuple[int, ...]
    operand: Operand
    if isinstance(b, Tensor):
        shape, operand = b.shape, b
    else:
        array, operand = array_operand("b", b)
        shape = array.shape
        _floats("b", array)
    if tuple(a.shape[-len(shape) :]) != tuple(shape):
        raise FeedError(f"b is of the shape of the last axes of a, {list(a.shape)}; got {list(shape)}")
    period = math.prod(shape)
    return _program(
        "add",
        {"a": a, "b": operand},
        a.shape,
        uniform=(a.size, period),
        constants=constants,
        shapes={"a": (a.size // period, period), "b": (period,)},
    )


def self_attention(
    q: Floats,
    k: Floats,
    v: Floats,
    *,
    scale: float | None = None,
    causal: bool = False,
    constants: Mapping[str, int] | None = None,
) -> Program:
    """Return the program of the attention of a sequence over itself, head by head, as ``y``.

    ``q``, ``k`` and ``v`` are float32 of one shape (rows, heads, dim), up to 2,048 rows. ``scale`` is that of the
    scores, ``1 / sqrt(dim)`` by default; where ``causal``, a row sees those up to itself. Raises FeedError for what
    does not fit, ConfigurationError for too many rows.
    """
    for name, given in (("q", q), ("k", k), ("v", v)):
        _floats(name, given)
        if given.ndim != 3 or given.shape != q.shape:
            raise FeedError(
                f"q, k and v are of one shape [rows, heads, dim]; got {name} of shape {list(given.shape)}, and q of "
                f"{list(q.shape)}"
            )
    rows, heads, dim = q.shape
    if rows > _MOST_ROWS:
        raise ConfigurationError(f"kernel self_attention: {rows:,} rows are more than {_MOST_ROWS:,}")
    factor = np.float32(dim**-0.5 if scale is None else scale)
    return _program(
        "self_attention",
        {"q": q, "k": k, "v": v},
        q.shape,
        uniform=(rows, heads, dim, int(factor.view(np.uint32))),
        workgroups=(heads, rows, 1),
        constants=constants,
        fixed={"CAUSAL": int(causal)},
        attributes={"scale": float(factor)},
    )


def gelu(x: Floats, *, tanh: bool = False, constants: Mapping[str, int] | None = None) -> Program:
    """Return the program of the Gaussian error linear unit of ``x``, float32, as ``y``; ``tanh`` approximates it."""
    return _each("gelu", x, constants, {"TANH": int(tanh)})


def silu(x: Floats, *, constants: Mapping[str, int] | None = None) -> Program:
    """Return the program of ``x / (1 + exp(-x))`` for float32 ``x``, as ``y``."""
    return _each("silu", x, constants, {})


def rope(
    x: Floats,
    positions: Sequence[int] | NDArray[Any],
    *,
    base: float = 10_000.0,
    interleaved: bool = False,
    constants: Mapping[str, int] | None = None,
) -> Program:
    """Return the program of the rotary position embedding of ``x``, float32 of shape (rows, heads, dim), as ``y``.

    ``positions`` has one for each row. Pair i of a head is (i, i + dim / 2), or (2 i, 2 i + 1) where ``interleaved``.
    Raises FeedError for what does not fit.
    """
    _floats("x", x)
    where = np.asarray(positions)
    if x.ndim != 3 or x.shape[2] % 2 or where.shape != x.shape[:1] or where.dtype.kind not in "iu":
        raise FeedError(
            f"x is of shape [rows, heads, an even dim], and positions are integers, one a row; got {list(x.shape)} and "
            f"{where.dtype} of shape {list(where.shape)}"
        )
    rows, heads, dim = x.shape
    angles = where[:, None].astype(np.float64) * base ** (-2 * np.arange(dim // 2) / dim)
    turns = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
    count = rows * heads * dim // 2
    return _program(
        "rope",
        {"x": x, "turns": turns},
        x.shape,
        uniform=(count, heads, dim // 2),
        constants=constants,
        fixed={"INTERLEAVED": int(interleaved)},
    )


def _each(name: str, x: Floats, constants: Mapping[str, int] | None, fixed: Mapping[str, int]) -> Program:
    _floats("x", x)
    return _program(
        name, {"x": x}, x.shape, uniform=(x.size,), constants=constants, fixed=fixed, shapes={"x": (x.size,)}
    )


def _program(
    name: str,
    inputs: Mapping[str, Operand],
    shape: tuple[int, ...],
    *,
    uniform: Sequence[int],
    constants: Mapping[str, int] | None,
    workgroups: tuple[int, int, int] | None = None,
    fixed: Mapping[str, int] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    attributes: Mapping[str, float] | None = None,
) -> Program:
    """Return a program; ``workgroups`` as :func:`on_webgpu` takes them.

    ``shapes`` are those under which a builder of graphs reads inputs, where they are others than their own, and
    ``attributes`` what it is told beside ``fixed``.
    """
    outputs = {"y": Output("float32", shape)}
    form = fixed or {}

    def webgpu(target: Target, given: Mapping[str, int]) -> Dispatch:
        return on_webgpu(name, target, inputs, outputs, uniform, form, given, workgroups)

    def cpu(target: Target, given: Mapping[str, int]) -> Dispatch:
        del target
        return on_cpu(name, inputs, outputs, uniform, form, given)

    def webnn(target: Target, given: Mapping[str, int]) -> Dispatch:
        del target
        ports = {key: Port(key, (shapes or {}).get(key, tuple(one.shape))) for key, one in inputs.items()}
        told = {**{key.lower(): value for key, value in form.items()}, **(attributes or {})}
        return graph_dispatch(name, inputs, outputs, given, ports=ports, attributes=told, form=form)

    ways = {Backend.WEBGPU: webgpu, Backend.CPU: cpu, Backend.WEBNN: webnn}
    return Program(name, inputs, outputs, ways, constants or {})


def _floats(name: str, array: Floats) -> None:
    require((np.ndarray, Tensor), **{name: array})
    if array.dtype != np.float32 or array.ndim == 0 or not array.size:
        raise FeedError(f"{name} is float32 with at least one element; got {array.dtype} of shape {list(array.shape)}")


def _rows(x: Floats) -> tuple[int, int]:
    return x.size // x.shape[-1], x.shape[-1]
