"""The project's own kernels on real lanes, beside NumPy."""

from __future__ import annotations

import pytest

from pytest_webaccel.terms import Backend
from tests.acceptance.lanes import KERNEL_LANES, run_on_lane

SUITE = """
    import contextlib
    import dataclasses
    import math

    import numpy
    import pytest
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    from pytest_webaccel.engines.kernels import Resident, Target
    from pytest_webaccel.engines.kernels.matmul import matmul_nbits
    from pytest_webaccel.engines.kernels.rows import layer_norm, silu
    from pytest_webaccel.engines.packing import Packed, quantise
    from pytest_webaccel.engines.packing.cache import CacheForm, KeyScales, KVCache, attention
    from pytest_webaccel.errors import ConfigurationError, DamagedLaneError, FeedError, ModelError

    #: Tunable constants that are tried with odd shapes, by backend.
    TRIED = {
        "webgpu": [
            {"WORKGROUP": 32, "TILE_ROWS": 1, "TILE_COLUMNS": 1, "SPLIT": 1},
            {"WORKGROUP": 32, "TILE_ROWS": 8, "TILE_COLUMNS": 2, "SPLIT": 1},
            {"WORKGROUP": 32, "TILE_ROWS": 1, "TILE_COLUMNS": 1, "SPLIT": 4},
            {"WORKGROUP": 32, "TILE_ROWS": 2, "TILE_COLUMNS": 8, "SPLIT": 8},
        ],
        "webnn": [{"BAKED": 0}, {"BAKED": 1}, {"CODES": 1}],
        "cpu": [None],
    }


    def nmse(got, x, weights):
        right = x.astype(numpy.float64) @ weights.dequantised().astype(numpy.float64).T
        return float(numpy.square(got - right).sum() / numpy.square(right).sum())


    def tuned(webaccel, **constants):
        return {"constants": constants} if webaccel.lane.backend == "webgpu" else {}


    def breaking(webaccel):
        return "page_reload" if webaccel.lane.backend == "cpu" else "device_destroyed"


    def drawn(rows, columns, k, **options):
        chance = numpy.random.default_rng([rows, columns, k])
        weights = quantise(chance.standard_normal((columns, k)).astype(numpy.float32), **options)
        return chance.standard_normal((rows, k)).astype(numpy.float32), weights


    @pytest.mark.parametrize("bits", [2, 3, 4, 8])
    @pytest.mark.parametrize("group", [32, 128])
    @pytest.mark.parametrize("zero_points", [False, True])
    def test_every_form_of_weights(webaccel, bits, group, zero_points):
        x, weights = drawn(3, 70, 200, bits=bits, group=group, zero_points=zero_points)
        assert nmse(webaccel.kernel("matmul_nbits", x=x, weights=weights)["y"], x, weights) < 1e-6


    @pytest.mark.parametrize(("rows", "columns", "k"), [(1, 1, 1), (1, 513, 33), (9, 64, 32), (17, 3, 640)])
    @pytest.mark.parametrize("bits", [3, 4])
    def test_odd_shapes(webaccel, rows, columns, k, bits):
        x, weights = drawn(rows, columns, k, bits=bits, scales="f4")
        kept = Resident(weights)
        for constants in TRIED[webaccel.lane.backend]:
            y = webaccel.kernel("matmul_nbits", x=x, weights=kept, constants=constants)["y"]
            assert nmse(y, x, weights) < 1e-6, constants


    @pytest.mark.webaccel(backend="webgpu")
    @pytest.mark.parametrize("bits", [2, 3, 4, 8])
    @pytest.mark.parametrize(
        ("rows", "columns", "k", "form"),
        [
            (1, 3, 64, {}),
            (5, 70, 33, {"zero_points": True}),
            (9, 133, 200, {"group": 128, "scales": "f4"}),
            (2, 6, 300, {"zero_points": True, "scales": "f4"}),
        ],
    )
    def test_quads(webaccel, rows, columns, k, form, bits):
        x, weights = drawn(rows, columns, k, bits=bits, **form)
        constants = {"QUADS": 1, "WORKGROUP": 32, "TILE_ROWS": min(rows, 2), "TILE_COLUMNS": 2}
        ask = lambda: webaccel.kernel("matmul_nbits", x=x, weights=weights, constants=constants)["y"]
        if "subgroups" in webaccel.probe.features:
            assert nmse(ask(), x, weights) < 1e-6
        else:
            with pytest.raises(ConfigurationError, match="needs subgroups, which .* has not"):
                ask()


    @pytest.mark.parametrize("spread", [1e-30, 1e28])
    @pytest.mark.parametrize("bits", [2, 3, 4, 8])
    def test_small_and_large_numbers(webaccel, bits, spread):
        x, weights = drawn(2, 9, 64, bits=bits)
        x *= numpy.float32(spread)
        assert nmse(webaccel.kernel("matmul_nbits", x=x, weights=weights)["y"].astype(float), x, weights) < 1e-6


    @pytest.mark.parametrize(
        "constants", [{}, {"TILE_ROWS": 8, "TILE_COLUMNS": 2, "STAGE": 32}, {"TILE_ROWS": 4, "TILE_COLUMNS": 16}]
    )
    def test_tiles_of_many_rows(webaccel, constants):
        x, weights = drawn(9, 133, 96, bits=3)
        y = webaccel.kernel("matmul_nbits", x=x, weights=weights, **tuned(webaccel, **constants))["y"]
        assert nmse(y, x, weights) < 1e-6


    def test_programs_that_feed_one_another(webaccel, webaccel_faults):
        x, weights = drawn(4, 48, 64, bits=4)
        kept, norm = Resident(weights), Resident(numpy.full(48, 2, numpy.float32))
        hidden = silu(matmul_nbits(x, kept)["y"])["y"]
        asked = {"hidden": hidden, "normal": layer_norm(hidden, norm, norm)["y"], "flat": hidden.reshape(192)}
        product = x.astype(float) @ weights.dequantised().T
        right = product / (1 + numpy.exp(-product))
        for _ in range(2):
            got = webaccel.compute(asked)
            close(got["hidden"], right)
            assert (got["flat"].reshape(4, 48) == got["hidden"]).all()
            centred = right - right.mean(-1, keepdims=True)
            close(got["normal"], 2 * centred / numpy.sqrt(right.var(-1, keepdims=True) + 1e-5) + 2, 1e-5)
            webaccel_faults.inject(breaking(webaccel))  # what was resident is brought again
        close(webaccel.compute({"y": matmul_nbits(x, kept)["y"]})["y"], product)


    def test_a_shader_that_does_not_compile_is_told_with_kernel_and_line(webaccel):
        if webaccel.lane.backend != "webgpu":
            pytest.skip("nothing is compiled by an adapter")
        x = numpy.ones((2, 3), numpy.float32)
        whole = silu(x)
        dispatch = whole.lowered(Target.of(webaccel.probe))
        code = dispatch.code.rstrip() + "\\nfn broken() -> f32 { return nonsense; }\\n"
        way = dict.fromkeys(whole.ways, lambda target, given: dataclasses.replace(dispatch, code=code))
        line = code.count("\\n")
        with pytest.raises(ModelError, match=rf"silu does not compile: line {line}:\\d+: .*nonsense.*fn broken"):
            webaccel.compute({"y": dataclasses.replace(whole, ways=way)["y"]})
        close(webaccel.compute({"y": whole["y"]})["y"], 1 / (1 + numpy.exp(-1.0)) * x)


    def kept(lease, worker):
        return worker.call(lease.lane.here.holding(deadline=10), deadline=10)["constants"]["count"]


    def test_what_was_resident_is_freed_with_the_test_before(webaccel, _webaccel_lease, _webaccel_worker):
        assert kept(_webaccel_lease, _webaccel_worker) == 0
        x, weights = drawn(2, 8, 64, bits=4)
        webaccel.compute({"y": matmul_nbits(x, Resident(weights))["y"]})
        assert kept(_webaccel_lease, _webaccel_worker) == 1


    def test_what_nobody_holds_is_freed_with_what_is_computed_next(webaccel, _webaccel_lease, _webaccel_worker):
        for rows in (1, 2, 1):
            x, weights = drawn(rows, 8, 64, bits=4)
            held = Resident(weights)
            close(webaccel.compute({"y": matmul_nbits(x, held)["y"]})["y"], x.astype(float) @ weights.dequantised().T)
            assert kept(_webaccel_lease, _webaccel_worker) == 1
            del held


    def close(got, right, most=1e-6):
        right = numpy.asarray(right)
        assert numpy.square(got - right).sum() <= most**2 * max(numpy.square(right).sum(), 1e-30), (got, right)


    LANE = settings(
        max_examples=3, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 300))
    seeds = st.integers(0, 2**32)


    @LANE
    @given(shape=shapes, seed=seeds, spread=st.sampled_from([1e-3, 1.0, 50.0]), workgroup=st.sampled_from([32, 256]))
    def test_row_by_row(webaccel, shape, seed, spread, workgroup):
        chance = numpy.random.default_rng(seed)
        x = (chance.standard_normal(shape) * spread + 3).astype(numpy.float32)
        weight, bias = chance.standard_normal((2, shape[1])).astype(numpy.float32)
        wide = x.astype(numpy.float64)
        asked = tuned(webaccel, WORKGROUP=workgroup)

        normal = (wide - wide.mean(-1, keepdims=True)) / numpy.sqrt(wide.var(-1, keepdims=True) + 1e-5)
        got = webaccel.kernel("layer_norm", x=x, weight=weight, bias=bias, **asked)["y"]
        close(got, normal * weight + bias, 1e-4)  # a spread of 1e-3 around 3 has so many digits left

        powers = numpy.exp(wide - wide.max(-1, keepdims=True))
        close(webaccel.kernel("softmax", x=x, **asked)["y"], powers / powers.sum(-1, keepdims=True), 1e-5)
        close(webaccel.kernel("silu", x=x, **asked)["y"], wide / (1 + numpy.exp(-wide)))
        close(webaccel.kernel("gelu", x=x, **asked)["y"], wide / 2 * (1 + numpy.vectorize(math.erf)(wide / 2**0.5)))
        inner = (2 / numpy.pi) ** 0.5 * (wide + 0.044715 * wide**3)
        close(webaccel.kernel("gelu", x=x, tanh=True, **asked)["y"], wide / 2 * (1 + numpy.tanh(inner)))


    @LANE
    @given(rows=st.integers(1, 4), heads=st.integers(1, 3), pairs=st.integers(1, 40), seed=seeds, across=st.booleans())
    def test_rope(webaccel, rows, heads, pairs, seed, across):
        chance = numpy.random.default_rng(seed)
        x = chance.standard_normal((rows, heads, 2 * pairs)).astype(numpy.float32)
        positions = chance.integers(0, 100_000, rows)
        turns = numpy.exp(1j * positions[:, None] * 10_000.0 ** (-numpy.arange(pairs) / pairs))[:, None]
        halves = (x[..., 0::2], x[..., 1::2]) if across else (x[..., :pairs], x[..., pairs:])
        turned = (halves[0] + 1j * halves[1]) * turns
        right = numpy.empty(x.shape)
        if across:
            right[..., 0::2], right[..., 1::2] = turned.real, turned.imag
        else:
            right[..., :pairs], right[..., pairs:] = turned.real, turned.imag
        close(webaccel.kernel("rope", x=x, positions=positions, interleaved=across)["y"], right)


    @LANE
    @given(bits=st.sampled_from([2, 3, 4, 8]), columns=st.integers(1, 140), seed=seeds, zero_points=st.booleans())
    def test_embedding(webaccel, bits, columns, seed, zero_points):
        chance = numpy.random.default_rng(seed)
        weights = chance.standard_normal((9, columns)).astype(numpy.float32)
        table = quantise(weights, bits, zero_points=zero_points, search="nearest")
        ids = chance.integers(0, 9, chance.integers(1, 20))
        got = webaccel.kernel("embedding", ids=ids, table=table)["y"]
        numpy.testing.assert_allclose(got, table.dequantised()[ids], rtol=1e-6)


    @LANE
    @given(rows=st.integers(1, 70), heads=st.integers(1, 3), dim=st.integers(1, 70), seed=seeds, causal=st.booleans())
    def test_self_attention(webaccel, rows, heads, dim, seed, causal):
        q, k, v = numpy.random.default_rng(seed).standard_normal((3, rows, heads, dim)).astype(numpy.float32) * 2
        scores = numpy.einsum("rhd,thd->hrt", q.astype(float), k) / dim**0.5
        if causal:
            scores = numpy.where(numpy.tri(rows, dtype=bool), scores, -numpy.inf)
        powers = numpy.exp(scores - scores.max(-1, keepdims=True))
        right = numpy.einsum("hrt,thd->rhd", powers / powers.sum(-1, keepdims=True), v)
        close(webaccel.kernel("self_attention", q=q, k=k, v=v, causal=causal)["y"], right, 1e-4)


    @LANE
    @given(rows=st.integers(1, 40), columns=st.integers(1, 150), k=st.integers(1, 100), seed=seeds)
    def test_plain_floats(webaccel, rows, columns, k, seed):
        chance = numpy.random.default_rng(seed)
        x, weights = (chance.standard_normal((n, k)).astype(numpy.float32) for n in (rows, columns))
        right = x.astype(float) @ weights.astype(float).T
        close(webaccel.kernel("matmul_nbits", x=x, weights=weights)["y"], right, 1e-4)
        ids = chance.integers(0, columns, rows)
        numpy.testing.assert_array_equal(webaccel.kernel("embedding", ids=ids, table=weights)["y"], weights[ids])
        bias = chance.standard_normal(k).astype(numpy.float32)
        numpy.testing.assert_array_equal(webaccel.kernel("add", a=x, b=bias)["y"], x + bias)
        numpy.testing.assert_array_equal(webaccel.kernel("add", a=x, b=x)["y"], x + x)
        mean = x.astype(float).mean(0)
        close(webaccel.kernel("mean_pool", x=x)["y"], mean, 1e-4)
        close(webaccel.kernel("mean_pool", x=x, normalise=True)["y"], mean / numpy.linalg.norm(mean), 1e-4)


    @LANE
    @given(
        form=st.builds(
            CacheForm,
            heads=st.integers(1, 3),
            dim=st.sampled_from([8, 40, 64]),
            bits=st.sampled_from([2, 3, 4, 8]),
            group=st.sampled_from([32, 64]),
            window=st.sampled_from([0, 33]),
            keys=st.sampled_from(KeyScales),
        ),
        tokens=st.integers(1, 150),
        evicted=st.sampled_from([0, 40]),
        seed=seeds,
        workgroup=st.sampled_from([32, 128]),
    )
    def test_attention(webaccel, form, tokens, evicted, seed, workgroup):
        chance = numpy.random.default_rng(seed)
        cache = KVCache(form)
        cache.append(*chance.standard_normal((2, tokens, form.heads, form.dim)).astype(numpy.float32))
        cache.evict(evicted)
        if not len(cache):
            return
        query = (chance.standard_normal((form.heads, form.dim)) * 4).astype(numpy.float32)
        got = webaccel.kernel("attention", query=query, cache=cache, **tuned(webaccel, WORKGROUP=workgroup))["y"]
        close(got, attention(query, cache.keys(), cache.values()), 1e-4)


    @LANE
    @given(
        rows=st.integers(1, 9),
        columns=st.integers(1, 40),
        k=st.integers(1, 300),
        bits=st.sampled_from([2, 3, 4, 8]),
        group=st.sampled_from([32, 64, 128]),
        zero_points=st.booleans(),
        scales=st.sampled_from(["f2", "f4"]),
        size=st.sampled_from([1e-38, 1e-20, 1.0, 1e20, 1e30]),
        seed=seeds,
    )
    def test_every_form_and_size_of_values(
        webaccel, rows, columns, k, bits, group, zero_points, scales, size, seed
    ):
        if webaccel.lane.backend == "webgpu" and size < 1e-30:
            return  # a GPU may take what is denormal for zero
        chance = numpy.random.default_rng(seed)
        weights = chance.standard_normal((columns, k)).astype(numpy.float32)
        weights[chance.random((columns, k)) < 0.3] = 0
        weights[chance.random(columns) < 0.2] = 0
        x = (chance.standard_normal((rows, k)) * size).astype(numpy.float32)
        x[chance.random((rows, k)) < 0.3] = 0
        packed = quantise(weights, bits, group=group, zero_points=zero_points, scales=scales, search="nearest")
        right = x.astype(float) @ packed.dequantised().astype(float).T
        got = webaccel.kernel("matmul_nbits", x=x, weights=packed)["y"].astype(float)
        least = k * 2.0**-149 * 128  # of sums of denormals so much is lost
        assert numpy.square(got - right).sum() <= 1e-10 * numpy.square(right).sum() + rows * columns * least**2


    def test_functions_over_all_that_is_finite(webaccel):
        if webaccel.lane.backend != "cpu":
            pytest.skip("what a driver's exp does at its ends is its own")
        large = numpy.float32(3e38)
        x = numpy.concatenate([numpy.linspace(-110, 110, 4001), [0, 1e-45, -1e-45, 1e-30, large, -large]]).astype("f4")
        wide = x.astype(float)
        with numpy.errstate(over="ignore"):
            right = {
                "silu": wide / (1 + numpy.exp(-wide)),
                "gelu": wide * numpy.vectorize(lambda one: math.erfc(-one / 2**0.5) / 2)(wide),
            }
        for name, wanted in right.items():
            got = webaccel.kernel(name, x=x)["y"]
            numpy.testing.assert_allclose(got, wanted, rtol=2e-5, atol=3e-37, err_msg=name)
        powers = numpy.exp((x[:4001] - numpy.float32(110)).astype(float))
        got = webaccel.kernel("softmax", x=x[:4001])["y"]
        numpy.testing.assert_allclose(got, powers / powers.sum(), rtol=1e-6, atol=1e-37)
        assert webaccel.kernel("softmax", x=numpy.array([large, -large], "f4"))["y"].tolist() == [1, 0]


    @pytest.mark.parametrize("rows", [1, 6])
    def test_what_is_not_finite_stays_in_its_row(webaccel, rows):
        if webaccel.lane.backend == "webgpu":
            pytest.skip("a GPU need not know what is not finite")
        x, weights = drawn(rows, 40, 70, bits=4)
        spoilt = x.copy()
        spoilt[rows // 2, 69] = numpy.nan
        for kernel, given in (("matmul_nbits", {"weights": weights}), ("softmax", {}), ("silu", {})):
            right, got = (webaccel.kernel(kernel, x=one, **given)["y"] for one in (x, spoilt))
            bad = numpy.isnan(got)
            assert bad[rows // 2].all() if kernel != "silu" else bad.sum() == 1
            assert numpy.array_equal(numpy.delete(got, rows // 2, 0), numpy.delete(right, rows // 2, 0))
        infinite = webaccel.kernel("gelu", x=numpy.array([numpy.inf, -numpy.inf], "f4"))["y"]
        assert infinite[0] == numpy.inf


    def test_large_weights_travel_as_files(webaccel):
        x, weights = drawn(2, 1024, 1024, bits=8, search="nearest")
        assert nmse(webaccel.kernel("matmul_nbits", x=x, weights=weights)["y"], x, weights) < 1e-6


    def test_more_than_the_least_that_every_adapter_binds(webaccel):
        words = numpy.full((34_000, 1024), 0x80818283, numpy.uint32)
        table = Packed(8, 128, 4096, words, numpy.ones((34_000, 32), numpy.float16))
        assert words.nbytes > 128 << 20
        y = webaccel.kernel("embedding", ids=[0, 33_999], table=table)["y"]
        assert y[:, :4].tolist() == [[3, 2, 1, 0]] * 2


    def test_bad_input(webaccel):
        x, weights = drawn(2, 8, 64, bits=4)
        with pytest.raises(FeedError, match=r"x is float32 of shape \\[rows, 64\\].*got float64"):
            webaccel.kernel("matmul_nbits", x=x.astype(float), weights=weights)
        with pytest.raises(ConfigurationError, match=r"no kernel 'matmul' \\(known: add, attention.*softmax\\)"):
            webaccel.kernel("matmul", x=x, weights=weights)
        with pytest.raises(ConfigurationError, match=r"WORKGROUP=7 cannot be chosen"):
            webaccel.kernel("matmul_nbits", x=x, weights=weights, constants={"WORKGROUP": 7})
        with pytest.raises(ConfigurationError, match=r"kernel matmul_nbits: .*unexpected keyword argument 'y'"):
            webaccel.kernel("matmul_nbits", x=x, weights=weights, y=x)
        with pytest.raises(FeedError, match=r"weights is of type Packed or ndarray, not int"):
            webaccel.kernel("matmul_nbits", x=x, weights=3)


    def test_a_device_that_was_lost_when_nobody_looked_is_mended(webaccel, _webaccel_lease, _webaccel_worker):
        if webaccel.lane.backend == "cpu":
            pytest.skip("a CPU is no device that is lost")
        x, weights = drawn(2, 8, 64, bits=3)
        before = webaccel.kernel("matmul_nbits", x=x, weights=weights)["y"]
        channel = _webaccel_lease.lane.here.channel
        with contextlib.suppress(DamagedLaneError):  # on WebNN the loss is told before the answer
            _webaccel_worker.call(channel.request("harm", {"kind": "device_destroyed"}, deadline=10), deadline=10)
        numpy.testing.assert_allclose(webaccel.kernel("matmul_nbits", x=x, weights=weights)["y"], before, rtol=1e-6)


    @pytest.mark.parametrize("fault", ["browser_crash", "other"])
    def test_a_lane_that_broke_is_mended(webaccel, webaccel_faults, fault):
        x, weights = drawn(2, 8, 64, bits=3)
        before = webaccel.kernel("matmul_nbits", x=x, weights=weights)["y"]
        webaccel_faults.inject(fault if fault == "browser_crash" else breaking(webaccel))
        numpy.testing.assert_allclose(webaccel.kernel("matmul_nbits", x=x, weights=weights)["y"], before, rtol=1e-6)
"""


@pytest.mark.parametrize("lane", KERNEL_LANES, ids=str)
def test_kernels_answer_as_numpy_does_whatever_the_form_and_after_a_fault(pytester, monkeypatch, lane):
    result = run_on_lane(pytester, monkeypatch, lane, SUITE)
    skipped = 3 if lane.backend is Backend.WEBGPU else 16 + 2  # what is not finite, or subgroups and shaders
    result.assert_outcomes(passed=16 + 8 + 16 + 8 + 3 + 20 - skipped, skipped=skipped)
