"""How low-bit codes lie for a processor that computes 16 rows of weights at once. Pure.

A tile is 16 rows. Eight codes of each of them, side by side along its columns, take as many vectors of 16 bytes as a
code has bits; a byte belongs to one row. Of 4 and 2 bits, codes lie in a byte one after the other, the first in its
lowest bits. Of 3 bits, each of three bytes has two codes so, and what is left of them has the last two: their lower
bits in the first and the second, their highest bits in the third, each behind one of its codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TILE", "code_tiles", "tiles"]

#: Rows of a tile.
TILE = 16
#: Codes of a row that are packed together.
_PLACES = 8
#: Rows of a tile in the order of its bytes: of each pair of bytes one goes to the lower four of eight rows, one to the
#: upper.
_ORDER = (0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15)


def tiles(values: NDArray[Any]) -> NDArray[Any]:
    """Return values of shape (rows, n) as (tiles, n, 16), with zeros for rows that there are not."""
    rows, length = values.shape
    count = -(-rows // TILE)
    filled = np.zeros((count * TILE, length), values.dtype)
    filled[:rows] = values
    return filled.reshape(count, TILE, length).transpose(0, 2, 1)


def code_tiles(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return codes of shape (rows, n), n a multiple of 8, packed as bytes of shape (tiles, n // 8, bits, 16)."""
    whole = tiles(codes)[..., _ORDER]
    at = np.moveaxis(whole.reshape(len(whole), -1, _PLACES, TILE), 2, 0)  # (8, tiles, n // 8, 16)
    if bits == 3:
        last, highest = at[6] >> 2, at[7] >> 2
        vectors = [
            at[0] | at[1] << 3 | at[6] << 6,
            at[2] | at[3] << 3 | at[7] << 6,
            at[4] | last << 3 | at[5] << 4 | highest << 7,
        ]
    else:
        each = _PLACES // bits
        vectors = [
            np.bitwise_or.reduce([at[vector * each + place] << (place * bits) for place in range(each)])
            for vector in range(bits)
        ]
    return np.stack(vectors, axis=2).astype(np.uint8)
