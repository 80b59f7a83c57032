"""The project's own kernels on real lanes, beside NumPy."""

from __future__ import annotations

import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.terms import Browser

CACHE = cache_root()  # before pytester moves HOME

SUITE = """
    import numpy
    import pytest

    from pytest_webaccel.engines.packing import quantise
    from pytest_webaccel.errors import ConfigurationError, FeedError


    def nmse(got, x, weights):
        right = x.astype(numpy.float64) @ weights.dequantised().astype(numpy.float64).T
        return float(numpy.square(got - right).sum() / numpy.square(right).sum())


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
    @pytest.mark.parametrize("tile", [1, 8])
    def test_odd_shapes(webaccel, rows, columns, k, tile):
        x, weights = drawn(rows, columns, k, bits=4, scales="f4")
        y = webaccel.kernel("matmul_nbits", x=x, weights=weights, constants={"ROW_TILE": tile, "WORKGROUP": 32})["y"]
        assert nmse(y, x, weights) < 1e-6


    def test_large_weights_travel_as_files(webaccel):
        x, weights = drawn(2, 1024, 1024, bits=8, search="nearest")
        assert nmse(webaccel.kernel("matmul_nbits", x=x, weights=weights)["y"], x, weights) < 1e-6


    def test_bad_input(webaccel):
        x, weights = drawn(2, 8, 64, bits=4)
        with pytest.raises(FeedError, match=r"x is float32 of shape \\[rows, 64\\].*got float64"):
            webaccel.kernel("matmul_nbits", x=x.astype(float), weights=weights)
        with pytest.raises(ConfigurationError, match=r"there is no kernel 'matmul' \\(known: matmul_nbits\\)"):
            webaccel.kernel("matmul", x=x, weights=weights)
        with pytest.raises(ConfigurationError, match=r"WORKGROUP=7 cannot be chosen"):
            webaccel.kernel("matmul_nbits", x=x, weights=weights, constants={"WORKGROUP": 7})
        with pytest.raises(ConfigurationError, match=r"kernel matmul_nbits: .*unexpected keyword argument 'y'"):
            webaccel.kernel("matmul_nbits", x=x, weights=weights, y=x)


    @pytest.mark.parametrize("fault", ["browser_crash", "device_destroyed"])
    def test_a_lane_that_broke_is_mended(webaccel, webaccel_faults, fault):
        x, weights = drawn(2, 8, 64, bits=3)
        before = webaccel.kernel("matmul_nbits", x=x, weights=weights)["y"]
        webaccel_faults.inject(fault)
        numpy.testing.assert_allclose(webaccel.kernel("matmul_nbits", x=x, weights=weights)["y"], before, rtol=1e-6)
"""


@pytest.mark.parametrize("name", [Browser.CHROMIUM, Browser.FIREFOX], ids=str)
def test_kernels_answer_as_numpy_does_whatever_the_form_and_after_a_fault(pytester, monkeypatch, name):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    if browsers.find(name) is None:
        pytest.skip(f"no {name} is here: python -m pytest_webaccel install")
    pytester.makepyfile(test_it=SUITE)
    lanes = f"--webaccel-lanes={name}:webgpu"
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", lanes, "--webaccel-db=runs.duckdb", timeout=240)
    result.assert_outcomes(passed=16 + 8 + 4)
