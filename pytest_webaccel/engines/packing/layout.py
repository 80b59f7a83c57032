"""How low-bit codes lie in 32-bit words. Pure.

Every block of 32 codes takes exactly as many words as a code has bits, so that a block begins on a word for any number
of bits and no kernel has to look across two blocks::

    2, 4, 8 bits   the codes one after the other, the first in the lowest bits of the first word: what the bytes of
                   ONNX's MatMulNBits hold, read as little-endian words
    3 bits         two words of the codes' lower two bits, packed as above, then one word of their highest bits,
                   that of code i in bit i

Three bits are three bits here: a code never lies in a four-bit container, and never across two words of one plane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BITS", "BLOCK", "GROUPS", "known_bits", "known_group", "pack", "unpack"]

#: Bits that a code may have.
BITS = (2, 3, 4, 8)
#: Codes that share one scale.
GROUPS = (32, 64, 128)
#: Codes that are packed together.
BLOCK = 32


def known_bits(bits: int) -> int:
    """Return ``bits``; raises ConfigurationError for a number of bits that cannot be packed."""
    if bits not in BITS:
        raise ConfigurationError(f"bits={bits!r} cannot be packed (known: {', '.join(map(str, BITS))})")
    return bits


def known_group(group: int) -> int:
    """Return ``group``; raises ConfigurationError for a size of groups that no kernel reads."""
    if group not in GROUPS:
        raise ConfigurationError(f"group={group!r} is no size of a group (known: {', '.join(map(str, GROUPS))})")
    return group


def pack(codes: NDArray[Any], bits: int) -> NDArray[np.uint32]:
    """Return ``codes``, integers from 0 to ``2**bits - 1`` of shape (..., n), packed into uint32 words.

    The shape is (..., n // 32 * bits); n is a multiple of 32. Raises ConfigurationError for codes that do not fit.
    """
    known_bits(bits)
    if codes.dtype.kind not in "iu":
        raise ConfigurationError(f"codes are integers, not {codes.dtype}")
    if codes.ndim == 0 or codes.shape[-1] % BLOCK:
        raise ConfigurationError(f"codes of shape {list(codes.shape)}: the last axis is a multiple of {BLOCK}")
    if codes.size and (codes.min() < 0 or codes.max() >= 1 << bits):
        raise ConfigurationError(f"codes from {codes.min()} to {codes.max()} do not fit into {bits} bits")
    *outer, length = codes.shape
    blocks = codes.astype(np.uint32).reshape(*outer, length // BLOCK, BLOCK)
    planes = [_stream(blocks >> np.uint32(shift), width) for shift, width in _planes(bits)]
    return np.ascontiguousarray(np.concatenate(planes, axis=-1).reshape(*outer, length // BLOCK * bits))


def unpack(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """Return the codes in ``words``, as :func:`pack` packed them: uint8 of shape (..., words // bits * 32)."""
    known_bits(bits)
    if words.dtype != np.uint32 or words.ndim == 0 or words.shape[-1] % bits:
        raise ConfigurationError(
            f"words of {words.dtype} and shape {list(words.shape)}: they are uint32, and the last axis is a multiple "
            f"of {bits}, the bits of a code"
        )
    *outer, length = words.shape
    blocks = words.reshape(*outer, length // bits, bits)
    codes = np.zeros((*blocks.shape[:-1], BLOCK), np.uint8)
    for shift, width in _planes(bits):
        codes |= _codes(blocks[..., shift : shift + width], width) << np.uint8(shift)
    return codes.reshape(*outer, length // bits * BLOCK)


def _planes(bits: int) -> tuple[tuple[int, int], ...]:
    """Return the planes of a code: from which bit on, and of how many bits; a block has as many words of each."""
    return ((0, 2), (2, 1)) if bits == 3 else ((0, bits),)


def _stream(blocks: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """Return the lowest ``bits`` of 32 codes one after the other, the first in the lowest bits."""
    each = 32 // bits
    parts = (blocks & np.uint32((1 << bits) - 1)).reshape(*blocks.shape[:-1], bits, each)
    shifts = np.arange(each, dtype=np.uint32) * np.uint32(bits)
    words: NDArray[np.uint32] = np.bitwise_or.reduce(parts << shifts, axis=-1)
    return words


def _codes(blocks: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    codes = (blocks[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(*blocks.shape[:-1], BLOCK)
