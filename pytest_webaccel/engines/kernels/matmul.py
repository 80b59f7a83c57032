"""The product of activations and low-bit weights, ``kernels/matmul_nbits``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels.manifest import manifest
from pytest_webaccel.engines.kernels.program import Output, Program, packed_constants, packed_words, require
from pytest_webaccel.engines.packing import Packed
from pytest_webaccel.errors import FeedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["matmul_nbits"]


def matmul_nbits(x: NDArray[Any], weights: Packed, *, constants: Mapping[str, int] | None = None) -> Program:
    """Return the program of ``x @ weights.dequantised().T``: float32 of shape (rows of x, rows of weights), as ``y``.

    ``x`` is float32 of shape (rows, weights.columns); ``constants`` are tunable ones, by name. Raises FeedError for an
    ``x`` that does not fit.
    """
    require(np.ndarray, x=x)
    require(Packed, weights=weights)
    if x.dtype != np.float32 or x.ndim != 2 or not x.shape[0] or x.shape[1] != weights.columns:
        raise FeedError(
            f"x is float32 of shape [rows, {weights.columns}], as the weights have {weights.columns} columns; got "
            f"{x.dtype} of shape {list(x.shape)}"
        )
    made = manifest("matmul_nbits")
    chosen = made.constants(constants)
    rows, columns = x.shape[0], weights.rows
    padded = np.zeros((rows, weights.groups * weights.group), np.float32)
    padded[:, : weights.columns] = x
    packed, scales, zeros = packed_words(weights)
    return Program(
        kernel=made.name,
        code=made.code,
        entry=made.entry,
        constants={**packed_constants(weights), **chosen},
        bindings=("x", "packed", "y", "uniform"),
        inputs={"x": padded, "packed": packed},
        outputs={"y": Output("float32", (rows, columns))},
        uniform=(rows, columns, weights.groups, scales, zeros),
        workgroups=(-(-columns // chosen["WORKGROUP"]), -(-rows // chosen["ROW_TILE"]), 1),
    )
