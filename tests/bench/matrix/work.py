"""The work that every arm does: one small model, fresh inputs for each trial, and the answer as NumPy computes it."""

from __future__ import annotations

import dataclasses
import functools
import random
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Work", "model", "wrong"]

ROWS, WIDTH, HIDDEN, CLASSES = 16, 64, 128, 10
#: Between NumPy and a browser lie sums in another order and another exp(): far less than this.
TOLERANCE = 2e-4


@functools.cache
def _weights() -> tuple[NDArray[np.float32], ...]:
    chance = np.random.default_rng(2026)
    shapes = ((WIDTH, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,))
    return tuple((chance.standard_normal(shape) * 0.2).astype(np.float32) for shape in shapes)


@functools.cache
def model() -> bytes:
    """Return a two-layer perceptron with a softmax at its end: ``x`` [16, 64] to ``y`` [16, 10]."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Add", ["a", "b1"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "w2"], ["d"]),
        helper.make_node("Add", ["d", "b2"], ["e"]),
        helper.make_node("Softmax", ["e"], ["y"], axis=-1),
    ]
    names = ("w1", "b1", "w2", "b2")
    weights = [numpy_helper.from_array(array, name) for array, name in zip(_weights(), names, strict=True)]
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [value("x", TensorProto.FLOAT, [ROWS, WIDTH])],
        [value("y", TensorProto.FLOAT, [ROWS, CLASSES])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


@dataclasses.dataclass(frozen=True)
class Work:
    """One request: what is fed, and what must come back."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]

    @classmethod
    def drawn(cls, key: str) -> Work:
        """Return the work of the trial called ``key``: always the same, and no other trial's."""
        chance = np.random.default_rng(random.Random(f"work\0{key}").getrandbits(64))
        x = chance.standard_normal((ROWS, WIDTH)).astype(np.float32)
        return cls(x, _answer(x))


def _answer(x: NDArray[np.float32]) -> NDArray[np.float32]:
    w1, b1, w2, b2 = _weights()
    logits = np.maximum(x @ w1 + b1, 0) @ w2 + b2
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: NDArray[np.float32] = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return shares


def wrong(work: Work, got: Any) -> str:
    """Return in what ``got`` contradicts the answer; empty where it does not."""
    array = np.asarray(got, dtype=np.float64)
    if array.shape != work.y.shape:
        return f"shape {array.shape} in place of {work.y.shape}"
    worst = float(np.max(np.abs(array - work.y)))
    return "" if worst <= TOLERANCE else f"off by {worst:g}"
