"""The low-bit cache of keys and values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_webaccel.engines.packing.cache import CacheForm, KeyScales, KVCache, attention
from pytest_webaccel.errors import ConfigurationError, FeedError


def tokens(count: int, form: CacheForm, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, form.heads, form.dim)).astype(np.float32)


forms = st.builds(
    CacheForm,
    heads=st.integers(1, 3),
    dim=st.sampled_from([8, 32, 40]),
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([32, 64]),
    window=st.sampled_from([0, 1, 40]),
    keys=st.sampled_from(KeyScales),
)


@given(forms, st.lists(st.integers(0, 70), max_size=4))
@settings(deadline=None, max_examples=40)
def test_tokens_come_back_in_order_however_they_were_added(form, sizes):
    whole = tokens(sum(sizes), form)
    cache, at_once = KVCache(form), KVCache(form)
    begun = 0
    for size in sizes:
        cache.append(whole[begun : begun + size], -whole[begun : begun + size])
        begun += size
    at_once.append(whole, -whole)
    assert len(cache) == sum(sizes)
    np.testing.assert_array_equal(cache.keys(), at_once.keys())
    np.testing.assert_array_equal(cache.values(), at_once.values())
    off = np.abs(cache.keys() - whole).max(initial=0)
    assert off <= {2: 2.5, 3: 1.2, 4: 0.6, 8: 0.05}[form.bits]
    recent = len(cache) - len(cache.key_blocks) * form.group
    assert recent < form.window + form.group
    assert recent >= min(form.window, len(cache))
    first = len(cache) - recent
    np.testing.assert_allclose(cache.keys()[first:], whole[first:], atol=2e-3)


@given(forms, st.integers(0, 300), st.integers(0, 300), st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_the_oldest_go_first_but_those_that_are_kept(form, count, evicted, keep):
    cache = KVCache(form)
    cache.append(tokens(count, form), tokens(count, form, 1))
    before, blocks = cache.keys(), len(cache.key_blocks)
    gone = cache.evict(evicted, keep_first=keep)
    kept = -(-keep // form.group) * form.group
    assert gone % form.group == 0
    assert gone >= min(evicted, max(blocks * form.group - kept, 0))
    assert len(cache) == count - gone
    kept = min(kept, blocks * form.group)
    np.testing.assert_array_equal(cache.keys(), np.concatenate([before[:kept], before[kept + gone :]]))


@pytest.mark.parametrize(
    ("bits", "group", "effective"), [(2, 128, 2.1875), (3, 64, 3.375), (4, 32, 4.75), (8, 32, 8.75)]
)
def test_effective_bits_count_everything(bits, group, effective):
    form = CacheForm(heads=4, dim=64, bits=bits, group=group)
    cache = KVCache(form)
    cache.append(tokens(2 * group, form), tokens(2 * group, form, 1))
    assert cache.effective_bits == effective
    assert KVCache(form).effective_bits == 0.0


def test_a_channel_that_stands_out_costs_keys_by_token_more():
    form = CacheForm(heads=2, dim=64, bits=3)
    keys, values = tokens(96, form), tokens(96, form, 1)
    keys[:, :, 5] += 30
    errors = {}
    for scales in KeyScales:
        cache = KVCache(CacheForm(heads=2, dim=64, bits=3, keys=scales))
        cache.append(keys, values)
        errors[scales] = np.square(cache.keys() - keys).mean()
    assert errors[KeyScales.CHANNEL] < errors[KeyScales.TOKEN] / 4


def test_attention_over_more_bits_is_closer_and_a_window_helps():
    form = CacheForm(heads=4, dim=64)
    keys, values = tokens(256, form), tokens(256, form, 1)
    query = keys[-1]  # the last token is what it looks for
    right = attention(query, keys, values)

    def off(**changes) -> float:
        cache = KVCache(CacheForm(heads=4, dim=64, **changes))
        cache.append(keys, values)
        return float(np.square(attention(query, cache.keys(), cache.values()) - right).sum() / np.square(right).sum())

    errors = [off(bits=bits) for bits in (2, 3, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3
    assert off(bits=2, window=1) < errors[0] / 10


@pytest.mark.parametrize(
    ("keys", "values", "words"),
    [
        (np.zeros((2, 2, 8)), np.zeros((2, 2, 8), np.float32), r"keys are float32 of shape \[tokens, 2, 8\].*float64"),
        (np.zeros((2, 2, 8), np.float32), np.zeros((2, 2, 7), np.float32), r"values are float32.*\[2, 2, 7\]"),
        (np.zeros((2, 2, 8), np.float32), np.zeros((3, 2, 8), np.float32), r"keys are of 2 tokens and values of 3"),
        (np.full((1, 2, 8), np.nan, np.float32), np.zeros((1, 2, 8), np.float32), r"keys hold NaN, infinity"),
        (np.zeros((1, 2, 8), np.float32), np.full((1, 2, 8), 1e6, np.float32), r"values hold.*float16 cannot hold"),
    ],
)
def test_tokens_that_do_not_fit_are_refused_and_nothing_is_added(keys, values, words):
    cache = KVCache(CacheForm(heads=2, dim=8))
    with pytest.raises(FeedError, match=words):
        cache.append(keys, values)
    assert len(cache) == 0


@pytest.mark.parametrize(
    "changes", [{"bits": 5}, {"group": 16}, {"heads": 0}, {"dim": 0}, {"window": -1}, {"recent": np.float64}]
)
def test_a_form_that_cannot_be_is_refused(changes):
    with pytest.raises(ConfigurationError):
        CacheForm(**{"heads": 2, "dim": 8, **changes})


def test_less_than_nothing_is_not_evicted():
    with pytest.raises(ConfigurationError, match=r"tokens=-1"):
        KVCache(CacheForm(heads=1, dim=8)).evict(-1)
