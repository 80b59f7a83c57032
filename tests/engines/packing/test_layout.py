"""How codes lie in words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pytest_webaccel.engines.packing import BITS, pack, unpack
from pytest_webaccel.errors import ConfigurationError


@given(st.sampled_from(BITS), st.data())
def test_what_is_packed_is_unpacked_and_takes_no_bit_more(bits, data):
    shape = (data.draw(st.integers(1, 4)), 32 * data.draw(st.integers(0, 5)))
    codes = data.draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, (1 << bits) - 1)))
    words = pack(codes, bits)
    assert words.nbytes * 8 == codes.size * bits
    np.testing.assert_array_equal(unpack(words, bits), codes)


@given(arrays.arrays(np.uint32, st.tuples(st.integers(1, 3), st.sampled_from([24, 48]))), st.sampled_from(BITS))
def test_any_words_are_codes_and_packed_again_the_same(words, bits):
    np.testing.assert_array_equal(pack(unpack(words, bits), bits), words)


def test_the_first_code_is_in_the_lowest_bits():
    codes = np.zeros(32, np.uint8)
    codes[:3] = [1, 2, 3]
    assert pack(codes, 2)[0] == 1 | 2 << 2 | 3 << 4
    assert pack(codes, 4)[0] == 1 | 2 << 4 | 3 << 8
    assert pack(codes, 8)[0] == 1 | 2 << 8 | 3 << 16


def test_three_bits_lie_one_after_the_other_across_words():
    codes = np.zeros(32, np.uint8)
    codes[[0, 10, 21, 31]] = [0b101, 0b110, 0b011, 0b100]
    assert pack(codes, 3).tolist() == [0b101 | 0b10 << 30, 0b1 | 0b1 << 31, 0b01 | 0b100 << 29]


@pytest.mark.parametrize(
    ("codes", "bits", "words"),
    [
        (np.zeros(32, np.uint8), 5, r"bits=5 cannot be packed \(known: 2, 3, 4, 8\)"),
        (np.zeros(31, np.uint8), 4, r"the last axis is a multiple of 32"),
        (np.zeros(32, np.float32), 4, r"codes are integers"),
        (np.full(32, 4), 2, r"codes from 4 to 4 do not fit into 2 bits"),
        (np.full(32, -1), 2, r"codes from -1"),
    ],
)
def test_what_cannot_be_packed_is_refused(codes, bits, words):
    with pytest.raises(ConfigurationError, match=words):
        pack(codes, bits)


def test_words_that_are_none_are_refused():
    with pytest.raises(ConfigurationError, match="multiple of 3"):
        unpack(np.zeros(4, np.uint32), 3)
    with pytest.raises(ConfigurationError, match="they are uint32"):
        unpack(np.zeros(4, np.int32), 4)
