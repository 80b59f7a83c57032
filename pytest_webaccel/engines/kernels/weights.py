"""Weights as kernels bind them, sent with a program or kept on the device."""

from __future__ import annotations

import dataclasses
import functools
import uuid
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np

from pytest_webaccel.engines.kernels.dispatch import Constant
from pytest_webaccel.engines.kernels.program import require
from pytest_webaccel.engines.packing import Packed
from pytest_webaccel.engines.packing.layout import BLOCK, unpack
from pytest_webaccel.engines.packing.tiles import code_tiles, tiles
from pytest_webaccel.errors import FeedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.dispatch import Operand

__all__ = [
    "FLOAT_BITS",
    "Form",
    "Matrix",
    "Resident",
    "Weights",
    "Words",
    "array_operand",
    "by_bytes",
    "by_columns",
    "by_quads",
    "by_rows",
    "by_tiles",
    "byte_slots",
    "matrix_form",
    "matrix_operand",
    "slots",
    "whole",
    "width",
]

T = TypeVar("T")

#: A matrix of weights, packed or float32.
Weights: TypeAlias = "Packed | NDArray[Any]"
#: The same, sent with a program or kept on the device.
Matrix: TypeAlias = "Weights | Resident[Packed] | Resident[NDArray[Any]]"

#: Bits of weights that are not packed.
FLOAT_BITS = 32


