"""The product of activations and low-bit weights, ``kernels/matmul_nbits``."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np

from pytest_webaccel.engines.kernels.dispatch import Dispatch
from pytest_webaccel.engines.kernels.manifest import manifest
from pytest_webaccel.engines.kernels.program import Output, Program, Tensor, require
from pytest_webaccel.engines.kernels.weights import by_columns, matrix_form, matrix_operand
from pytest_webaccel.engines.packing.layout import BLOCK, places
from pytest_webaccel.errors import ConfigurationError, FeedError
from pytest_webaccel.terms import Backend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_webaccel.engines.kernels.dispatch import Target
    from pytest_webaccel.engines.kernels.program import Floats
    from pytest_webaccel.engines.kernels.weights import Matrix

__all__ = ["matmul_nbits"]

#: Elements of a tile that an invocation keeps.
_MOST_TILE = 32
#: Rows for which a larger tile is worth the time to compile it.
_MANY_ROWS = 8
#: Constants of a tile: who gives one of them gives the tile.
_TILE = frozenset({"TILE_ROWS", "TILE_COLUMNS"})
#: Bytes of a workgroup's own memory that every device has.
_SHARED_BYTES = 16_384
#: Lanes that tell one another what they read.
_QUAD = 4


def matmul_nbits(x: Floats, weights: Matrix, *, constants: Mapping[str, int] | None = None) -> Program:
    """Return the program of ``x @ weights.dequantised().T``: float32 of shape (rows of x, rows of weights), as ``y``.

    ``x`` is float32 of shape (rows, k), ``weights`` are n rows of k, packed or plain float32;
    ``constants`` are tunable ones, by name. Raises FeedError for an ``x`` that does not fit; constants that do
    not fit together are refused where it is lowered.
    """
    require((np.ndarray, Tensor), x=x)
    form = matrix_form("weights", weights)
    if x.dtype != np.float32 or x.ndim != 2 or not x.shape[0] or x.shape[1] != form.columns:
        raise FeedError(
            f"x is float32 of shape [rows, {form.columns}], as the weights have {form.columns} columns; got "
            f"{x.dtype} of shape {list(x.shape)}"
        )
    rows, columns = x.shape[0], form.rows
    outputs = {"y": Output("float32", (rows, columns))}

    def webgpu(target: Target, given: Mapping[str, int]) -> Dispatch:
        made = manifest("matmul_nbits")
        asked = given or made.untuned(target.features)
        chosen = made.constants({**({} if _TILE & set(asked) else _tile(rows)), **asked})
        _fitting(chosen)
        operand, words = matrix_operand(weights, by_columns)
        across = chosen["WORKGROUP"] // chosen["SPLIT"]
        quads = bool(chosen["QUADS"])
        return Dispatch(
            kernel=made.name,
            source=made.digest,
            code=made.rendered(
                **chosen,
                **form.constants(),
                CODES=_codes(form.bits),
                WHOLE=form.columns % form.group == 0,
                VECTORS=form.columns % 4 == 0 and not quads,
            ),
            entry=made.entry,
            constants={},
            bindings=("x", "packed", "y", "uniform"),
            inputs={"x": x, "packed": operand},
            outputs=outputs,
            uniform=(rows, columns, form.columns, form.groups, words.scales, words.zeros),
            workgroups=(-(-columns // (across * chosen["TILE_COLUMNS"])), -(-rows // chosen["TILE_ROWS"]), 1),
            chosen=chosen,
            form=form.constants(),
            needs=("subgroups",) if quads else (),
        )

    return Program("matmul_nbits", {"x": x, "weights": weights}, outputs, {Backend.WEBGPU: webgpu}, constants or {})


def _tile(rows: int) -> dict[str, int]:
    """Return the tile where none is given: for one row no tile at all, and a large one only where compiling it pays."""
    if rows == 1:
        return {"TILE_ROWS": 1, "TILE_COLUMNS": 1}
    return {"TILE_ROWS": 8} if rows >= _MANY_ROWS else {}


def _fitting(chosen: Mapping[str, int]) -> None:
    tile = chosen["TILE_ROWS"] * chosen["TILE_COLUMNS"]
    if tile > _MOST_TILE:
        raise ConfigurationError(f"kernel matmul_nbits: a tile of {tile} elements is more than {_MOST_TILE}")
    shared = 4 * chosen["WORKGROUP"] * tile
    if chosen["SPLIT"] > 1 and shared > _SHARED_BYTES:
        raise ConfigurationError(
            f"kernel matmul_nbits: invocations that share a tile keep {shared:,} bytes, more than the "
            f"{_SHARED_BYTES:,} that every device has for a workgroup (maxComputeWorkgroupStorageSize)"
        )
    if chosen["QUADS"] and chosen["SPLIT"] > 1:
        raise ConfigurationError("kernel matmul_nbits: QUADS=1 goes with SPLIT=1, as quads stay together in a loop")
    if chosen["WORKGROUP"] // chosen["SPLIT"] < _QUAD:
        raise ConfigurationError(
            f"kernel matmul_nbits: SPLIT={chosen['SPLIT']} leaves fewer than {_QUAD} columns of a workgroup of "
            f"{chosen['WORKGROUP']}"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Code:
    """A code as the template reads it: ``reads`` are words that no code before it needed, ``last`` ends its word."""

    code: int
    word: int
    shift: int
    crosses: bool
    last: bool
    reads: tuple[int, ...]


@functools.cache
def _codes(bits: int) -> Sequence[_Code]:
    """Return the codes of a block; of 32 bits they are words."""
    if bits == BLOCK:
        return tuple(_Code(code, code, 0, crosses=False, last=True, reads=(code,)) for code in range(BLOCK))
    known: set[int] = set()
    codes = []
    for place in places(bits):
        words = (place.word, place.word + 1)[: 1 + place.crosses]
        reads = tuple(word for word in words if word not in known)
        known.update(reads)
        codes.append(_Code(place.code, place.word, place.shift, place.crosses, place.shift + bits == BLOCK, reads))
    return tuple(codes)
