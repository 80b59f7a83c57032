"""A suite of kernels on drawn shapes and values, held against NumPy in float64; ``test_wide_kernels.py`` runs it.

A request carries several cases, since a round trip takes longer than most of them. Every answer is held element by
element against a bound: so many roundings of float32 of what was summed up, and ``LEAST`` of what a driver may take for
zero. How many examples each test draws, the environment variable KERNEL_EXAMPLES says.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_webaccel.browsers.usage import tree_usage
from pytest_webaccel.engines.kernels import KERNELS
from pytest_webaccel.engines.kernels.rounded import Activations, rounded
from pytest_webaccel.engines.packing import Packed, pack
from pytest_webaccel.engines.packing.cache import CacheForm, KeyScales, KVCache, attention

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

pytestmark = pytest.mark.webaccel(backend=["webgpu", "webnn", "cpu"])

Array = Any

#: Half the distance of float32 from 1 to the next.
UNIT = 2.0**-24
#: Nearly the smallest number of float32 that no driver takes for zero.
LEAST = 1.2e-38
#: Squares over sums of squares, where nothing cancels.
MOST_NMSE = 1e-6

WIDE = settings(
    max_examples=int(os.environ.get("KERNEL_EXAMPLES", "10")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def tuned(webaccel: Any, **constants: int) -> dict[str, Any]:
    """Return how a kernel is asked to run with tunable constants; elsewhere untuned."""
    return {"constants": constants} if webaccel.lane.backend == "webgpu" else {}


@dataclasses.dataclass(frozen=True)
class Case:
    """A program, and by how much each element of its answer may be off ``right``."""

    program: Any
    right: Array
    bound: Array
    told: str
    plain: bool = True


@dataclasses.dataclass
class Count:
    cases: int = 0
    requests: int = 0
    seconds: float = 0.0


COUNT = Count()


@pytest.fixture(scope="module", autouse=True)
def count() -> Iterator[None]:
    """Tell at the end how many cases there were and what they took, with -s."""
    before = tree_usage(os.getpid()).cpu_s
    yield
    spent = tree_usage(os.getpid()).cpu_s - before
    print(f"\n{COUNT.cases} cases in {COUNT.requests} requests, {COUNT.seconds:.1f} s, {spent:.1f} processor seconds")


def hold(webaccel: Any, cases: list[Case]) -> None:
    """Compute all of ``cases`` in one request and hold each against its bound."""
    begun = time.perf_counter()
    got = webaccel.compute({f"y{at}": case.program["y"] for at, case in enumerate(cases)})
    for at, case in enumerate(cases):
        y, right = got[f"y{at}"].astype(np.float64), case.right
        off = np.abs(y - right)
        worst = np.unravel_index(np.argmax(off - case.bound), right.shape)
        assert (off <= case.bound).all(), f"{case.told}, at {worst}: {y[worst]!r} where {right[worst]!r} is right"
        squares = np.square(right).sum()
        if case.plain and squares > 0:
            assert np.square(y - right).sum() <= MOST_NMSE * squares, case.told
    COUNT.cases += len(cases)
    COUNT.requests += 1
    COUNT.seconds += time.perf_counter() - begun


# -- values ----------------------------------------------------------------------------------

KINDS = ("plain", "zeros", "large", "denormal", "mixed")
#: What is large and whose square float32 still holds, some hundred times over.
LARGE = 1e17
#: What is large where nothing is squared.
HUGE = 1e30


def values(chance: np.random.Generator, shape: tuple[int, ...], kind: str, large: float = HUGE) -> NDArray[np.float32]:
    """Return float32 of ``shape``, all of one kind or a mixture."""
    plain = chance.standard_normal(shape)
    match kind:
        case "zeros":
            return np.zeros(shape, np.float32)
        case "large":
            return (chance.choice([-large, large], shape)).astype(np.float32)
        case "ties":  # half a step of int8, where the largest of a block is 0.1
            return chance.choice([0.1, 0.05, -0.05], shape).astype(np.float32)
        case "denormal":
            return (plain * 1e-40).astype(np.float32)
        case "mixed":
            choices = [plain, np.zeros(shape), np.full(shape, large), np.full(shape, -large), plain * 1e-40]
            return np.choose(chance.integers(0, len(choices), shape), choices).astype(np.float32)
    return plain.astype(np.float32)


seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(KINDS)
few = st.integers(1, 9)
#: Row lengths around those at which loops and groups end.
lengths = st.one_of(st.integers(1, 300), st.sampled_from([1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257]))
rows = st.one_of(st.just(1), few, st.integers(10, 70))
workgroups = st.sampled_from([32, 64, 256])


def several(case: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(case, min_size=1, max_size=8)


def drawn_packed(
    chance: np.random.Generator, shape: tuple[int, int], bits: int, group: int, scales: Any, zero_points: bool
) -> tuple[Packed, Array]:
    """Return weights of random codes, and what they stand for in float64. Some scales of float16 are denormal there."""
    count, columns = shape
    groups = -(-columns // group)
    zeros = chance.integers(0, 1 << bits, (count, groups)) if zero_points else np.full((count, groups), 1 << (bits - 1))
    spread_zeros = np.repeat(zeros, group, axis=1)
    codes = chance.integers(0, 1 << bits, spread_zeros.shape)
    codes[:, columns:] = spread_zeros[:, columns:]
    factors = chance.choice([1.0, -0.03, 3e-6, 700.0], (count, groups)) * (1 + chance.random((count, groups)))
    factors = factors.astype(scales)
    packed = Packed(bits, group, columns, pack(codes, bits), factors, zeros.astype(np.uint8) if zero_points else None)
    weights = ((codes - spread_zeros) * np.repeat(factors.astype(np.float64), group, axis=1))[:, :columns]
    return packed, weights


# -- matrices --------------------------------------------------------------------------------


@WIDE
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([32, 64, 128]),
    scales=st.sampled_from([np.float16, np.float32]),
    zero_points=st.booleans(),
    drawn=several(st.tuples(rows, st.integers(1, 140), lengths, seeds, kinds)),
)
def test_low_bits(webaccel, bits, group, scales, zero_points, drawn):
    cases = []
    for count, columns, k, seed, kind in drawn:
        chance = np.random.default_rng(seed)
        packed, weights = drawn_packed(chance, (columns, k), bits, group, scales, zero_points)
        x = values(chance, (count, k), kind)
        cases.append(product(x, packed, weights, f"{bits} bits in {group}, {count} x {columns} x {k}, {kind}, {seed}"))
        ids = chance.integers(0, columns, count)
        right = weights[ids]
        told = f"rows of {bits} bits in {group}, {columns} x {k}, {seed}"
        cases.append(Case(KERNELS["embedding"](ids, packed), right, 2 * UNIT * np.abs(right) + LEAST, told))
    hold(webaccel, cases)


@WIDE
@given(drawn=several(st.tuples(rows, st.integers(1, 140), lengths, seeds, kinds, kinds)))
def test_plain_floats(webaccel, drawn):
    cases = []
    for count, columns, k, seed, kind, other in drawn:
        chance = np.random.default_rng(seed)
        x, weights = values(chance, (count, k), kind), values(chance, (columns, k), other, 1e6)
        cases.append(product(x, weights, weights, f"32 bits, {count} x {columns} x {k}, {kind}, {other}, {seed}"))
        ids = chance.integers(0, columns, count)
        told = f"rows of 32 bits, {columns} x {k}, {other}, {seed}"
        cases.append(Case(KERNELS["embedding"](ids, weights), weights[ids], np.full((count, k), LEAST), told))
    hold(webaccel, cases)


#: How a product of rounded activations is asked for: by the adapter's own products unless NATIVE=0.
PRODUCTS: list[dict[str, int]] = [
    {},
    {"NATIVE": 0},
    {"SPLIT": 4, "TILE_ROWS": 1, "TILE_COLUMNS": 2},
    {"WORKGROUP": 32, "SPLIT": 8, "TILE_ROWS": 2, "TILE_COLUMNS": 1, "NATIVE": 0},
    {"WORKGROUP": 128, "TILE_ROWS": 8, "TILE_COLUMNS": 4},
]


@WIDE
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([32, 64, 128]),
    scales=st.sampled_from([np.float16, np.float32]),
    zero_points=st.booleans(),
    kind=st.sampled_from([Activations.INT8, Activations.FLOAT16]),
    constants=st.sampled_from(PRODUCTS),
    drawn=st.lists(
        st.tuples(rows, st.integers(1, 140), lengths, seeds, st.sampled_from([*KINDS, "ties"])), min_size=1, max_size=3
    ),
)
def test_rounded_activations(webaccel, bits, group, scales, zero_points, kind, constants, drawn):
    if webaccel.lane.backend != "webgpu":
        pytest.skip("activations are rounded on WebGPU only")
    held: list[Any] = []
    asked: dict[str, Any] = {}
    for at, (count, columns, k, seed, of) in enumerate(drawn):
        chance = np.random.default_rng(seed)
        packed, weights = drawn_packed(chance, (columns, k), bits, group, scales, zero_points)
        x = values(chance, (count, k), of)
        program = KERNELS["matmul_nbits"](x, packed, activations=kind, constants=constants)
        asked |= {f"y{at}": program["y"], f"values{at}": program.inputs["x"], f"scales{at}": program.inputs["scales"]}
        held.append((x, packed, weights, f"{kind}, {bits} bits in {group}, {count} x {columns} x {k}, {of}, {seed}"))
    got = webaccel.compute(asked)
    for at, (x, packed, weights, told) in enumerate(held):
        near = held_rounding(x, got[f"values{at}"], got[f"scales{at}"].astype(np.float64), kind, told)
        right = near @ weights.T
        largest = np.abs(x).astype(np.float64).max(-1, keepdims=True)
        # zeros are taken off at the end, so a code counts whole; float16 rounds each product, and takes less for zero
        spread = 2.0**bits * np.abs(packed.scales.astype(np.float64)).max(-1)
        bound = (x.shape[1] + 16) * UNIT * np.abs(near).sum(-1, keepdims=True) * spread + LEAST * (1 + spread)
        if "NATIVE" not in constants and kind is Activations.FLOAT16:
            bound += 2.0**-9 * np.abs(near) @ np.abs(weights).T + 2.0**-13 * largest * np.abs(weights).sum(-1)
        assert (np.abs(got[f"y{at}"] - right) <= bound).all(), told


def held_rounding(x: Array, words: Array, scales: Array, kind: Activations, told: str) -> Array:
    """Return what rounded ``x`` stands for, float64, once it is held against ``x``."""
    read = words.view(np.int8 if kind is Activations.INT8 else np.float16).astype(np.float64)
    read = read.reshape(*words.shape[:2], 32)
    padded = np.zeros(read.shape)
    padded.reshape(len(x), -1)[:, : x.shape[1]] = x
    near = read * scales[..., :1]
    if kind is Activations.INT8:
        allowed = scales[..., :1] * (0.5 + 2**-10)
    else:
        allowed = np.abs(padded) * 2.0**-11 + scales[..., :1] * 2.0**-14
    assert (np.abs(near - padded) <= allowed + 1e-35).all(), told
    # An adapter may divide a little otherwise, which few scales are near enough to a cut to show.
    same = np.zeros(read.shape)
    same.reshape(len(x), -1)[:, : x.shape[1]] = rounded(x, kind)
    assert np.mean(np.abs(near - same) > 1e-3 * scales[..., :1] + 1e-35) < 0.02, told
    np.testing.assert_allclose(
        scales[..., 1], near.sum(-1), rtol=1e-5, atol=32 * UNIT * np.abs(near).max() + LEAST, err_msg=told
    )
    return near.reshape(len(x), -1)[:, : x.shape[1]]


def product(x: Array, operand: Any, weights: Array, told: str) -> Case:
    wide, table = x.astype(np.float64), weights.astype(np.float64).T
    summed = np.abs(wide) @ np.abs(table)
    bound = (x.shape[1] + 8) * UNIT * summed + LEAST * (np.abs(table).sum(0) + np.abs(wide).sum(1)[:, None] + 1)
    right = wide @ table
    # where much cancels, or all is next to nothing, squares say little
    ordinary = min(np.abs(x).max(), np.abs(weights).max()) > 1e-20
    plain = bool(ordinary and np.square(right).sum() > 1e-3 * np.square(summed).sum() / x.shape[1])
    return Case(KERNELS["matmul_nbits"](x, operand), right, bound, told, plain)


# -- element by element, row by row ------------------------------------------------------------


@WIDE
@given(drawn=several(st.tuples(rows, lengths, seeds, kinds, workgroups, st.sampled_from([1.0, 30.0]))))
def test_each(webaccel, drawn):
    cases = []
    for count, columns, seed, kind, workgroup, spread in drawn:
        chance = np.random.default_rng(seed)
        x = values(chance, (count, columns), kind) * np.float32(spread)
        wide = x.astype(np.float64)
        size, told = np.abs(wide), f"{count} x {columns}, {kind} by {spread}, {seed}"
        asked = tuned(webaccel, WORKGROUP=workgroup)

        with np.errstate(over="ignore"):
            right = wide / (1 + np.exp(-wide))
        # an exponent has some roundings for each unit of what it is taken of
        bound = 4 * UNIT * (8 + np.minimum(size, 200)) * np.abs(right) + LEAST * np.minimum(size, 200) + LEAST
        cases.append(Case(KERNELS["silu"](x, **asked), right, bound, f"silu {told}", plain=False))

        # the erf of the kernel is off by 1.5e-7
        off = 4e-7 * np.minimum(size, 10) + 8 * UNIT * size * (wide > 0) + LEAST
        erf = np.vectorize(math.erf, otypes=[np.float64])
        right = wide / 2 * (1 + erf(wide / 2**0.5))
        cases.append(Case(KERNELS["gelu"](x, **asked), right, off, f"gelu {told}", plain=False))
        inner = (2 / np.pi) ** 0.5 * (wide + 0.044715 * wide**3)
        right = wide / 2 * (1 + np.tanh(inner))
        cases.append(Case(KERNELS["gelu"](x, tanh=True, **asked), right, off, f"gelu by tanh {told}", plain=False))

        other = values(chance, (columns,), kind)
        right = wide + other
        bound = 2 * UNIT * np.abs(right) + 2 * LEAST
        cases.append(Case(KERNELS["add"](x, other, **asked), right, bound, f"add {told}", plain=False))
    hold(webaccel, cases)


@WIDE
@given(
    drawn=several(st.tuples(rows, lengths, seeds, kinds, st.sampled_from([4, 8, 64, 256]), st.sampled_from([0.0, 3.0])))
)
def test_rows(webaccel, drawn):
    cases = []
    for count, columns, seed, kind, workgroup, around in drawn:
        chance = np.random.default_rng(seed)
        x = values(chance, (count, columns), kind, LARGE) + np.float32(around)
        told = f"{count} x {columns}, {kind} around {around}, {seed}"
        asked = tuned(webaccel, WORKGROUP=workgroup)
        cases += [
            softmax(x, asked, told),
            layer_norm(x, values(chance, (2, columns), "plain"), asked, told),
            *pools(x, asked, told),
        ]
        huge = values(chance, (count, columns), kind)
        cases.append(softmax(huge, asked, f"{told}, huge"))
    hold(webaccel, cases)


def softmax(x: Array, asked: Any, told: str) -> Case:
    wide = x.astype(np.float64)
    below = wide - wide.max(-1, keepdims=True)
    powers = np.exp(below)
    right = powers / powers.sum(-1, keepdims=True)
    bound = (4 * UNIT * (8 + np.minimum(np.abs(below), 200)) + x.shape[1] * UNIT) * right + LEAST
    return Case(KERNELS["softmax"](x, **asked), right, bound, f"softmax {told}")


def layer_norm(x: Array, parts: Array, asked: Any, told: str) -> Case:
    wide, (weight, bias) = x.astype(np.float64), parts.astype(np.float64)
    mean, size = wide.mean(-1, keepdims=True), np.abs(wide).mean(-1, keepdims=True)
    factor = 1 / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    normal = (wide - mean) * factor
    right = normal * weight + bias
    roundings = (x.shape[1] + 16) * UNIT
    off = roundings * (np.abs(wide) + size) + LEAST  # of what is divided
    # a mean that is off makes the variance too large
    loose = roundings + np.square(roundings * size * factor)
    bound = (off * factor + np.abs(normal) * loose) * np.abs(weight) + 4 * UNIT * (np.abs(right) + np.abs(bias)) + LEAST
    return Case(KERNELS["layer_norm"](x, *parts, **asked), right, bound, f"layer_norm {told}", plain=False)


def pools(x: Array, asked: Any, told: str) -> list[Case]:
    wide = x.astype(np.float64)
    mean, size = wide.mean(0), np.abs(wide).mean(0)
    off = (x.shape[0] + 4) * UNIT * size + LEAST
    length = max(float(np.sqrt(np.square(mean).sum())), 1e-12)
    right = mean / length
    far = (off + np.abs(right) * (off.sum() + x.shape[1] * UNIT * length)) / length + LEAST
    return [
        Case(KERNELS["mean_pool"](x, **asked), mean, off, f"mean_pool {told}", plain=False),
        Case(KERNELS["mean_pool"](x, normalise=True, **asked), right, far, f"mean_pool to 1 {told}", plain=False),
    ]


@WIDE
@given(drawn=several(st.tuples(few, st.integers(1, 3), st.integers(1, 40), seeds, kinds, st.booleans())))
def test_rope(webaccel, drawn):
    cases = []
    for count, heads, pairs, seed, kind, across in drawn:
        chance = np.random.default_rng(seed)
        x = values(chance, (count, heads, 2 * pairs), kind)
        positions = chance.integers(0, 100_000, count)
        turns = np.exp(1j * positions[:, None] * 10_000.0 ** (-np.arange(pairs) / pairs))[:, None]
        halves: Any = (np.s_[..., :pairs], np.s_[..., pairs:])
        if across:
            halves = (np.s_[..., 0::2], np.s_[..., 1::2])
        one, two = (x[half].astype(np.float64) for half in halves)
        turned = (one + 1j * two) * turns
        right, bound = np.empty(x.shape), np.empty(x.shape)
        for half, part in zip(halves, (turned.real, turned.imag), strict=True):
            right[half] = part
            bound[half] = 4 * UNIT * (np.abs(one) + np.abs(two)) + 4 * LEAST
        program = KERNELS["rope"](x, positions, interleaved=across)
        cases.append(Case(program, right, bound, f"rope {x.shape}, {kind}, {across}, {seed}", plain=False))
    hold(webaccel, cases)


# -- attention -------------------------------------------------------------------------------


@WIDE
@given(drawn=several(st.tuples(rows, st.integers(1, 3), st.integers(1, 70), seeds, kinds, st.booleans())))
def test_self_attention(webaccel, drawn):
    cases = []
    for count, heads, dim, seed, kind, causal in drawn:
        chance = np.random.default_rng(seed)
        q, k = values(chance, (2, count, heads, dim), "plain") * 2
        v = values(chance, (count, heads, dim), kind)
        scores = np.einsum("rhd,thd->hrt", q.astype(np.float64), k) / dim**0.5
        sizes = np.einsum("rhd,thd->hrt", np.abs(q.astype(np.float64)), np.abs(k)) / dim**0.5
        scores = np.where(np.tri(count, dtype=bool), scores, -np.inf) if causal else scores
        program = KERNELS["self_attention"](q, k, v, causal=causal)
        told = f"self_attention {v.shape}, {kind}, {causal}, {seed}"
        cases.append(attended(program, scores, float(sizes.max()), v.transpose(1, 0, 2), dim, told))
    hold(webaccel, cases)


def attended(program: Any, scores: Array, size: float, v: Array, dim: int, told: str) -> Case:
    """Return the case of scores, (heads, rows, tokens), over values, (heads, tokens, dim): (rows, heads, dim)."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    weights = powers / powers.sum(-1, keepdims=True)
    wide = v.astype(np.float64)
    right = np.einsum("hrt,htd->rhd", weights, wide)
    summed = np.einsum("hrt,htd->rhd", weights, np.abs(wide))
    loose = 2 * ((dim + 8) * size + 40 + scores.shape[-1]) * UNIT * 2
    return Case(program, right, loose * summed + 4 * LEAST, told, plain=False)


