from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from pytest_webaccel.report.statistics import bootstrap_median, percentile, summarise, wilson

counts = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
samples = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


@given(counts)
def test_wilson_is_scipys_interval(count):
    good, n = count
    expected = binomtest(good, n).proportion_ci(0.95, method="wilson")
    found = wilson(good, n)
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)


@given(counts, st.floats(0.5, 0.999))
def test_wilson_holds_the_rate_lies_within_0_and_1_and_is_symmetric(count, confidence):
    good, n = count
    found, mirrored = wilson(good, n, confidence), wilson(n - good, n, confidence)
    assert 0 <= found.low <= good / n <= found.high <= 1
    assert found.low == pytest.approx(1 - mirrored.high, abs=1e-12)


def test_wilson_without_tries_says_nothing():
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


@pytest.mark.parametrize(("good", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)])
def test_counts_that_cannot_be_are_refused(good, n, confidence):
    with pytest.raises(ValueError, match=r"cannot be|not between"):
        wilson(good, n, confidence)


@given(samples, st.floats(0, 100))
def test_percentile_is_numpys(values, q):
    assert percentile(values, q) == pytest.approx(float(np.percentile(values, q)), rel=1e-9, abs=1e-9)


@given(samples)
def test_percentiles_rise_and_end_at_the_extremes(values):
    assert percentile(values, 0) == min(values) <= percentile(values, 50) <= percentile(values, 100) == max(values)


def test_percentiles_of_nothing_and_beyond_the_range_are_refused():
    with pytest.raises(ValueError, match="empty sample"):
        percentile([], 50)
    with pytest.raises(ValueError, match="not between"):
        percentile([1.0], 101)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=30))
def test_bootstrap_interval_stays_in_the_sample_and_repeats(values):
    found = bootstrap_median(values)
    assert min(values) <= found.low <= found.high <= max(values)
    assert found == bootstrap_median(list(reversed(values)))


def test_bootstrap_interval_covers_the_true_median_about_as_often_as_it_says():
    chance = np.random.default_rng(7)
    covered = sum(
        found.low <= 1.0 <= found.high
        for found in (bootstrap_median(list(np.exp(chance.normal(0, 1, 40)))) for _ in range(100))
    )
    assert 85 <= covered <= 100


def test_one_value_has_a_median_and_no_interval():
    assert summarise([3.0]).median == 3.0
    assert summarise([3.0]).median_interval is None
    with pytest.raises(ValueError, match="fewer than two"):
        bootstrap_median([3.0])
