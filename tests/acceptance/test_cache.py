"""A cache that stays on the device of a real lane, beside one in NumPy, also where the device is lost."""

from __future__ import annotations

import pytest

from pytest_webaccel.terms import Backend
from tests.acceptance.lanes import STATE_LANES, run_on_lane

SUITE = """
    import numpy
    import pytest
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    from pytest_webaccel.engines.kernels import State
    from pytest_webaccel.engines.kernels.cache import CacheLayout, DeviceCache
    from pytest_webaccel.engines.packing.cache import CacheForm, KeyScales, KVCache, attention
    from pytest_webaccel.errors import ConfigurationError, ModelError

    LANE = settings(
        max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    forms = st.builds(
        CacheForm,
        heads=st.integers(1, 3),
        dim=st.sampled_from([4, 20, 64]),
        bits=st.sampled_from([2, 3, 4, 8]),
        group=st.sampled_from([32, 64]),
        window=st.sampled_from([0, 5, 400]),
        keys=st.sampled_from(KeyScales),
        recent=st.sampled_from([numpy.float16, numpy.float32]),
    )


    def close(got, right, most=1e-4):
        right = numpy.asarray(right)
        assert numpy.square(got - right).sum() <= most**2 * numpy.square(right).sum(), (got, right)


    def drawn(form, seed):
        chance = numpy.random.default_rng(seed)
        channels = numpy.exp(chance.standard_normal((form.heads, form.dim)))  # as keys have it: some are larger
        while True:
            count = int(chance.integers(1, 50))
            keys, values = chance.standard_normal((2, count, form.heads, form.dim)).astype("f4")
            yield keys * channels.astype("f4"), values, chance.standard_normal((form.heads, form.dim)).astype("f4")


    @LANE
    @given(form=forms, seed=st.integers(0, 2**32), workgroup=st.sampled_from([32, 128]))
    def test_it_answers_as_one_in_numpy(webaccel, form, seed, workgroup):
        host, cache = KVCache(form), DeviceCache(CacheLayout(form, 300))
        for step, (keys, values, query) in zip(range(6), drawn(form, seed)):
            host.append(keys, values)
            cache = cache.append(keys, values)
            if step % 2:  # what was appended before waits until it is asked for
                asked = {"constants": {"WORKGROUP": workgroup}} if webaccel.lane.backend == "webgpu" else {}
                y = webaccel.compute({"y": cache.attention(query, **asked)})["y"]
                # a scale that lies between two float16 may round either way
                close(y, attention(query, host.keys(), host.values()), 1e-2 if form.window < 300 else 1e-4)
        assert len(cache) == len(host)


    def test_what_is_quantised_is_what_numpy_quantises(webaccel):
        for bits in (2, 3, 4, 8):
            form = CacheForm(heads=2, dim=20, bits=bits)
            keys, values, query = next(drawn(form, 1))
            keys, values = numpy.tile(keys, (70, 1, 1))[:64], numpy.tile(values, (70, 1, 1))[:64]
            host, cache = KVCache(form), DeviceCache(CacheLayout(form, 64)).append(keys, values)
            host.append(keys, values)
            webaccel.compute({"y": cache.attention(query)})
            packed = webaccel.compute({"packed": cache.state.cell("packed")})["packed"]
            words = numpy.concatenate([block.words.reshape(-1) for block in host.key_blocks])
            shifts = numpy.arange(0, 32, bits if bits != 3 else 1)
            levels = [(part[:, None] >> shifts) & (2**bits - 1) for part in (packed[: len(words)], words)]
            assert (levels[0] == levels[1]).mean() > 0.99
            other = DeviceCache(CacheLayout(form, 64)).append(values, keys)
            webaccel.compute({"y": other.attention(query)})
            assert (webaccel.compute({"packed": other.state.cell("packed")})["packed"] != packed).any()


    @pytest.mark.parametrize("keep_first", [0, 1])
    def test_the_oldest_give_way(webaccel, keep_first):
        form = CacheForm(heads=2, dim=8, bits=8)
        cache = DeviceCache(CacheLayout(form, 127), evict=True, keep_first=keep_first)
        keys, values = numpy.random.default_rng(0).standard_normal((2, 300, 2, 8)).astype("f4")
        query = numpy.ones((2, 8), "f4")
        y = webaccel.compute({"y": cache.append(keys, values).attention(query)})["y"]
        gone = numpy.r_[0:192] if not keep_first else numpy.r_[32:224]
        left = numpy.setdiff1d(numpy.arange(300), gone)
        assert len(cache.append(keys, values)) == len(left)
        close(y, attention(query, keys[left], values[left]), 2e-2)


    @pytest.mark.parametrize("fault", ["page_reload", "device_destroyed", "browser_crash"])
    @pytest.mark.parametrize("checkpoint", [2, 64])
    def test_a_lost_cache_is_brought_again(webaccel, webaccel_faults, fault, checkpoint):
        if (fault, webaccel.lane.backend) == ("device_destroyed", "cpu"):
            pytest.skip("a CPU is no device that is lost")
        form = CacheForm(heads=2, dim=8, bits=3, window=3)
        layout = CacheLayout(form, 300)
        host, cache = KVCache(form), DeviceCache(layout, state=State(layout.sizes, checkpoint=checkpoint))
        for step, (keys, values, query) in zip(range(7), drawn(form, 3)):
            host.append(keys, values)
            cache = cache.append(keys, values)
            if step in (3, 6):
                webaccel_faults.inject(fault)
            y = webaccel.compute({"y": cache.attention(query)})["y"]
            close(y, attention(query, host.keys(), host.values()), 1e-2)
        assert len(cache.state.log) == (1 if checkpoint == 2 else 7)


    KEPT = []


    @pytest.mark.parametrize("turn", [1, 2])
    def test_it_outlives_a_test(webaccel, turn):
        keys = numpy.full((1, 1, 4), turn, "f4")
        cache = KEPT[-1] if KEPT else DeviceCache(CacheLayout(CacheForm(heads=1, dim=4), 9))
        KEPT.append(cache.append(keys, keys))
        y = webaccel.compute({"y": KEPT[-1].attention(numpy.zeros((1, 4), "f4"))})["y"]
        assert y.tolist() == [[(turn + 1) / 2] * 4]


    def test_what_the_device_cannot_hold_is_refused_with_the_limit(webaccel):
        kind, words = ConfigurationError, r"recent takes .* bytes, and this adapter binds at most"
        most = webaccel.probe.limits.get("maxStorageBufferBindingSize")
        if webaccel.lane.backend == "cpu":
            kind, words, most = ModelError, "more than the 4294967296 that WebAssembly addresses", 2**32
        form = CacheForm(heads=8, dim=64, window=2**40, recent=numpy.float32)
        cache = DeviceCache(CacheLayout(form, most // 4096 + 1))
        keys = numpy.ones((1, 8, 64), "f4")
        with pytest.raises(kind, match=words):
            webaccel.compute({"y": cache.append(keys, keys).attention(keys[0])})
"""


@pytest.mark.parametrize("lane", STATE_LANES, ids=str)
def test_a_cache_on_the_device_answers_as_numpy_does_and_survives_its_loss(pytester, monkeypatch, lane):
    result = run_on_lane(pytester, monkeypatch, lane, SUITE)
    skipped = 2 if lane.backend is Backend.CPU else 0
    result.assert_outcomes(passed=13 - skipped, skipped=skipped)