@WIDE
@given(
    form=st.builds(
        CacheForm,
        heads=st.integers(1, 3),
        dim=st.sampled_from([1, 8, 40, 64]),
        bits=st.sampled_from([2, 3, 4, 8]),
        group=st.sampled_from([32, 64]),
        window=st.sampled_from([0, 33]),
        keys=st.sampled_from(KeyScales),
    ),
    drawn=st.lists(st.tuples(st.integers(1, 150), st.sampled_from([0, 40]), seeds), min_size=1, max_size=4),
    workgroup=st.sampled_from([32, 128]),
)
def test_attention(webaccel, form, drawn, workgroup):
    cases = []
    for tokens, evicted, seed in drawn:
        chance = np.random.default_rng(seed)
        cache = KVCache(form)
        cache.append(*chance.standard_normal((2, tokens, form.heads, form.dim)).astype(np.float32))
        cache.evict(evicted)
        if len(cache):
            query = (chance.standard_normal((form.heads, form.dim)) * 4).astype(np.float32)
            right = attention(query.astype(np.float64), cache.keys(), cache.values()).astype(np.float64)
            bound = np.full(right.shape, 1e-4 * np.abs(cache.values()).max() + LEAST)
            program = KERNELS["attention"](query, cache, **tuned(webaccel, WORKGROUP=workgroup))
            cases.append(Case(program, right, bound, f"attention {form}, {tokens} tokens, {seed}", plain=False))
    if cases:
        hold(webaccel, cases)


