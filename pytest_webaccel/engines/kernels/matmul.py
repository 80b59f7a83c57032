"""The product of activations and low-bit weights, ``kernels/matmul_nbits``."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np

from pytest_webaccel.engines.kernels.cpu import on_cpu
from pytest_webaccel.engines.kernels.dispatch import Dispatch
from pytest_webaccel.engines.kernels.gpu import require_tile, too_large
from pytest_webaccel.engines.kernels.graph import Port, graph_dispatch, opened_ports
from pytest_webaccel.engines.kernels.manifest import manifest
from pytest_webaccel.engines.kernels.program import Output, Program, Tensor, require
from pytest_webaccel.engines.kernels.rounded import Activations, matmul_rounded
from pytest_webaccel.engines.kernels.weights import (
    FLOAT_BITS,
    Resident,
    by_columns,
    by_quads,
    by_rows,
    by_tiles,
    matrix_form,
    matrix_operand,
    slots,
    whole,
    width,
)
from pytest_webaccel.errors import ConfigurationError, FeedError
from pytest_webaccel.terms import Backend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_webaccel.engines.kernels.dispatch import Target
    from pytest_webaccel.engines.kernels.program import Floats
    from pytest_webaccel.engines.kernels.weights import Form, Matrix, Words

__all__ = ["matmul_nbits"]

#: Elements of a tile that an invocation keeps.
_MOST_TILE = 64
#: Rows for which a larger tile is worth the time to compile it, and for which a still larger one is.
_MANY_ROWS, _VERY_MANY_ROWS = 8, 64
#: Constants of a tile: who gives one of them gives the tile.
_TILE = frozenset({"TILE_ROWS", "TILE_COLUMNS"})
#: Lanes that tell one another what they read.
_QUAD = 4
_WORD_BITS = 32


def matmul_nbits(
    x: Floats,
    weights: Matrix,
    *,
    activations: Activations | str = Activations.FLOAT32,
    constants: Mapping[str, int] | None = None,
) -> Program:
    """Return the program of ``x @ weights.dequantised().T``: float32 of shape (rows of x, rows of weights), as ``y``.

    ``x`` is float32 of shape (rows, k), ``weights`` are n rows of k, packed or plain float32; ``constants`` are tunable
    ones, by name. Nothing is rounded unless asked for: with ``activations`` ``int8`` or ``float16``, on WebGPU, ``x``
    is, every 32 elements of a row under a scale of their own. Raises FeedError for an ``x`` that does not fit;
    constants that do not fit together are refused where it is lowered.
    """
    require((np.ndarray, Tensor), x=x)
    form = matrix_form("weights", weights)
    if x.dtype != np.float32 or x.ndim != 2 or not x.shape[0] or x.shape[1] != form.columns:
        raise FeedError(
            f"x is float32 of shape [rows, {form.columns}], as the weights have {form.columns} columns; got "
            f"{x.dtype} of shape {list(x.shape)}"
        )
    kind = Activations.named(activations)
    if kind is not Activations.FLOAT32:
        return matmul_rounded(x, weights, kind, constants=constants)
    product = _Product(x, weights, form)
    ways = {Backend.WEBGPU: product.webgpu, Backend.CPU: product.cpu, Backend.WEBNN: product.webnn}
    return Program("matmul_nbits", {"x": x, "weights": weights}, product.outputs, ways, constants or {})


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Product:
    """A product as each backend computes it."""

    x: Floats
    weights: Matrix
    form: Form

    @property
    def outputs(self) -> dict[str, Output]:
        return {"y": Output("float32", (self.x.shape[0], self.form.rows))}

    def _told(self, words: Words) -> tuple[int, ...]:
        """Return what shaders and functions are told: rows, columns, k, groups, and where scales and zeros begin."""
        form = self.form
        return (self.x.shape[0], form.rows, form.columns, form.groups, words.scales, words.zeros)

    def webgpu(self, target: Target, given: Mapping[str, int]) -> Dispatch:
        made, form, rows = manifest("matmul_nbits"), self.form, self.x.shape[0]
        asked = given or made.untuned(target)
        tile = {} if _TILE & set(asked) else _tile(rows, quads=bool(asked.get("QUADS", 0)))
        chosen = made.constants({**tile, **asked})
        while tile and chosen["TILE_COLUMNS"] > 1 and too_large(chosen, _MOST_TILE):
            chosen["TILE_COLUMNS"] //= 2  # nobody asked for a tile that does not go with what was asked for
        _fitting(chosen)
        across = chosen["WORKGROUP"] // chosen["SPLIT"]
        quads = bool(chosen["QUADS"])
        operand, words = matrix_operand(self.weights, by_quads if quads else by_columns)
        return Dispatch(
            kernel=made.name,
            source=made.digest,
            code=made.rendered(
                **chosen,
                **form.constants(),
                CODES=_codes(form.bits),
                WHOLE=form.columns % form.group == 0,
                VECTORS=form.columns % 4 == 0,
                WORDS=form.bits,
                WIDTH=width(form.bits),
            ),
            entry=made.entry,
            constants={},
            bindings=("x", "packed", "y", "uniform", *(["packed"] if form.bits < _WORD_BITS else [])),
            inputs={"x": self.x, "packed": operand},
            outputs=self.outputs,
            uniform=self._told(words),
            workgroups=(-(-form.rows // (across * chosen["TILE_COLUMNS"])), -(-rows // chosen["TILE_ROWS"]), 1),
            chosen=chosen,
            form=form.constants(),
            needs=("subgroups",) if quads else (),
        )

    def cpu(self, target: Target, given: Mapping[str, int]) -> Dispatch:
        del target
        operand, words = matrix_operand(self.weights, by_tiles)
        inputs = {"x": self.x, "packed": operand}
        return on_cpu("matmul_nbits", inputs, self.outputs, self._told(words), self.form.constants(), given)

    def webnn(self, target: Target, given: Mapping[str, int]) -> Dispatch:
        del target
        form = self.form
        kept, plain = isinstance(self.weights, Resident), form.bits == FLOAT_BITS
        # One row is a step of a decoder, which runs often; each number of rows has a graph of its own.
        bake = kept and self.x.shape[0] == 1 and not given.get("CODES")
        chosen = manifest("matmul_nbits", "webnn").constants({"BAKED": int(bake), **given})
        baked, codes = bool(chosen["BAKED"]), bool(chosen["CODES"])
        if baked and not kept:
            raise ConfigurationError("kernel matmul_nbits: BAKED=1 goes with weights that are Resident")
        if codes and (baked or plain):
            raise ConfigurationError("kernel matmul_nbits: CODES=1 goes with packed weights and BAKED=0")
        # Each use has a key of its own: a page keeps them otherwise.
        use = "baked" if baked else "codes" if codes else "whole" if plain else "floats"
        operand, _ = matrix_operand(self.weights, whole if plain else by_rows, use)
        return graph_dispatch(
            "matmul_nbits",
            {"x": self.x, "packed": operand},
            self.outputs,
            chosen,
            ports={"x": Port("x", tuple(self.x.shape)), **opened_ports("packed", form, codes=codes, baked=baked)},
            attributes={"baked": int(baked)},
            form=form.constants(),
        )


def _tile(rows: int, *, quads: bool) -> dict[str, int]:
    """Return the tile where none is given: as large as makes up for the time to compile it.

    It is wide, since columns are what an element of x is read for, and the wider where that takes more: without quads.
    """
    if rows == 1:
        return {"TILE_ROWS": 1, "TILE_COLUMNS": 4 if quads else 8}
    if rows < _MANY_ROWS:
        return {}
    if not quads:
        return {"TILE_COLUMNS": 16}
    return {"TILE_COLUMNS": 8} if rows < _VERY_MANY_ROWS else {"TILE_ROWS": 8, "TILE_COLUMNS": 8, "STAGE": 32}


def _fitting(chosen: Mapping[str, int]) -> None:
    require_tile("matmul_nbits", chosen, _MOST_TILE)
    if chosen["QUADS"] and chosen["SPLIT"] > 1:
        raise ConfigurationError("kernel matmul_nbits: QUADS=1 goes with SPLIT=1, as quads stay together in a loop")
    if chosen["WORKGROUP"] // chosen["SPLIT"] < _QUAD:
        raise ConfigurationError(
            f"kernel matmul_nbits: SPLIT={chosen['SPLIT']} leaves fewer than {_QUAD} columns of a workgroup of "
            f"{chosen['WORKGROUP']}"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Piece:
    """What the template reads of a code: component ``part`` of vector ``word``, behind ``mask``, times ``factor``."""

    word: int
    part: str
    mask: int
    factor: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Code:
    """A code as the template reads it, 2^``shift`` times as large; ``reads`` are vectors that none before it needs."""

    code: int
    shift: int
    signed: bool
    pieces: tuple[_Piece, ...]
    reads: tuple[int, ...]


@functools.cache
def _codes(bits: int) -> Sequence[_Code]:
    """Return the codes of a block; of 32 bits they are words."""
    wide = width(bits)
    known: set[int] = set()
    codes = []
    for code, pieces in enumerate(slots(bits)):
        shift = pieces[0].shift
        made = tuple(
            _Piece(
                word=piece.word // wide,
                part=f".{'xyzw'[piece.word % wide]}" if wide > 1 else "",
                mask=((1 << piece.bits) - 1) << piece.shift,
                factor=1 << piece.start + shift - piece.shift,
            )
            for piece in pieces
        )
        reads = tuple(sorted({piece.word for piece in made} - known))
        known.update(reads)
        codes.append(_Code(code, shift, shift + pieces[0].bits == _WORD_BITS, made, reads))
    return tuple(codes)
