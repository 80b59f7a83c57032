"""Activations that are rounded before they are multiplied: by how much, and what is sent for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pytest_webaccel.engines.kernels import KERNELS, Computation, Program, Target
from pytest_webaccel.engines.kernels.reference import reference
from pytest_webaccel.engines.kernels.rounded import Activations, rounded
from pytest_webaccel.engines.packing import quantise
from pytest_webaccel.errors import ConfigurationError, FeedError
from pytest_webaccel.terms import Backend, Evidence, Lane, ProbeResult

matmul_nbits = KERNELS["matmul_nbits"]

X = np.ones((3, 200), np.float32)
WEIGHTS = quantise(np.ones((70, 200), np.float32), 4)
NATIVE = {Activations.INT8: "packed_4x8_integer_dot_product", Activations.FLOAT16: "shader-f16"}
ROUNDED = sorted(NATIVE)


def lowered(program: Program, *features: str):
    return program.lowered(Target(Backend.WEBGPU, frozenset(features)))


@pytest.mark.parametrize("kind", ROUNDED)
@given(
    x=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 70)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_an_element_is_off_by_no_more_than_its_block_allows(kind, x):
    got = rounded(x, kind)
    assert got.shape == x.shape
    for first in range(0, x.shape[1], 32):
        block, near = x[:, first : first + 32].astype(np.float64), got[:, first : first + 32]
        largest = np.abs(block).max(-1, keepdims=True)
        counts = largest >= 1e-35
        if kind is Activations.INT8:
            allowed = largest / 254 * (1 + 2**-11)  # a scale's inverse is cut to 12 bits
        else:
            allowed = np.maximum(np.abs(block) * 2.0**-11, largest * 2.0**-25)
        assert (np.abs(near - block) <= np.where(counts, allowed, largest)).all()
        assert (near[~counts[:, 0]] == 0).all()


def test_what_rounding_keeps_is_kept():
    x = np.array([[127.0, -64.0, 0.0, 1.0] * 8], np.float32)
    for kind in ROUNDED:
        np.testing.assert_array_equal(rounded(x, kind), x)
    np.testing.assert_array_equal(rounded(x / np.float32(2), Activations.INT8), x / 2)
    tall = np.concatenate([np.full(32, 2.0**-90), np.full(32, 3.0e38)]).astype(np.float32)[None]
    np.testing.assert_array_equal(rounded(tall, Activations.FLOAT16)[:, :32], tall[:, :32])
    np.testing.assert_allclose(rounded(tall, Activations.FLOAT16), tall, rtol=2**-11)


@pytest.mark.parametrize("kind", ROUNDED)
def test_the_adapter_s_own_products_are_taken_where_it_has_them(kind):
    program = matmul_nbits(X, WEIGHTS, activations=kind)
    assert lowered(program).chosen["NATIVE"] == 0
    assert lowered(program).needs == ()
    native = lowered(program, NATIVE[kind])
    assert native.chosen["NATIVE"] == 1
    assert native.needs == (NATIVE[kind],)
    assert ("dot4I8Packed(x0_0" in native.code) == (kind is Activations.INT8)
    assert ("enable f16;" in native.code) == (kind is Activations.FLOAT16)
    plain = lowered(matmul_nbits(X, WEIGHTS, activations=kind, constants={"NATIVE": 0}), NATIVE[kind])
    assert plain.needs == ()
    for word in ("dot4I8Packed(x", "f16>"):
        assert word not in plain.code


def test_native_products_are_refused_where_there_are_none():
    bare = ProbeResult(Lane.parse("chromium:webgpu"), works=True, evidence=Evidence.SOFTWARE)
    work = Computation(matmul_nbits(X, WEIGHTS, activations="float16", constants={"NATIVE": 1}).all_outputs())
    with pytest.raises(ConfigurationError, match=r"needs shader-f16, which chromium:webgpu has not"):
        work.plan(bare)


def test_a_product_covers_every_row_and_column():
    chosen = {"WORKGROUP": 64, "TILE_ROWS": 2, "TILE_COLUMNS": 4, "SPLIT": 4}
    made = lowered(matmul_nbits(X, WEIGHTS, activations="int8", constants=chosen))
    assert made.workgroups == (2, 2, 1)
    assert made.uniform[:4] == (3, 70, 7, 7)
    assert lowered(matmul_nbits(X[:1], WEIGHTS, activations="int8")).chosen["TILE_ROWS"] == 1
    [rounding] = [one.program for one in made.inputs.values() if hasattr(one, "program") and one.name == "values"]
    dispatch = lowered(rounding)
    assert dispatch.uniform[0] == 3 * 7
    assert dispatch.outputs["values"].shape == (3, 7, 8)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_four_codes_of_the_template_are_read_once(bits):
    weights = quantise(np.ones((70, 200), np.float32), bits)
    code = lowered(matmul_nbits(X, weights, activations="int8")).code
    assert not [line for line in code.splitlines() if line.strip().startswith("//%")]
    assert "${" not in code
    assert [f"let four0_{at} =" in code for at in range(9)] == [True] * 8 + [False]


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"activations": "int4"}, ConfigurationError, r"activations 'int4' .*float32, float16, int8"),
        ({"activations": 8}, FeedError, r"activations is of type str, not int"),
        ({"weights": np.ones((7, 200), np.float32)}, FeedError, r"activations=int8 go with weights that are Packed"),
    ],
)
def test_what_cannot_be_rounded_is_refused(given, kind, words):
    with pytest.raises(kind, match=words):
        matmul_nbits(**{"x": X, "weights": WEIGHTS, "activations": "int8", **given})


@pytest.mark.parametrize(
    ("constants", "words"),
    [
        ({"TILE_ROWS": 8, "TILE_COLUMNS": 8}, r"kernel matmul_rounded: a tile of 64 elements is more than 32"),
        ({"WORKGROUP": 256, "SPLIT": 2, "TILE_COLUMNS": 8}, r"kernel matmul_rounded: .*keep 32,768 bytes"),
        ({"QUADS": 1}, r"kernel matmul_rounded: QUADS=1 cannot be chosen"),
    ],
)
def test_constants_that_do_not_go_together_are_refused(constants, words):
    with pytest.raises(ConfigurationError, match=words):
        lowered(matmul_nbits(X, WEIGHTS, activations="int8", constants=constants))


@pytest.mark.parametrize("backend", ["cpu", "webnn"])
def test_where_nothing_is_rounded_that_is_said(backend):
    lane = ProbeResult(Lane.parse(f"chromium:{backend}"), works=True, evidence=Evidence.SOFTWARE)
    work = Computation(matmul_nbits(X, WEIGHTS, activations="int8").all_outputs())
    with pytest.raises(ConfigurationError, match=rf"matmul_nbits: activations=int8 go with webgpu, not with {backend}"):
        work.plan(lane)


def test_the_oracle_rounds_as_well():
    x = np.linspace(-1, 1, 600, dtype=np.float32).reshape(3, 200)
    exact, near = (
        reference("matmul_nbits", {"x": x, "weights": WEIGHTS, "activations": kind}) for kind in ("float32", "int8")
    )
    off = np.abs(near - exact).max()
    assert 0 < off < 200 / 254
