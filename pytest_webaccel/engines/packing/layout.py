"""How low-bit codes lie in 32-bit words. Pure.

Codes lie one after the other, the first in the lowest bits of the first word. Every block of 32 codes takes exactly as
many words as a code has bits, so that a block begins on a word for any number of bits and no kernel has to look across
two blocks. For 2, 4 and 8 bits these are the bytes of ONNX's MatMulNBits, read as little-endian words; of 3 bits, codes
10 and 21 of a block lie across two of its words. Three bits are three bits here, never in a container of four.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BITS", "BLOCK", "GROUPS", "Place", "known_bits", "known_group", "pack", "places", "unpack"]

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
    words = np.zeros((*outer, length // BLOCK, bits), np.uint32)
    for place in places(bits):
        words[..., place.word] |= blocks[..., place.code] << np.uint32(place.shift)
        if place.crosses:
            words[..., place.word + 1] |= blocks[..., place.code] >> np.uint32(BLOCK - place.shift)
    return words.reshape(*outer, length // BLOCK * bits)


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
    codes = np.empty((*blocks.shape[:-1], BLOCK), np.uint8)
    for place in places(bits):
        code = blocks[..., place.word] >> np.uint32(place.shift)
        if place.crosses:
            code = code | blocks[..., place.word + 1] << np.uint32(BLOCK - place.shift)
        codes[..., place.code] = code & np.uint32((1 << bits) - 1)
    return codes.reshape(*outer, length // bits * BLOCK)


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a code of a block lies: from bit ``shift`` of ``word`` on, in the next word too where it ``crosses``."""

    code: int
    word: int
    shift: int
    crosses: bool


@functools.cache
def places(bits: int) -> tuple[Place, ...]:
    """Return where each of the 32 codes of a block lies."""
    firsts = ((code, *divmod(code * bits, BLOCK)) for code in range(BLOCK))
    return tuple(Place(code, word, shift, shift + bits > BLOCK) for code, word, shift in firsts)
