"""What kernels on WebNN keep, and what they make of numbers that are none."""

from __future__ import annotations

from pytest_webaccel.terms import Lane
from tests.acceptance.lanes import run_on_lane

SUITE = """
    import numpy
    import pytest

    from pytest_webaccel.engines.kernels import Computation, Resident
    from pytest_webaccel.engines.kernels.embedding import embedding
    from pytest_webaccel.engines.kernels.matmul import matmul_nbits
    from pytest_webaccel.engines.kernels.rows import add, layer_norm, silu
    from pytest_webaccel.engines.packing import quantise
    from pytest_webaccel.pool.kernels import run_kernels, timings

    CHANCE = numpy.random.default_rng(0)
    FLOATS = CHANCE.standard_normal((40, 96)).astype("f4")
    PACKED = quantise(FLOATS, 4, zero_points=True)
    NAN, INFINITE, DENORMAL = numpy.nan, numpy.inf, numpy.float32(1e-40)


    @pytest.fixture
    def run(_webaccel_lease, _webaccel_worker):
        def told(program, repeats=0):
            answer = run_kernels(_webaccel_lease, Computation(program.all_outputs()), deadline=30, repeats=repeats)
            reply = _webaccel_worker.call(answer, deadline=60)
            return reply.tensors["y"], timings(reply, repeats)

        return told


    def rows(count):
        return CHANCE.standard_normal((count, 96)).astype("f4")


    FULL = 40 * 96 * 4


    @pytest.mark.parametrize(
        ("weights", "constants", "kept"),
        [
            (FLOATS, {"BAKED": 0}, FULL),
            (FLOATS, {"BAKED": 1}, 2 * FULL),
            (PACKED, {"BAKED": 0}, FULL),
            (PACKED, {"BAKED": 1}, FULL + PACKED.nbytes),
            (PACKED, {"CODES": 1}, 40 * (96 // 2 + 3 * 4) + 40 * 3 // 2),
        ],
        ids=["floats", "floats baked", "packed", "packed baked", "codes"],
    )
    def test_what_is_kept_is_told(run, weights, constants, kept):
        kept_weights = Resident(weights)
        right = weights if weights is FLOATS else weights.dequantised()
        for count in (9, 10):  # two graphs
            x = rows(count)
            y, told = run(matmul_nbits(x, kept_weights, constants=constants), repeats=2)
            numpy.testing.assert_allclose(y, x @ right.T, rtol=1e-4, atol=1e-4)
            copies = FULL * (count - 9) if constants.get("BAKED") else 0
            assert told.kept_bytes == kept + copies
            assert told.passing_bytes == count * (96 + 40) * 4
            assert len(told.times_ms) == 2


    def test_one_row_has_weights_baked_and_more_have_not(run):
        kept = Resident(PACKED)
        _, one = run(matmul_nbits(rows(1), kept))
        assert one.kept_bytes == PACKED.nbytes + FULL
        _, many = run(matmul_nbits(rows(2), kept))
        assert many.kept_bytes == one.kept_bytes + FULL
        _, table = run(embedding([1, 2], kept))
        assert table.kept_bytes == many.kept_bytes + PACKED.nbytes, "a table stays packed"


    def test_one_array_may_be_read_in_several_ways(webaccel):
        both = Resident(FLOATS)
        x = rows(40)
        product = matmul_nbits(x, both)["y"]
        asked = {"product": product, "sum": add(x, both)["y"], "rows": embedding([3, 5], both)["y"]}
        got = webaccel.compute(asked)
        numpy.testing.assert_array_equal(got["sum"], x + FLOATS)
        numpy.testing.assert_array_equal(got["rows"], FLOATS[[3, 5]])
        numpy.testing.assert_allclose(got["product"], x @ FLOATS.T, rtol=1e-4, atol=1e-4)
        one = webaccel.compute({"y": matmul_nbits(x[:1], both)["y"]})["y"]
        numpy.testing.assert_allclose(one, x[:1] @ FLOATS.T, rtol=1e-4, atol=1e-4)


    def test_shapes_of_many_axes(webaccel):
        x = CHANCE.standard_normal((1, 2, 1, 3, 1, 2, 4)).astype("f4")
        b = Resident(CHANCE.standard_normal((3, 1, 2, 4)).astype("f4"))
        y = webaccel.compute({"y": add(silu(x)["y"], b)["y"]})["y"]
        assert y.shape == x.shape
        numpy.testing.assert_allclose(y, x / (1 + numpy.exp(-x)) + b.value, rtol=1e-5, atol=1e-6)


    def test_numbers_that_are_none_stay_in_their_rows(webaccel):
        x = numpy.ones((4, 96), "f4")
        x[0, 1], x[1, 1], x[2, 1] = NAN, INFINITE, -INFINITE
        ones = numpy.ones(96, "f4")
        kept = Resident(PACKED)
        for y in (
            webaccel.kernel("matmul_nbits", x=x, weights=PACKED)["y"],
            *(
                webaccel.kernel("matmul_nbits", x=x, weights=kept, constants={name: value})["y"]
                for name, value in (("BAKED", 0), ("BAKED", 1), ("CODES", 1))
            ),
            webaccel.kernel("layer_norm", x=x, weight=ones, bias=ones)["y"],
        ):
            assert numpy.isnan(y[0]).all()
            assert not numpy.isfinite(y[1:3]).any()
            assert numpy.isfinite(y[3]).all()
        y = webaccel.kernel("softmax", x=x)["y"]
        assert numpy.isnan(y[:2]).all()
        assert y[2, 1] == 0
        assert numpy.isfinite(y[2:]).all()


    def test_numbers_that_are_none_one_by_one(webaccel):
        x = numpy.array([NAN, INFINITE, -INFINITE, 3e38, -3e38, -100.0], "f4")
        for name in ("silu", "gelu"):
            y = webaccel.kernel(name, x=x)["y"]
            assert numpy.isnan(y[[0, 2]]).all(), "0 times infinity"
            assert y[1] == INFINITE
            numpy.testing.assert_allclose(y[3:], [3e38, 0, 0], atol=1e-30)


    def test_denormals_are_zeros_where_something_is_computed(webaccel):
        x = numpy.full(8, DENORMAL)
        assert (x > 0).all()
        assert (webaccel.kernel("add", a=x, b=numpy.zeros(8, "f4"))["y"] == 0).all()
        table = numpy.full((2, 32), DENORMAL)
        numpy.testing.assert_array_equal(webaccel.kernel("embedding", ids=[1], table=table)["y"], table[1:])


    @pytest.mark.parametrize("bits", [2, 3, 4, 8, 32])
    @pytest.mark.parametrize("rows", [1, 16, 128])
    def test_larger_products(webaccel, bits, rows):
        weights = CHANCE.standard_normal((300, 1000)).astype("f4")
        x = CHANCE.standard_normal((rows, 1000)).astype("f4")
        given = weights if bits == 32 else quantise(weights, bits, search="nearest")
        plain = given if bits == 32 else given.dequantised()
        right = x.astype("f8") @ plain.astype("f8").T
        for kept in (given, Resident(given)):
            y = webaccel.kernel("matmul_nbits", x=x, weights=kept)["y"]
            assert numpy.square(y - right).sum() < 1e-12 * numpy.square(right).sum()
"""


def test_what_is_kept_and_what_becomes_of_every_number(pytester, monkeypatch):
    result = run_on_lane(pytester, monkeypatch, Lane.parse("chromium:webnn"), SUITE)
    result.assert_outcomes(passed=5 + 6 + 15)
