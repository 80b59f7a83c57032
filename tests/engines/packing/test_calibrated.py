"""Weights as low-bit codes by what they are multiplied with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_webaccel.engines.packing import BITS, GROUPS, Packed, calibrated, quantise
from pytest_webaccel.engines.packing.calibrated import output_error
from pytest_webaccel.errors import ConfigurationError, FeedError


def inputs(seed: int, samples: int, columns: int) -> np.ndarray:
    """Return inputs whose columns go together, as those of layers do."""
    chance = np.random.default_rng(seed)
    common = chance.standard_normal((samples, 4)) @ chance.standard_normal((4, columns))
    return common + 0.3 * chance.standard_normal((samples, columns))


@st.composite
def problems(draw):
    """Return weights and a gram matrix, of columns that fill no group, of dead columns, of few samples."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 150))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = chance.standard_normal((rows, columns)) * 10.0 ** draw(st.integers(-6, 3))
    weights[chance.random((rows, columns)) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
    x = inputs(draw(st.integers(0, 99)), draw(st.integers(1, 200)), columns) * 10.0 ** draw(st.integers(-6, 6))
    x[:, chance.random(columns) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 0
    return weights.astype(np.float32), x.T @ x


@given(problems(), st.sampled_from(BITS), st.sampled_from(GROUPS), st.booleans(), st.sampled_from(["f2", "f4"]))
@settings(deadline=None, max_examples=60)
def test_no_row_errs_more_than_rounded_alone_and_the_form_is_the_same(problem, bits, group, zero_points, kind):
    weights, gram = problem
    form = {"group": group, "zero_points": zero_points, "scales": kind}
    found, plain = calibrated(weights, gram, bits, **form), quantise(weights, bits, **form)
    assert isinstance(found, Packed)
    assert (found.bits, found.group, found.columns, found.nbytes) == (bits, group, weights.shape[1], plain.nbytes)
    assert found.scales.dtype == plain.scales.dtype
    assert (found.zeros is None) is not zero_points
    assert (output_error(weights, found, gram) <= output_error(weights, plain, gram)).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_where_inputs_go_together_most_of_the_error_is_made_up_for(bits):
    x = inputs(0, 2000, 128)
    weights = np.random.default_rng(1).standard_normal((64, 128)).astype(np.float32)
    unseen = inputs(0, 2000, 128)[::-1] + 0.1 * np.random.default_rng(2).standard_normal((2000, 128))
    off = [
        np.square(unseen @ (packed.dequantised() - weights).T).sum()
        for packed in (calibrated(weights, x.T @ x, bits), quantise(weights, bits))
    ]
    assert off[0] < 0.6 * off[1]


def test_the_error_is_that_of_the_outputs():
    x, weights = inputs(3, 50, 40), np.random.default_rng(3).standard_normal((5, 40)).astype(np.float32)
    packed = quantise(weights, 3)
    outputs = x @ (packed.dequantised().astype(np.float64) - weights).T
    np.testing.assert_allclose(output_error(weights, packed, x.T @ x), np.square(outputs).sum(0))


@pytest.mark.parametrize(
    ("gram", "bits", "kind", "words"),
    [
        (np.eye(39), 4, FeedError, r"gram is finite floats of shape \[40, 40\], not float64 of shape \[39, 39\]"),
        (np.eye(40, dtype=int), 4, FeedError, r"not int64"),
        (np.full((40, 40), np.nan), 4, FeedError, r"gram is finite floats"),
        (1 - np.eye(40), 4, FeedError, r"no sum of squares"),
        (np.eye(40), 5, ConfigurationError, r"bits=5"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(gram, bits, kind, words):
    with pytest.raises(kind, match=words):
        calibrated(np.ones((2, 40), np.float32), gram, bits)
