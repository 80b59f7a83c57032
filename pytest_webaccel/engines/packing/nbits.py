"""Packed weights to and from the tensors of ONNX Runtime's operator ``MatMulNBits`` (domain ``com.microsoft``).

Its ``B`` is uint8 of shape (N, blocks, block_size * bits / 8), the codes one after the other from the lowest bits on:
the same bytes as our words. ``scales`` are (N * blocks), ``zero_points`` uint8 codes of ``bits`` bits packed along a
row's blocks, each row filled up to a whole byte. See ``docs/ContribOperators.md`` of onnxruntime.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.packing.layout import known_bits, known_group
from pytest_webaccel.engines.packing.packed import Packed
from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NBits", "from_matmul_nbits", "to_matmul_nbits"]

#: Bits that the operator has.
_BITS = (2, 4, 8)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class NBits:
    """What ``MatMulNBits`` takes: the tensors ``B``, ``scales`` and ``zero_points`` and the attributes."""

    k: int
    n: int
    bits: int
    block_size: int
    b: NDArray[np.uint8]
    scales: NDArray[Any]
    zero_points: NDArray[np.uint8] | None = None

    @property
    def attributes(self) -> dict[str, int]:
        """The operator's attributes by name."""
        return {"K": self.k, "N": self.n, "bits": self.bits, "block_size": self.block_size}


def to_matmul_nbits(packed: Packed) -> NBits:
    """Return packed weights as the operator takes them; raises ConfigurationError for three bits, which it has not."""
    _has(packed.bits)
    words = packed.words.astype("<u4", copy=False)
    b = words.view(np.uint8).reshape(packed.rows, packed.groups, -1)
    zeros = None if packed.zeros is None else _narrow(packed.zeros, packed.bits)
    return NBits(packed.columns, packed.rows, packed.bits, packed.group, b, packed.scales.reshape(-1), zeros)


def from_matmul_nbits(given: NBits) -> Packed:
    """Return what the operator's tensors hold; raises ConfigurationError where they do not fit together."""
    _has(given.bits)
    known_group(given.block_size)
    groups = -(-given.k // given.block_size)
    size = given.block_size * given.bits // 8
    if given.b.dtype != np.uint8 or given.b.size != given.n * groups * size:
        raise ConfigurationError(
            f"B is uint8 with {given.n} x {groups} x {size} elements, not {given.b.dtype} of shape "
            f"{list(given.b.shape)}"
        )
    if given.scales.size != given.n * groups:
        raise ConfigurationError(f"scales are {given.n} x {groups}, not {given.scales.size} elements")
    words = np.ascontiguousarray(given.b).reshape(given.n, -1).view("<u4").astype(np.uint32, copy=False)
    zeros = None if given.zero_points is None else _wide(given.zero_points, given.bits, given.n, groups)
    return Packed(given.bits, given.block_size, given.k, words, given.scales.reshape(given.n, groups), zeros)


def _has(bits: int) -> None:
    if known_bits(bits) not in _BITS:
        raise ConfigurationError(f"MatMulNBits has no {bits} bits (it has {', '.join(map(str, _BITS))})")


def _narrow(zeros: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return zeros of ``bits`` bits each, row by row, each row filled up to a whole byte."""
    each = 8 // bits
    rows, groups = zeros.shape
    padded = np.zeros((rows, -(-groups // each) * each), np.uint8)
    padded[:, :groups] = zeros
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(padded.reshape(rows, -1, each) << shifts, axis=-1)
    return packed.reshape(-1)


def _wide(packed: NDArray[np.uint8], bits: int, rows: int, groups: int) -> NDArray[np.uint8]:
    each = 8 // bits
    if packed.dtype != np.uint8 or packed.size != rows * -(-groups // each):
        raise ConfigurationError(
            f"zero_points are uint8 with {rows} x {-(-groups // each)} elements, not {packed.dtype} of shape "
            f"{list(packed.shape)}"
        )
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    codes = (packed.reshape(rows, -1)[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.ascontiguousarray(codes.reshape(rows, -1)[:, :groups])