# -- what is no number -----------------------------------------------------------------------


@WIDE
@given(count=st.integers(2, 9), columns=lengths, seed=seeds, foreign=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_what_is_no_number_stays_in_its_row(webaccel, count, columns, seed, foreign):
    chance = np.random.default_rng(seed)
    x = values(chance, (count, columns), "plain")
    hurt = x.copy()
    row = int(chance.integers(count))
    hurt[row, chance.integers(columns)] = foreign
    packed, _ = drawn_packed(chance, (17, columns), 4, 32, np.float16, zero_points=True)
    parts = values(chance, (2, columns), "plain")
    made = {
        "product": lambda given: KERNELS["matmul_nbits"](given, packed),
        "softmax": lambda given: KERNELS["softmax"](given),
        "layer_norm": lambda given: KERNELS["layer_norm"](given, *parts),
        "silu": lambda given: KERNELS["silu"](given),
        "gelu": lambda given: KERNELS["gelu"](given),
        "add": lambda given: KERNELS["add"](given, parts[0]),
    }
    asked = {f"{name}{at}": make(one)["y"] for name, make in made.items() for at, one in enumerate((x, hurt))}
    got = webaccel.compute(asked)
    for name in made:
        whole, other = (np.delete(got[f"{name}{at}"], row, axis=0) for at in range(2))
        np.testing.assert_array_equal(whole, other, err_msg=f"{name}, {foreign} in row {row} of {x.shape}, {seed}")
