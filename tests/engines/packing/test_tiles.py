"""Codes in tiles: each comes back from where its kernel looks for it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_webaccel.engines.packing.tiles import TILE, code_tiles, tiles


def code_at(packed: np.ndarray, bits: int, row: int, column: int) -> int:
    """Read one code, as ``codes_of`` and ``differences`` of ``matmul_nbits.c`` do for 16 rows."""
    vectors = packed[row // TILE, column // 8]
    within = row % TILE
    byte = within // 8 * 8 + within % 4 * 2 + within // 4 % 2
    place = column % 8
    if bits == 3 and place >= 6:
        return int(vectors[place - 6, byte] >> 6 | (vectors[2, byte] >> (3 if place == 6 else 7) & 1) << 2)
    each = 2 if bits == 3 else 8 // bits
    apart = 4 if (bits, place // each) == (3, 2) else bits
    return int(vectors[place // each, byte] >> (place % each * apart) & (2**bits - 1))


@settings(deadline=None)
@given(st.sampled_from([2, 3, 4, 8]), st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**32))
def test_codes_lie_where_their_kernel_looks(bits, rows, blocks, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, blocks * 8), np.uint8)
    packed = code_tiles(codes, bits)
    assert packed.shape == (-(-rows // TILE), blocks, bits, TILE)
    found = [[code_at(packed, bits, row, column) for column in range(blocks * 8)] for row in range(rows)]
    np.testing.assert_array_equal(found, codes)


def test_rows_that_there_are_not_are_zeros():
    found = tiles(np.arange(1, 35).reshape(17, 2))
    assert found.shape == (2, 2, TILE)
    assert found[1].tolist() == [[33] + [0] * 15, [34] + [0] * 15]
