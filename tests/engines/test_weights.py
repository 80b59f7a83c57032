"""How weights lie on the device: every code comes back from the slots that kernels read it from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_webaccel.engines.kernels.weights import by_bytes, by_columns, by_quads, byte_slots, slots, width
from pytest_webaccel.engines.packing import Packed, Search, quantise
from pytest_webaccel.engines.packing.layout import BITS, BLOCK, unpack


@pytest.mark.parametrize("where", [slots, byte_slots])
@pytest.mark.parametrize("bits", BITS)
def test_slots_take_every_bit_of_a_block_once_and_every_bit_of_a_code(bits, where):
    taken = [(piece.word, piece.shift + bit) for pieces in where(bits) for piece in pieces for bit in range(piece.bits)]
    assert sorted(taken) == [(word, bit) for word in range(bits) for bit in range(BLOCK)]
    for pieces in where(bits):
        assert [bit for piece in pieces for bit in range(piece.start, piece.start + piece.bits)] == list(range(bits))


@pytest.mark.parametrize("bits", BITS)
def test_four_neighbours_lie_in_the_bytes_of_a_word(bits):
    for first in range(0, BLOCK, 4):
        for byte in range(4):
            pieces, low = byte_slots(bits)[first + byte], byte_slots(bits)[first]
            assert [(one.word, one.shift - 8 * byte) for one in pieces] == [(one.word, one.shift) for one in low]
            assert all(8 * byte <= one.shift and one.shift + one.bits <= 8 * byte + 8 for one in pieces)


def read(words: np.ndarray, bits: int, rows: int, where=slots, inverted: int = 1 << 31) -> np.ndarray:
    """Return the codes of each row as a kernel finds them, (rows, blocks, 32); of words some bits are inverted."""
    wide = width(bits)
    vectors = words.reshape(-1, bits // wide, rows, wide)
    codes = np.zeros((rows, len(vectors), BLOCK), np.uint32)
    for code, pieces in enumerate(where(bits)):
        for piece in pieces:
            word = vectors[:, piece.word // wide, :, piece.word % wide].T ^ np.uint32(inverted)
            codes[..., code] |= (word >> np.uint32(piece.shift) & np.uint32((1 << piece.bits) - 1)) << np.uint32(
                piece.start
            )
    return codes


def drawn(bits: int, rows: int, columns: int, *, zero_points: bool, scales: str) -> Packed:
    chance = np.random.default_rng([bits, rows, columns])
    weights = chance.standard_normal((rows, columns)).astype(np.float32)
    return quantise(weights, bits, zero_points=zero_points, scales=scales, search=Search.NEAREST)


@settings(deadline=None)
@given(
    bits=st.sampled_from(BITS),
    rows=st.integers(1, 9),
    columns=st.integers(1, 170),
    zero_points=st.booleans(),
    scales=st.sampled_from(["f2", "f4"]),
)
def test_codes_scales_and_zeros_come_back(bits, rows, columns, zero_points, scales):
    weights = drawn(bits, rows, columns, zero_points=zero_points, scales=scales)
    plain, turned = by_columns(weights), by_quads(weights)
    codes = unpack(weights.words, bits).reshape(rows, -1, BLOCK)
    np.testing.assert_array_equal(read(plain.data[: plain.scales], bits, rows), codes)
    quads = read(turned.data[: turned.scales], bits, rows)
    for row in range(rows):
        np.testing.assert_array_equal(quads[row][:, np.arange(BLOCK) ^ row % 4 * 4], codes[row])
    np.testing.assert_array_equal(plain.data[plain.scales :], turned.data[turned.scales :])
    bytewise = by_bytes(weights)
    found = read(bytewise.data[: bytewise.scales], bits, rows, byte_slots, 0x80808080 if bits == 8 else 0)
    np.testing.assert_array_equal(found, codes)
    np.testing.assert_array_equal(plain.data[plain.scales :], bytewise.data[bytewise.scales :])

    kept = plain.data[plain.scales : plain.zeros]
    if scales == "f4":
        np.testing.assert_array_equal(kept.view(np.float32).reshape(-1, rows).T, weights.scales)
    else:
        pairs = kept.view(np.float16).reshape(-1, rows, 2).transpose(1, 0, 2).reshape(rows, -1)
        np.testing.assert_array_equal(pairs[:, : weights.groups], weights.scales)
    if zero_points:
        zeros = plain.data[plain.zeros :].view(np.uint8).reshape(-1, rows, 4).transpose(1, 0, 2).reshape(rows, -1)
        np.testing.assert_array_equal(zeros[:, : weights.groups], weights.zeros)


@given(rows=st.integers(1, 9), columns=st.integers(1, 70))
def test_plain_floats_come_back(rows, columns):
    weights = np.random.default_rng([rows, columns]).standard_normal((rows, columns)).astype(np.float32)
    for layout in (by_columns, by_quads):
        found = (
            layout(weights).data.view(np.float32).reshape(-1, 8, rows, 4).transpose(2, 0, 1, 3).reshape(rows, -1, BLOCK)
        )
        for row in range(rows):
            places = np.arange(BLOCK) ^ (row % 4 * 4 if layout is by_quads else 0)
            np.testing.assert_array_equal(found[row][:, places].reshape(-1)[:columns], weights[row])
