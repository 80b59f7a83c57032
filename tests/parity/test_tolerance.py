from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_webaccel.parity import EXACT, TOLERANCES, Tolerance, tolerance_for, ulp_distance

FLOATS = [np.dtype(name) for name in TOLERANCES]
LAST = 2**64 - 1

float_dtypes = st.sampled_from(FLOATS)
pairs = float_dtypes.flatmap(lambda dtype: st.tuples(*[hnp.arrays(dtype, (4,))] * 2))


def apart(dtype: np.dtype, a: float, b: float) -> int:
    return int(ulp_distance(np.array(a, dtype), np.array(b, dtype)))


@given(pairs)
def test_distance_is_symmetric_and_zero_only_between_equals(pair):
    a, b = pair
    found = ulp_distance(a, b)
    np.testing.assert_array_equal(found, ulp_distance(b, a))
    np.testing.assert_array_equal(found == 0, (a == b) | (np.isnan(a) & np.isnan(b)))


@given(float_dtypes, st.data(), st.integers(1, 50))
def test_n_steps_of_nextafter_are_n_ulp(dtype, data, n):
    start = data.draw(hnp.arrays(dtype, (), elements=hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False)))
    value = start
    for _ in range(n):
        assume(value < np.finfo(dtype).max)
        value = np.nextafter(value, np.array(np.inf, dtype))
    assert ulp_distance(np.asarray(start), np.asarray(value)) == n


@given(float_dtypes.flatmap(lambda dtype: hnp.arrays(dtype, (3,), elements=hnp.from_dtype(dtype, allow_nan=False))))
def test_distances_along_the_line_add_up(values):
    low, middle, high = (np.asarray(one) for one in np.sort(values))
    total = int(ulp_distance(low, high))
    assert int(ulp_distance(low, middle)) + int(ulp_distance(middle, high)) == total


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_special_values(dtype):
    info = np.finfo(dtype)
    assert apart(dtype, 0.0, -0.0) == 0
    assert apart(dtype, info.max, math.inf) == 1
    assert apart(dtype, info.smallest_subnormal, -info.smallest_subnormal) == 2
    assert apart(dtype, math.nan, math.nan) == 0
    assert apart(dtype, math.nan, 1.0) == apart(dtype, -math.inf, math.nan) == LAST
    assert 0 < apart(dtype, -math.inf, math.inf) < LAST


def test_arrays_broadcast_and_need_not_be_contiguous():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert ulp_distance(values[:, ::2].T, np.float32(0) * values[:, ::2].T).shape == (2, 3)
    assert ulp_distance(values, np.zeros((1, 4), np.float32)).shape == (3, 4)


@pytest.mark.parametrize(("a", "b"), [("float32", "float64"), ("int32", "int32"), ("float32", "int32")])
def test_distance_is_refused_where_it_means_nothing(a, b):
    with pytest.raises(TypeError, match="one float dtype"):
        ulp_distance(np.zeros(1, a), np.zeros(1, b))


@pytest.mark.parametrize("dtype", ["int8", "uint64", "bool", "object", "<U3"])
def test_what_is_counted_is_compared_exactly(dtype):
    assert tolerance_for(dtype) == EXACT


def test_a_dtype_that_is_not_known_is_refused():
    with pytest.raises(TypeError, match="no tolerance is known for dtype complex64"):
        tolerance_for(np.complex64)


def test_fewer_bits_are_granted_more():
    half, single, double = (tolerance_for(name) for name in ("float16", "float32", "float64"))
    assert half.atol > single.atol > double.atol
    assert half.rtol > single.rtol > double.rtol
    for dtype in FLOATS:
        assert tolerance_for(dtype).rtol > 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("part", [-1.0, math.nan, math.inf])
def test_a_tolerance_that_cannot_be_meant_is_refused(part):
    with pytest.raises(ValueError, match="finite"):
        Tolerance(part)
    with pytest.raises(ValueError, match="finite"):
        Tolerance(0.0, part)
