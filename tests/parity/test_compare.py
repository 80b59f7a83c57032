from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_webaccel.parity import EXACT, Tolerance, compare, compare_all, message, tolerance_for

DTYPES = ["float16", "float32", "float64", "int8", "uint8", "int32", "uint32", "int64", "uint64", "bool"]
any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
integers = st.sampled_from(["int8", "int32", "int64", "uint64"]).flatmap(
    lambda dtype: st.tuples(*[hnp.arrays(dtype, (3,))] * 2)
)
floats = st.sampled_from(["float16", "float32", "float64"]).flatmap(
    lambda dtype: st.tuples(*[hnp.arrays(dtype, (3,))] * 2)
)


@given(any_array)
def test_an_array_agrees_with_itself(values):
    found = compare(values, values.copy())
    assert found.agrees
    assert (found.max_abs, found.max_rel, found.max_ulp, found.n_bad, found.nan_mismatch) == (0, 0, 0, 0, 0)
    assert found.count == values.size


@given(integers)
def test_integers_agree_only_when_equal_and_differ_by_their_exact_difference(pair):
    a, b = pair
    found = compare(a, b)
    assert found.n_bad == sum(x != y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    assert found.max_abs == float(max(abs(x - y) for x, y in zip(a.tolist(), b.tolist(), strict=True)))


@given(floats)
def test_floats_agree_as_numpy_says(pair):
    a, b = pair
    t = tolerance_for(a.dtype)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(over="ignore"):
        close = np.isclose(wide_b, wide_a, rtol=t.rtol, atol=t.atol, equal_nan=True)
    found = compare(a, b)
    assert found.n_bad == np.count_nonzero(~close)
    assert found.agrees == bool(close.all())


def test_the_worst_element_is_named():
    expected = np.array([[1.0, 100.0], [0.0, 2.0]], np.float32)
    got = np.array([[1.0, 100.005], [0.5, 2.1]], np.float32)
    found = compare(expected, got)
    assert (found.worst, found.expected, found.got) == ((1, 0), 0.0, 0.5)
    assert (found.n_bad, found.count) == (2, 4)
    assert found.max_abs == 0.5
    assert found.max_rel == pytest.approx(0.05, rel=1e-5)


def test_the_worst_element_is_the_one_furthest_outside_not_the_one_furthest_apart():
    expected, got = np.array([1e6, 0.0], np.float32), np.array([1e6 + 50, 1.0], np.float32)
    assert compare(expected, got).worst == (1,)


@pytest.mark.parametrize(
    ("expected", "got", "agrees", "nan"),
    [
        (math.nan, math.nan, True, 0),
        (math.nan, 1.0, False, 1),
        (1.0, math.nan, False, 1),
        (math.inf, math.nan, False, 1),
        (math.inf, math.inf, True, 0),
        (math.inf, -math.inf, False, 0),
        (math.inf, 3.0, False, 0),
        (3.0, -math.inf, False, 0),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_and_infinity_agree_only_with_themselves(dtype, expected, got, agrees, nan):
    e, g = np.array([1.0, expected], dtype), np.array([1.0, got], dtype)
    found = compare(e, g)
    assert (found.agrees, found.nan_mismatch) == (agrees, nan)
    assert found.max_abs == found.max_ulp == (0.0 if agrees else math.inf)
    assert agrees or found.worst == (1,)


def test_a_generous_tolerance_does_not_excuse_nan():
    assert not compare(np.array([1], "float32"), np.array([math.nan], "float32"), Tolerance(1e30)).agrees


def test_another_shape_disagrees_even_where_it_would_broadcast():
    found = compare(np.ones((1, 3), np.float32), np.ones(3, np.float32))
    assert not found.agrees
    assert found.shape_mismatch == ((1, 3), (3,))
    assert "shape (3,) where (1, 3) was expected" in str(found)


def test_another_dtype_disagrees():
    found = compare(np.ones(3, np.float32), np.ones(3, np.float64))
    assert not found.agrees
    assert "dtype float64 where float32 was expected" in str(found)


def test_byte_order_is_no_difference():
    values = np.array([1.5, -2.0], ">f4")
    assert compare(values, values.astype("<f4")).agrees


@pytest.mark.parametrize("kind", ["U", "O"])
def test_text_is_compared_exactly(kind):
    expected = np.array(["pdf", "png"], dtype=object if kind == "O" else None)
    assert compare(expected, expected.copy()).agrees
    found = compare(expected, np.array(["pdf", "gif"]))
    assert (found.n_bad, found.worst, found.expected, found.got) == (1, (1,), "png", "gif")


def test_a_tolerance_given_replaces_the_default():
    expected, got = np.array([10, 20], "int8"), np.array([11, 19], "int8")
    assert not compare(expected, got).agrees
    assert compare(expected, got, Tolerance(1)).agrees
    assert not compare(np.array([1], "float32"), np.nextafter(np.array([1], "float32"), np.float32(2)), EXACT).agrees


@pytest.mark.parametrize("tolerance", [None, EXACT])
def test_a_dtype_that_cannot_be_compared_is_refused(tolerance):
    with pytest.raises(TypeError, match="complex64"):
        compare(np.zeros(1, np.complex64), np.zeros(1, np.complex64), tolerance)


def answers(**by_source: float) -> dict[str, dict[str, np.ndarray]]:
    return {
        source.replace("_", ":"): {"speech": np.array([[value]], np.float32), "length": np.array([3])}
        for source, value in by_source.items()
    }


def test_the_message_names_output_lane_worst_element_and_who_agrees():
    comparison = compare_all(
        answers(reference=0.1223, chromium_cpu=0.1223, chromium_webnn=0.1223, chromium_webgpu=0.0193), "reference"
    )
    text = message(comparison, "silero_vad.onnx")

    assert not comparison.agrees
    assert comparison.groups == (("reference", "chromium:cpu", "chromium:webnn"), ("chromium:webgpu",))
    assert "silero_vad.onnx: 1 of 3 disagree with reference" in text
    assert "output 'speech' on chromium:webgpu: 1 of 1 elements outside atol 0.0001" in text
    assert "worst at [0, 0]: expected 0.122" in text
    assert "got 0.0193" in text
    assert "reference = chromium:cpu = chromium:webnn; chromium:webgpu" in text
    assert "length" not in text


def test_lanes_that_are_wrong_alike_are_grouped():
    comparison = compare_all(answers(reference=1.0, a=2.0, b=3.0, c=2.0), "reference")
    assert comparison.groups == (("reference",), ("a", "c"), ("b",))


def test_agreement_is_said_in_one_line():
    comparison = compare_all(answers(reference=1.0, a=1.0), "reference")
    assert comparison.agrees
    assert message(comparison, "m") == "m: 1 of 1 agree with reference"


def test_a_tolerance_for_one_output_leaves_the_others():
    held = answers(reference=1.0, a=1.5)
    assert compare_all(held, "reference", {"speech": Tolerance(1)}).agrees
    assert not compare_all(held, "reference", {"length": Tolerance(1)}).agrees


def test_sources_with_other_outputs_are_refused():
    held = answers(reference=1.0, a=1.0)
    del held["a"]["length"]
    with pytest.raises(ValueError, match=r"a has outputs \['speech'\], reference has \['length', 'speech'\]"):
        compare_all(held, "reference")


def test_a_missing_reference_is_refused():
    with pytest.raises(ValueError, match="'reference' is not among"):
        compare_all(answers(a=1.0), "reference")