@dataclasses.dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Resident(Generic[T]):
    """Weights, an array or :class:`~pytest_webaccel.engines.packing.Packed`, that stay on a lane's device.

    They are sent at their first use and freed when the test ends, or with the next computation once nobody holds them;
    a lane that was mended gets them again. They must not be changed meanwhile.
    """

    value: T
    key: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    _forms: dict[str, Words] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def form(self, name: str, made: Callable[[T], Words]) -> tuple[Constant, Words]:
        """Return them as ``made`` lays them out, made once."""
        if name not in self._forms:
            self._forms[name] = made(self.value)
        words = self._forms[name]
        return Constant(f"{self.key}-{name}", words.data, self), words


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Words:
    """Words of one buffer, and from which word on the scales and the zeros lie."""

    data: NDArray[Any]
    scales: int = 0
    zeros: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """How a matrix of weights is kept: ``rows`` x ``columns``, 32 bits for plain floats; see :class:`Packed`."""

    bits: int
    group: int
    rows: int
    columns: int
    groups: int
    scale_bits: int = 32
    has_zeros: bool = False

    @classmethod
    def of(cls, weights: Packed | NDArray[Any]) -> Form:
        """Return that of ``weights``."""
        if isinstance(weights, Packed):
            bits = weights.scales.dtype.itemsize * 8
            zeros = weights.zeros is not None
            return cls(weights.bits, weights.group, weights.rows, weights.columns, weights.groups, bits, zeros)
        rows, columns = weights.shape
        return cls(FLOAT_BITS, BLOCK, rows, columns, -(-columns // BLOCK))

    def constants(self) -> dict[str, int]:
        """Return the constants that tell kernels of it."""
        told = {"BITS": self.bits, "GROUP": self.group, "SCALE_BITS": self.scale_bits}
        return {**told, "HAS_ZEROS": int(self.has_zeros)}


def matrix_form(name: str, given: Matrix) -> Form:
    """Return how a matrix of weights is kept; raises FeedError for what is neither packed nor float32 of two axes."""
    value = given.value if isinstance(given, Resident) else given
    require((Packed, np.ndarray), **{name: value})
    if isinstance(value, np.ndarray) and (value.dtype != np.float32 or value.ndim != 2 or not value.size):
        raise FeedError(
            f"{name} is Packed, or float32 of shape [rows, columns]; got {value.dtype} of shape {list(value.shape)}"
        )
    return Form.of(value)


def matrix_operand(given: Matrix, layout: Callable[[Any], Words], use: str = "") -> tuple[Operand, Words]:
    """Return what is bound for a matrix of weights, and where its parts lie.

    ``use`` tells apart what a page makes of one layout, by default the name of that.
    """
    if isinstance(given, Resident):
        constant, words = given.form(layout.__name__, layout)
        return Constant(f"{given.key}-{use or layout.__name__}", constant.data, given), words
    words = layout(given)
    return words.data, words


def array_operand(name: str, given: NDArray[Any] | Resident[NDArray[Any]]) -> tuple[NDArray[Any], Operand]:
    """Return an array of weights, and what is bound for it; raises FeedError for anything else."""
    if isinstance(given, Resident):
        require(np.ndarray, **{name: given.value})
        return given.value, given.form(whole.__name__, whole)[0]
    require(np.ndarray, **{name: given})
    return given, given


def whole(array: NDArray[Any]) -> Words:
    """Return an array as it is."""
    return Words(np.ascontiguousarray(array))


def by_rows(*parts: Weights) -> Words:
    """Return weights row by row (``kernels/shared/packed.wgsl``).

    Of several parts of one form the codes of all come first, then the scales of all, then the zeros.
    """
    packed = [part for part in parts if isinstance(part, Packed)]
    return _words(
        [part.words if isinstance(part, Packed) else _floats(part) for part in parts],
        [part.scales for part in packed],
        [part.zeros for part in packed if part.zeros is not None],
    )


def by_columns(weights: Weights) -> Words:
    """Return weights with what rows have at one place side by side: neighbours in a workgroup read neighbours.

    Codes lie in :func:`slots`, as vectors of :func:`width` words. Two groups share a word of scales where these are
    float16, four groups one of zeros.
    """
    return _columns(weights, slots, quads=False)


def by_quads(weights: Weights) -> Words:
    """Return them as :func:`by_columns`, with codes in the order in which four invocations swap what they read of x.

    Of row n of the weights the code at ``p ^ (n % 4 * 4)`` of a block is in slot ``p``.
    """
    return _columns(weights, slots, quads=True)


def by_bytes(weights: Packed) -> Words:
    """Return them side by side as :func:`by_columns`, with codes in :func:`byte_slots`."""
    return _columns(weights, byte_slots, quads=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Bits of a code: ``bits`` of them, from bit ``start`` of the code on, from bit ``shift`` of ``word`` on."""

    word: int
    shift: int
    bits: int
    start: int = 0


@functools.cache
def slots(bits: int) -> tuple[tuple[Piece, ...], ...]:
    """Return where :func:`by_columns` puts each of the 32 codes of a block.

    No code crosses words, except that of 3 bits two lie in what ten codes a word leave free. What four invocations swap
    has one place in different words where that is possible, since ``x`` is made smaller by it before. The uppermost bit
    of every word is inverted, so that the code there is a signed number.
    """
    return tuple(_slot(bits, code) for code in range(BLOCK))


def _slot(bits: int, code: int) -> tuple[Piece, ...]:
    half, turn, part = code // 16, code // 4 % 4, code % 4
    place = 4 * half + part
    if bits == 2:
        return (Piece(turn % 2, 2 * (8 * (turn // 2) + place), 2),)
    if bits == 3 and turn < 3:
        return (Piece(turn, 2 + 3 * place, 3),)
    if bits == 3 and place < 6:
        return (Piece(place // 2, 2 + 3 * (8 + place % 2), 3),)
    if bits == 3:
        return (Piece(place - 6, 0, 2), Piece(2, place - 6, 1, start=2))
    if bits == 4:
        return (Piece(turn, 4 * place, 4),)
    if bits == 8:
        return (Piece(4 * half + turn, 8 * part, 8),)
    return (Piece(code, 0, bits),)


@functools.cache
def byte_slots(bits: int) -> tuple[tuple[Piece, ...], ...]:
    """Return where :func:`by_bytes` puts each of the 32 codes of a block: four neighbours in the four bytes of a word.

    Of 3 bits the two lower ones lie as codes of 2 bits do, the uppermost in a word of their own. Of 8 bits the
    uppermost is inverted, so that a byte is a signed number.
    """
    return tuple(_byte_slot(bits, code // 4, 8 * (code % 4)) for code in range(BLOCK))


def _byte_slot(bits: int, quad: int, byte: int) -> tuple[Piece, ...]:
    if bits == 3:
        return (*_byte_slot(2, quad, byte), Piece(2, byte + quad, 1, start=2))
    each = 8 // bits
    return (Piece(quad // each, byte + bits * (quad % each), bits),)


def width(bits: int) -> int:
    """Return how many words of a row lie side by side, to be read at once."""
    return {2: 2, 3: 1}.get(bits, 4)


def _columns(weights: Weights, where: Callable[[int], Sequence[Sequence[Piece]]], *, quads: bool) -> Words:
    if not isinstance(weights, Packed):
        words = _floats(weights)
        return _words([_side_by_side(_turned(words.reshape(len(words), -1, BLOCK), quads), FLOAT_BITS)], [], [])
    codes = _turned(unpack(weights.words, weights.bits).reshape(weights.rows, -1, BLOCK), quads)
    words = np.zeros((*codes.shape[:2], weights.bits), np.uint32)
    for code, pieces in enumerate(where(weights.bits)):
        for piece in pieces:
            bits = codes[..., code].astype(np.uint32) >> np.uint32(piece.start) & np.uint32((1 << piece.bits) - 1)
            words[..., piece.word] |= bits << np.uint32(piece.shift)
    scales = weights.scales.T if weights.scales.itemsize == 4 else _together(weights.scales, 2)
    zeros = [] if weights.zeros is None else [_together(weights.zeros, 4)]
    return _words([_side_by_side(words ^ np.uint32(_inverted(weights.bits, where)), weights.bits)], [scales], zeros)


def _inverted(bits: int, where: Callable[[int], Sequence[Sequence[Piece]]]) -> int:
    """Return the bits of a word that are inverted."""
    if where is slots:
        return 1 << 31
    return 0x80808080 if bits == 8 else 0


def _turned(blocks: NDArray[Any], quads: bool) -> NDArray[Any]:
    """Return blocks of codes, (rows, blocks, 32), in the order of :func:`by_quads` where ``quads``."""
    if not quads:
        return blocks
    turned = np.empty_like(blocks)
    for lane in range(4):
        turned[lane::4] = blocks[lane::4, :, np.arange(BLOCK) ^ 4 * lane]
    return turned


def _side_by_side(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """Return words of blocks, (rows, blocks, words), as (blocks, vectors, rows, words of a vector)."""
    rows, blocks, count = words.shape
    return words.reshape(rows, blocks, count // width(bits), width(bits)).transpose(1, 2, 0, 3)


def _together(array: NDArray[Any], count: int) -> NDArray[Any]:
    """Return what rows have of each group, (rows, groups), as (groups / count, rows, count), filled up with zeros."""
    rows, groups = array.shape
    filled = np.zeros((rows, -(-groups // count) * count), array.dtype)
    filled[:, :groups] = array
    return filled.reshape(rows, -1, count).transpose(1, 0, 2)


def by_tiles(weights: Weights) -> Words:
    """Return weights 16 rows side by side (``kernels/matmul_nbits/matmul_nbits.c``)."""
    if not isinstance(weights, Packed):
        return _words([tiles(_floats(weights))], [], [])
    zeros = [] if weights.zeros is None else [tiles(weights.zeros)]
    return _words([code_tiles(unpack(weights.words, weights.bits), weights.bits)], [tiles(weights.scales)], zeros)


def _floats(weights: NDArray[Any]) -> NDArray[np.uint32]:
    """Return float32 weights as words, each row filled up with zeros to whole blocks."""
    rows, columns = weights.shape
    filled = np.zeros((rows, -(-columns // BLOCK) * BLOCK), np.float32)
    filled[:, :columns] = weights
    return filled.view(np.uint32)


def _words(codes: list[NDArray[Any]], scales: list[NDArray[Any]], zeros: list[NDArray[Any]]) -> Words:
    parts = [
        _filled(np.concatenate([one.reshape(-1) for one in part])) if part else np.zeros(0, np.uint32)
        for part in (codes, scales, zeros)
    ]
    return Words(np.concatenate(parts), len(parts[0]), len(parts[0]) + len(parts[1]))


def _filled(array: NDArray[Any]) -> NDArray[np.uint32]:
    """Return the bytes of ``array`` as words, filled up with zeros."""
    data = np.ascontiguousarray(array).tobytes()
    return np.frombuffer(data.ljust(-(-len(data) // 4) * 4, b"\0"), "<u4").astype(np.uint32)
