"""The product of low-bit weights and activations that are rounded before: ``kernels/matmul_rounded``."""

from __future__ import annotations

import dataclasses
import enum
import functools
from typing import TYPE_CHECKING

import numpy as np

from pytest_webaccel.engines.kernels.dispatch import Dispatch
from pytest_webaccel.engines.kernels.gpu import on_webgpu, require_tile
from pytest_webaccel.engines.kernels.manifest import manifest
from pytest_webaccel.engines.kernels.program import Output, Program, require
from pytest_webaccel.engines.kernels.weights import Resident, by_bytes, byte_slots, matrix_form, matrix_operand, width
from pytest_webaccel.engines.packing import Packed
from pytest_webaccel.engines.packing.layout import BLOCK
from pytest_webaccel.errors import ConfigurationError, FeedError
from pytest_webaccel.terms import Backend
from pytest_webaccel.words import pick

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.dispatch import Target
    from pytest_webaccel.engines.kernels.program import Floats, Tensor
    from pytest_webaccel.engines.kernels.weights import Matrix

__all__ = ["Activations", "matmul_rounded", "round_activations", "rounded"]

#: Elements of a tile that an invocation keeps.
_MOST_TILE = 32
#: Below this a block is taken for nothing.
_SMALLEST = 1e-35


class Activations(enum.StrEnum):
    """What the activations of a product are rounded to, block by block, before they are multiplied."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"

    @classmethod
    def named(cls, text: str) -> Activations:
        """Return those of a name; raises FeedError for what is no text, ConfigurationError for an unknown one."""
        require(str, activations=text)
        try:
            return pick(cls, text, "activations")
        except ValueError as error:
            raise ConfigurationError(str(error)) from None

    @property
    def bits(self) -> int:
        """Bits of a value."""
        return {"float32": 32, "float16": 16, "int8": 8}[self.value]


#: What the device must have to multiply them as they are.
_NATIVE = {Activations.INT8: "packed_4x8_integer_dot_product", Activations.FLOAT16: "shader-f16"}


def rounded(x: NDArray[np.float32], activations: Activations) -> NDArray[np.float64]:
    """Return finite ``x``, float32 of shape (rows, k), as it is once it is rounded."""
    rows, k = x.shape
    blocks = np.zeros((rows, -(-k // BLOCK), BLOCK))
    blocks.reshape(rows, -1)[:, :k] = x
    largest = np.abs(blocks).max(-1, keepdims=True)
    nothing = largest < _SMALLEST
    largest = np.where(nothing, 1, largest)
    if activations is Activations.INT8:
        # as the shader does it, in float32
        factor = (np.float32(127) / largest.astype(np.float32)).view(np.uint32) & np.uint32(0xFFFFF000)
        scale = 1 / factor.view(np.float32).astype(np.float64)
        values = np.rint(blocks.astype(np.float32) * factor.view(np.float32)).astype(np.float64)
    else:
        scale = np.exp2(np.floor(np.log2(largest)))
        values = (blocks / scale).astype(np.float16).astype(np.float64)
    return np.asarray(np.where(nothing, 0, values * scale).reshape(rows, -1)[:, :k], np.float64)


def round_activations(x: Floats, activations: Activations, *, constants: Mapping[str, int] | None = None) -> Program:
    """Return the program of ``x``, float32 of shape (rows, k), rounded block by block: ``values`` and ``scales``.

    ``values`` are words, uint32 of shape (rows, blocks, bits), of four int8 or two float16 each, and ``scales`` float32
    of shape (rows, blocks, 2): the scale of a block, and that times the sum of its values.
    """
    rows, k = x.shape
    blocks = -(-k // BLOCK)
    outputs = {
        "values": Output("uint32", (rows, blocks, activations.bits)),
        "scales": Output("float32", (rows, blocks, 2)),
    }
    uniform, form = (rows * blocks, k, blocks), {"ACTIVATION_BITS": activations.bits}

    def webgpu(target: Target, given: Mapping[str, int]) -> Dispatch:
        return on_webgpu("round_activations", target, {"x": x}, outputs, uniform, form, given)

    def elsewhere(target: Target, given: Mapping[str, int]) -> Dispatch:
        del given
        raise ConfigurationError(
            f"kernel matmul_nbits: activations={activations} go with webgpu, not with {target.backend}: there leave "
            f"activations out, and x stays float32"
        )

    ways = {Backend.WEBGPU: webgpu, Backend.CPU: elsewhere, Backend.WEBNN: elsewhere}
    return Program("round_activations", {"x": x}, outputs, ways, constants or {})


def matmul_rounded(
    x: Floats, weights: Matrix, activations: Activations, *, constants: Mapping[str, int] | None = None
) -> Program:
    """Return the program of ``rounded(x, activations) @ weights.dequantised().T``, as ``y``.

    ``x`` is float32 of shape (rows, k), ``weights`` are n packed rows of k. Raises FeedError for weights that are not
    packed.
    """
    form = matrix_form("weights", weights)
    if not isinstance(weights.value if isinstance(weights, Resident) else weights, Packed):
        raise FeedError(f"activations={activations} go with weights that are Packed: float32 ones take float32")
    program = round_activations(x, activations)
    values, scales = program["values"], program["scales"]
    rows, blocks, _ = values.shape
    outputs = {"y": Output("float32", (rows, form.rows))}
    native = _NATIVE[activations]

    def webgpu(target: Target, given: Mapping[str, int]) -> Dispatch:
        made = manifest("matmul_rounded")
        untuned = {"NATIVE": int(native in target.features)} | ({"TILE_ROWS": 1} if rows == 1 else {})
        chosen = made.constants({**untuned, **given})
        require_tile("matmul_rounded", chosen, _MOST_TILE)
        operand, words = matrix_operand(weights, by_bytes)
        across = chosen["WORKGROUP"] // chosen["SPLIT"] * chosen["TILE_COLUMNS"]
        told = {"ACTIVATION_BITS": activations.bits, **form.constants()}
        return Dispatch(
            kernel=made.name,
            source=made.digest,
            code=made.rendered(**chosen, **told, QUADS=_quads(form.bits), WORDS=form.bits, WIDTH=width(form.bits)),
            entry=made.entry,
            constants={},
            bindings=("x", "scales", "packed", "y", "uniform", "packed"),
            inputs={"x": values, "scales": scales, "packed": operand},
            outputs=outputs,
            uniform=(rows, form.rows, blocks, form.groups, words.scales, words.zeros),
            workgroups=(-(-form.rows // across), -(-rows // chosen["TILE_ROWS"]), 1),
            chosen=chosen,
            form=told,
            needs=(native,) if chosen["NATIVE"] else (),
        )

    inputs: dict[str, Tensor | Matrix] = {"x": values, "scales": scales, "weights": weights}
    return Program("matmul_rounded", inputs, outputs, {Backend.WEBGPU: webgpu}, constants or {})


@dataclasses.dataclass(frozen=True, slots=True)
class _Piece:
    """What the template reads of four codes at once: of a word, shifted right, behind a mask, shifted left."""

    word: int
    part: str
    shift: int
    mask: int
    start: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Quad:
    """Four codes of a block as the bytes of a word."""

    quad: int
    pieces: tuple[_Piece, ...]


@functools.cache
def _quads(bits: int) -> Sequence[_Quad]:
    wide = width(bits)
    where = byte_slots(bits)
    return tuple(
        _Quad(
            quad,
            tuple(
                _Piece(
                    word=piece.word // wide,
                    part=f".{'xyzw'[piece.word % wide]}" if wide > 1 else "",
                    shift=piece.shift,
                    mask=((1 << piece.bits) - 1) * 0x01010101,
                    start=piece.start,
                )
                for piece in where[4 * quad]
            ),
        )
        for quad in range(BLOCK // 4)
    )
