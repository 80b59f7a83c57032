"""A cache on a device as it is planned: where tokens lie, what is refused, and what must not be gone back to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_webaccel.engines.kernels import Computation, Plan, State, Target
from pytest_webaccel.engines.kernels.cache import CacheLayout, DeviceCache
from pytest_webaccel.engines.packing.cache import CacheForm, KeyScales, KVCache
from pytest_webaccel.engines.packing.quantise import Search
from pytest_webaccel.errors import ConfigurationError, FeedError
from pytest_webaccel.terms import Backend

FORM = CacheForm(heads=2, dim=4)
WHOLE = CacheForm(heads=2, dim=4, window=9)
QUERY = np.ones((2, 4), np.float32)

forms = st.builds(
    CacheForm,
    heads=st.integers(1, 3),
    dim=st.sampled_from([4, 20, 64]),
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([32, 64, 128]),
    window=st.integers(0, 70),
    keys=st.sampled_from(KeyScales),
    recent=st.sampled_from([np.float16, np.float32]),
)


def tokens(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((count, 2, 4), np.float32), np.ones((count, 2, 4), np.float32)


def computed(cache: DeviceCache) -> None:
    """Have what is pending count as run."""
    Computation({"y": cache.attention(QUERY)}).commit()


def planned(cache: DeviceCache) -> Plan:
    return Plan.of({"y": cache.attention(QUERY)}, lambda program: program.lowered(Target(Backend.WEBGPU)))


@settings(deadline=None)
@given(form=forms, counts=st.lists(st.integers(1, 90), min_size=1, max_size=6))
def test_it_holds_what_one_in_numpy_holds_in_as_many_bytes(form, counts):
    host = KVCache(form)
    cache = DeviceCache(CacheLayout(form, sum(counts)))
    for count in counts:
        drawn = np.ones((count, form.heads, form.dim), np.float32)
        host.append(drawn, drawn)
        cache = cache.append(drawn, drawn)
    assert (len(cache), cache.seen) == (len(host), sum(counts))
    layout, blocks = cache.layout, cache.layout.blocks
    if blocks and form.window < layout.capacity:
        assert blocks == len(host.key_blocks), "not a block more than it needs"
        quantised = sum(block.nbytes for block in (*host.key_blocks, *host.value_blocks))
        assert layout.sizes["packed"] == quantised
    assert layout.nbytes == sum(cache.state.sizes.values())


def test_a_full_cache_refuses_what_comes_or_lets_the_oldest_go():
    for form, most, left in ((FORM, 95, 95 - 31), (WHOLE, 9, 9)):
        layout = CacheLayout(form, most)
        cache = DeviceCache(layout).append(*tokens(most))
        with pytest.raises(FeedError, match=rf"the cache holds {most} tokens, and has room for no more"):
            cache.append(*tokens(1))
        evicting = DeviceCache(layout, evict=True).append(*tokens(most))
        after = evicting.append(*tokens(1))
        assert (len(evicting), len(after), after.seen) == (most, left, most + 1)
        assert len(evicting.append(*tokens(1000))) <= most


def test_the_first_blocks_may_be_kept():
    cache = DeviceCache(CacheLayout(FORM, 127), evict=True, keep_first=1)
    assert cache.layout.blocks == 3
    written = []
    for _ in range(7):
        cache = cache.append(*tokens(32))
        [told] = [one.uniform for one in planned(cache).dispatches if one.kernel == "kv_quantise"][-1:]
        written.append(told[5])
    assert written == [0, 1, 2, 1, 2, 1, 2]
    with pytest.raises(ConfigurationError, match="keep_first=3: of 3 blocks one at least must be free to go"):
        DeviceCache(cache.layout, keep_first=3)


def test_programs_write_in_place_in_the_order_in_which_they_were_made():
    cache = DeviceCache(CacheLayout(FORM, 100)).append(*tokens(70))
    plan = planned(cache)
    kernels = [dispatch.kernel for dispatch in plan.dispatches]
    assert kernels == ["kv_append", "kv_quantise", "kv_append", "kv_quantise", "kv_append", "attention"]
    packed, recent = (cache.state.cell(name).key for name in ("packed", "recent"))
    assert [names[-2] for names in plan.bound[:-1]] == [recent, packed, recent, packed, recent]
    assert plan.states == {packed: cache.layout.sizes["packed"], recent: cache.layout.sizes["recent"]}
    assert list(plan.temporaries) == ["t5-y"]
    assert {one["name"]: one["fresh"] for one in plan.to_args(0, {recent})["states"]} == {packed: True, recent: False}


def test_what_has_run_does_not_run_again_and_what_has_not_waits():
    cache = DeviceCache(CacheLayout(FORM, 100)).append(*tokens(3))
    computed(cache)
    assert [one.kernel for one in planned(cache).dispatches] == ["attention"]
    later = cache.append(*tokens(1)).append(*tokens(1))
    assert [one.kernel for one in planned(later).dispatches] == ["kv_append", "kv_append", "attention"]
    computed(later)
    assert [one.kernel for one in planned(later).dispatches] == ["attention"]
    assert cache.state.version == 2


def test_a_cache_that_was_gone_on_from_is_refused():
    first = DeviceCache(CacheLayout(FORM, 100)).append(*tokens(3))
    waiting = Computation({"y": first.attention(QUERY)})
    computed(first)
    with pytest.raises(ConfigurationError, match=r"recent is asked for as it was after 0 .* there have been 1 since"):
        waiting.require_current()
    second = first.append(*tokens(1))
    other = first.append(*tokens(2))
    computed(second)
    for old in (first, other):
        with pytest.raises(ConfigurationError, match="go on from what the last of them gave"):
            Computation({"y": old.attention(QUERY)}).require_current()
    Computation({"y": second.attention(QUERY)}).require_current()


def test_a_cache_is_gone_on_from_once():
    first = DeviceCache(CacheLayout(FORM, 100)).append(*tokens(3))
    one, other = first.append(*tokens(1)), first.append(*tokens(2))
    later = one.append(*tokens(40))
    for views in ((one, other), (one, later)):
        with pytest.raises(ConfigurationError, match="a cache cannot be gone on from twice"):
            Computation({str(at): view.attention(QUERY) for at, view in reversed(list(enumerate(views)))})
    before = one.attention(QUERY)
    with pytest.raises(ConfigurationError, match="a cache cannot be gone on from twice"):
        Computation({"before": before, "after": later.attention(QUERY)})
    seen = first.attention(QUERY)
    after = first.append(*tokens(40)).attention(QUERY)
    assert len(Computation({"seen": seen, "after": after}).programs) == 6


def test_an_array_that_several_programs_read_travels_once():
    keys, values = tokens(90)
    assert sum(
        array.nbytes for array in planned(DeviceCache(CacheLayout(FORM, 100)).append(keys, values)).inputs.values()
    ) == (keys.nbytes + values.nbytes + QUERY.nbytes)
    many = DeviceCache(CacheLayout(WHOLE, 9), evict=True).append(*tokens(1000))
    assert len(planned(many).dispatches) < 1000 / 9 + 3


def test_caches_that_are_computed_with_together_share_a_state():
    layout = CacheLayout(FORM, 40)
    apart = [DeviceCache(layout).append(*tokens(1)) for _ in range(2)]
    with pytest.raises(ConfigurationError, match="one state at most goes into a computation, not 2"):
        Computation({str(at): cache.attention(QUERY) for at, cache in enumerate(apart)})
    state = State({f"{at}-{name}": size for at in range(2) for name, size in layout.sizes.items()})
    together = [DeviceCache(layout, state=state, prefix=f"{at}-").append(*tokens(1)) for at in range(2)]
    work = Computation({str(at): cache.attention(QUERY) for at, cache in enumerate(together)})
    assert work.state is state
    work.commit()
    for cache in together:
        assert [one.kernel for one in planned(cache).dispatches] == ["attention"]


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: CacheLayout(FORM, 0), ConfigurationError, "capacity=0"),
        (
            lambda: DeviceCache(CacheLayout(FORM, 31), evict=True),
            ConfigurationError,
            "capacity=31: where the oldest give way, 32 tokens at least",
        ),
        (lambda: CacheLayout(CacheForm(3, 3), 9), ConfigurationError, r"a multiple of 4 channels a token, not 3 x 3"),
        (lambda: CacheLayout(CacheForm(2, 4, search=Search.MSE), 9), ConfigurationError, "quantised to nearest"),
        (lambda: State({"a": 6}), ConfigurationError, "whole words of 4 bytes.* a 6"),
        (lambda: State({"a": 8}, checkpoint=0), ConfigurationError, "checkpoint=0"),
        (
            lambda: DeviceCache(CacheLayout(FORM, 9)).append(*tokens(1)).attention(np.ones((4, 2), np.float32)),
            FeedError,
            r"query is float32 of shape \[2, 4\]",
        ),
        (lambda: DeviceCache(CacheLayout(FORM, 9)).attention(QUERY), FeedError, "holds no token"),
        (
            lambda: DeviceCache(CacheLayout(FORM, 9)).append(QUERY, QUERY),
            FeedError,
            r"keys are float32 of shape \[tokens, 2, 4\]",
        ),
        (
            lambda: DeviceCache(CacheLayout(FORM, 9)).append(tokens(1)[0], tokens(2)[0]),
            FeedError,
            "keys are of 1 tokens and values of 2",
        ),
        (
            lambda: DeviceCache(CacheLayout(FORM, 9)).append(3, QUERY),  # type: ignore[arg-type]
            FeedError,
            "keys is of type ndarray or Tensor",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, kind, words):
    with pytest.raises(kind, match=words):
        make()
