"""Weights as low-bit codes: how far off, how large, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pytest_webaccel.engines.packing import BITS, GROUPS, Packed, Search, quantise
from pytest_webaccel.errors import ConfigurationError, FeedError

matrices = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 140)),
    elements=st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, 1e-42, -1e-42, 1e-7, 1e4, -1e4]),
)


def by_column(packed: Packed) -> np.ndarray:
    return np.repeat(np.abs(packed.scales.astype(np.float32)), packed.group, axis=1)[:, : packed.columns]


@given(matrices, st.sampled_from(BITS), st.sampled_from(GROUPS), st.booleans(), st.sampled_from(["f2", "f4"]))
@settings(deadline=None)
def test_no_weight_is_further_off_than_one_level(weights, bits, group, zero_points, kind):
    packed = quantise(weights, bits, group=group, zero_points=zero_points, scales=kind, search=Search.NEAREST)
    off = np.abs(packed.dequantised() - weights)
    # a scale that its type rounds to nothing takes the group's weights along; its rounding else is one in 2^11
    least = np.float32(2**-24 if kind == "f2" else 0) * (1 << bits)
    assert (off <= by_column(packed) * (1 + 2.0 ** (bits - 10)) + least + 1e-30).all()


@given(matrices, st.sampled_from(BITS), st.booleans())
@settings(deadline=None)
def test_the_search_is_never_worse_than_the_nearest_and_both_keep_the_form(weights, bits, zero_points):
    found = {search: quantise(weights, bits, zero_points=zero_points, search=search) for search in Search}
    errors = {
        search: np.square(packed.dequantised().astype(np.float64) - weights).sum() for search, packed in found.items()
    }
    assert errors[Search.MSE] <= errors[Search.NEAREST] * (1 + 1e-9)
    assert {(one.rows, one.columns, one.nbytes) for one in found.values()} == {
        (*weights.shape, found[Search.MSE].nbytes)
    }


@given(matrices, st.sampled_from(BITS))
@settings(deadline=None)
def test_what_codes_stand_for_is_quantised_to_itself(weights, bits):
    once = quantise(weights, bits, scales=np.float32, search=Search.NEAREST).dequantised()
    again = quantise(once, bits, scales=np.float32, search=Search.NEAREST).dequantised()
    np.testing.assert_allclose(again, once, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize(("bits", "group"), [(bits, group) for bits in BITS for group in GROUPS])
def test_effective_bits_count_scales_and_zeros_and_what_fills_up_the_last_group(bits, group):
    weights = np.random.default_rng(1).standard_normal((8, 2 * group)).astype(np.float32)
    assert quantise(weights, bits, group=group).effective_bits == bits + 16 / group
    with_zeros = quantise(weights, bits, group=group, zero_points=True, scales=np.float32)
    assert with_zeros.effective_bits == bits + (32 + 8) / group
    short = quantise(weights[:, : group + 1], bits, group=group)
    assert short.effective_bits == pytest.approx((bits + 16 / group) * 2 * group / (group + 1))


def test_more_bits_are_closer_and_the_search_pays():
    weights = np.random.default_rng(2).standard_normal((64, 256)).astype(np.float32)

    def nmse(bits: int, search: Search) -> float:
        off = quantise(weights, bits, search=search).dequantised() - weights
        return float(np.square(off).sum() / np.square(weights).sum())

    found = {search: [nmse(bits, search) for bits in BITS] for search in Search}
    for errors in found.values():
        assert errors == sorted(errors, reverse=True)
    gains = [near / best for near, best in zip(found[Search.NEAREST], found[Search.MSE], strict=True)]
    assert min(gains) > 1.05


def test_nothing_but_zeros_and_denormals_stay_finite():
    for value in (0.0, 1e-45, 1e-40):
        packed = quantise(np.full((2, 40), value, np.float32), 3)
        assert np.isfinite(packed.dequantised()).all()
    assert not quantise(np.zeros((1, 32), np.float32), 2).dequantised().any()


@pytest.mark.parametrize(
    ("weights", "options", "kind", "words"),
    [
        (np.zeros((2, 32), np.float32), {"bits": 5}, ConfigurationError, r"bits=5.*known: 2, 3, 4, 8"),
        (np.zeros((2, 32), np.float32), {"bits": 4, "group": 48}, ConfigurationError, r"group=48.*32, 64, 128"),
        (np.zeros((2, 32), np.float32), {"bits": 4, "scales": np.float64}, ConfigurationError, r"float16 or float32"),
        (np.zeros(32, np.float32), {"bits": 4}, FeedError, r"a matrix of floats, not float32 of shape \[32\]"),
        (np.zeros((0, 32), np.float32), {"bits": 4}, FeedError, r"shape \[0, 32\]"),
        (np.zeros((2, 32), np.int32), {"bits": 4}, FeedError, r"not int32"),
        (np.full((2, 32), 1e9, np.float32), {"bits": 4}, FeedError, r"1e\+09.*float16 cannot hold.*scales=float32"),
    ],
)
def test_what_cannot_be_quantised_is_refused(weights, options, kind, words):
    with pytest.raises(kind, match=words):
        quantise(weights, **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_no_code_can_stand_for_is_named(bad):
    weights = np.zeros((3, 40), np.float32)
    weights[1, 33] = bad
    with pytest.raises(FeedError, match=r"1 elements that are NaN or infinite, the first at row 1, column 33"):
        quantise(weights, 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": 7}, r"bits=7"),
        ({"columns": 0}, r"columns=0"),
        ({"columns": 65}, r"scales are float16 or float32 of shape \[2, 3\]"),
        ({"scales": np.zeros((2, 2))}, r"not float64"),
        ({"words": np.zeros((2, 7), np.uint32)}, r"words are uint32 of shape \[2, 8\]"),
        ({"zeros": np.zeros((2, 1), np.uint8)}, r"zeros are uint8 of shape \[2, 2\]"),
        ({"zeros": np.full((2, 2), 16, np.uint8)}, r"a zero of 16 does not fit into 4 bits"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes, words):
    good = quantise(np.ones((2, 64), np.float32), 4)
    with pytest.raises(ConfigurationError, match=words):
        dataclasses.replace(good, **changes)
