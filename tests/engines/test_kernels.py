"""Kernels as they are sent: what their manifests say, and what is refused before anything is."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from pytest_webaccel.engines.kernels import KERNELS, Plan, Program, Resident, Target, manifest
from pytest_webaccel.engines.kernels.dispatch import spread
from pytest_webaccel.engines.kernels.manifest import names
from pytest_webaccel.engines.packing import quantise
from pytest_webaccel.engines.packing.cache import CacheForm, KVCache
from pytest_webaccel.errors import ConfigurationError, FeedError
from pytest_webaccel.terms import Backend, Evidence, Lane, ProbeResult

#: As a user calls them: by name, and nothing keeps a wrong type away.
add = KERNELS["add"]
attention = KERNELS["attention"]
mean_pool = KERNELS["mean_pool"]
self_attention = KERNELS["self_attention"]
embedding = KERNELS["embedding"]
gelu = KERNELS["gelu"]
layer_norm = KERNELS["layer_norm"]
matmul_nbits = KERNELS["matmul_nbits"]
rope = KERNELS["rope"]
silu = KERNELS["silu"]
softmax = KERNELS["softmax"]

WEIGHTS = quantise(np.ones((70, 200), np.float32), 4)
X = np.ones((3, 200), np.float32)
ONES = np.ones((2, 8), np.float32)
WIDE = np.ones((1, 1, 600), np.float32)


def test_every_kernel_has_a_manifest_and_what_makes_its_program():
    others = {"kv_append", "kv_quantise", "round_activations", "matmul_rounded"}
    assert set(names()) == {*KERNELS, *others}, "the others are made by DeviceCache and matmul_nbits"
    for name in names():
        made = manifest(name)
        assert made.name == name
        assert made.summary
        assert made.code.count(f"fn {made.entry}(") == 1
        for constant, choices in made.tunable.items():
            assert made.template or f"override {constant}: u32 = {choices[0]};" in made.code


TARGET = Target(Backend.WEBGPU)
LANE = ProbeResult(Lane.parse("chromium:webgpu"), works=True, evidence=Evidence.SOFTWARE)


def limited(limits):
    return dataclasses.replace(LANE, limits=limits)


def lowered(program):
    return program.lowered(TARGET)


def planned(outputs):
    return Plan.of(outputs.all_outputs() if isinstance(outputs, Program) else outputs, lowered)


def test_a_program_covers_every_row_and_column_and_says_what_it_needs():
    program = matmul_nbits(X, WEIGHTS, constants={"WORKGROUP": 32, "TILE_ROWS": 2, "TILE_COLUMNS": 1})
    assert lowered(program).workgroups == (3, 2, 1)
    args = planned(program).to_args()
    [step] = args["steps"]
    assert step["bindings"] == ["i0-x", "i0-packed", "t0-y", "", "i0-packed"]
    assert args["outputs"] == [{"name": "y", "buffer": "t0-y", "dtype": "float32", "shape": [3, 70], "bytes": 840}]
    assert args["temporaries"] == [{"name": "t0-y", "bytes": 840}]
    assert planned(matmul_nbits(X, WEIGHTS, constants={"QUADS": 1})).needs == {"subgroups"}


def test_programs_that_feed_one_another_run_once_each_in_order():
    first = softmax(ONES)["y"]
    both = planned({"a": gelu(first)["y"], "b": silu(first.reshape(4, 4))["y"], "c": first})
    assert [dispatch.kernel for dispatch in both.dispatches] == ["softmax", "gelu", "silu"]
    assert both.kernel == "3 programs (softmax, gelu, silu)"
    assert set(both.inputs) == {"i0-x"}
    assert [names[0] for names in both.bound] == ["i0-x", "t0-y", "t0-y"]
    assert both.wanted["b"].shape == (4, 4)
    assert both.sources["c"] == "t0-y"
    with pytest.raises(FeedError, match=r"shape \[2, 8\] cannot be reshaped to \[3, 5\]"):
        first.reshape(3, 5)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({}, r"nothing is to be computed"),
        ({"y": softmax(ONES)}, r"y is a program: take one of its outputs, as in program\['y'\]"),
        ({"y": ONES}, r"y is a tensor of a program, not of type ndarray"),
    ],
)
def test_what_cannot_be_computed_is_refused(outputs, words):
    with pytest.raises(FeedError, match=words):
        planned(outputs)


def test_an_output_that_a_program_has_not_is_refused():
    with pytest.raises(FeedError, match=r"kernel softmax has no output 'z' \(it has y\)"):
        softmax(ONES)["z"]


@pytest.mark.parametrize(
    ("rows", "features", "tile"),
    [
        (1, (), (1, 8)),
        (1, ("subgroups",), (1, 4)),
        (7, (), (4, 4)),
        (8, (), (4, 16)),
        (64, (), (4, 16)),
        (8, ("subgroups",), (4, 8)),
        (63, ("subgroups",), (4, 8)),
        (64, ("subgroups",), (8, 8)),
    ],
)
def test_the_tile_follows_from_rows_and_quads(rows, features, tile):
    target = Target(Backend.WEBGPU, frozenset(features))
    chosen = matmul_nbits(np.ones((rows, 200), np.float32), WEIGHTS).lowered(target).chosen
    assert (chosen["TILE_ROWS"], chosen["TILE_COLUMNS"]) == tile


@pytest.mark.parametrize("features", [(), ("subgroups",)])
@pytest.mark.parametrize("rows", [1, 7, 8, 64])
def test_the_tile_goes_with_whatever_else_is_asked_for(rows, features):
    target, x = Target(Backend.WEBGPU, frozenset(features)), np.ones((rows, 200), np.float32)
    tunable = manifest("matmul_nbits").tunable
    for workgroup, split in itertools.product(tunable["WORKGROUP"], tunable["SPLIT"]):
        if workgroup // split >= 4:
            asked = {"WORKGROUP": workgroup, "SPLIT": split, "QUADS": 0}
            chosen = matmul_nbits(x, WEIGHTS, constants=asked).lowered(target).chosen
            assert {name: chosen[name] for name in asked} == asked


def test_who_gives_a_part_of_the_tile_gives_the_tile():
    many = np.ones((9, 200), np.float32)
    assert lowered(matmul_nbits(many, WEIGHTS, constants={"TILE_ROWS": 8})).chosen["TILE_COLUMNS"] == 4
    assert lowered(matmul_nbits(many, WEIGHTS, constants={"TILE_ROWS": 1})).chosen["TILE_COLUMNS"] == 4


def test_a_long_chain_needs_no_deep_stack():
    tensor = silu(ONES)["y"]
    for _ in range(3000):
        tensor = silu(tensor)["y"]
    assert len(planned({"y": tensor}).dispatches) == 3001


def test_what_is_resident_travels_until_the_page_keeps_it():
    weights, norm = Resident(WEIGHTS), Resident(ONES[0])
    hidden = layer_norm(ONES, norm, norm)["y"]
    product = planned({"y": matmul_nbits(X, weights)["y"], "z": matmul_nbits(2 * X, weights)["y"], "h": hidden})
    assert len(product.constants) == 2
    kept = set(product.constants)
    assert set(product.tensors(())) == set(product.inputs) | kept
    assert set(product.tensors(kept)) == set(product.inputs)
    again = planned({"y": matmul_nbits(X, weights)["y"]}).constants
    assert all(again[key] is product.constants[key] for key in again), "laid out once"
    with pytest.raises(FeedError, match=r"weights is Packed, or float32"):
        matmul_nbits(X, norm)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"maxStorageBufferBindingSize": 1000}, r"x takes 2,400 bytes, and this adapter binds at most 1,000"),
        ({"maxComputeWorkgroupsPerDimension": 2}, r"3 workgroups in one dimension.*at most 2 "),
    ],
)
def test_what_an_adapter_cannot_hold_is_refused_with_the_limit(limits, words):
    plan = planned(matmul_nbits(X, WEIGHTS, constants={"TILE_ROWS": 1}))
    plan.require(limited({"maxStorageBufferBindingSize": 10**9, "maxComputeWorkgroupsPerDimension": 65535}))
    with pytest.raises(ConfigurationError, match=words):
        plan.require(limited(limits))


@pytest.mark.parametrize(
    ("constants", "words"),
    [
        ({"TILE_ROWS": 8, "TILE_COLUMNS": 16}, r"a tile of 128 elements is more than 64"),
        ({"WORKGROUP": 256, "SPLIT": 2, "TILE_ROWS": 8}, r"keep 32,768 bytes, more than the 16,384"),
        ({"QUADS": 1, "SPLIT": 2}, r"QUADS=1 goes with SPLIT=1"),
        ({"WORKGROUP": 32, "SPLIT": 16}, r"SPLIT=16 leaves fewer than 4 columns of a workgroup of 32"),
    ],
)
def test_constants_that_do_not_go_together_are_refused(constants, words):
    with pytest.raises(ConfigurationError, match=words):
        lowered(matmul_nbits(X, WEIGHTS, constants=constants))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_code_of_a_template_is_read_once(bits):
    code = lowered(matmul_nbits(X, quantise(np.ones((70, 200), np.float32), bits))).code
    assert not [line for line in code.splitlines() if line.strip().startswith("//%")]
    assert "${" not in code
    assert [f"let w0_{at} = " in code for at in range(33)] == [True] * 32 + [False]


def test_what_is_not_known_is_refused():
    with pytest.raises(ConfigurationError, match=r"there is no kernel 'none' \(known: add, attention, .*softmax\)"):
        manifest("none")
    with pytest.raises(ConfigurationError, match=r"kernel matmul_nbits is not there for none \(it is for webgpu"):
        manifest("matmul_nbits", "none")
    made = rope(ONES[:, None], [0, 1])
    bare = dataclasses.replace(made, ways={Backend.WEBGPU: made.ways[Backend.WEBGPU]})
    with pytest.raises(ConfigurationError, match=r"kernel rope is there for webgpu, and not for webnn"):
        bare.lowered(Target(Backend.WEBNN))
    for wrong in ({"BITS": 4}, {"TILE_ROWS": 3}):
        with pytest.raises(ConfigurationError, match=r"cannot be chosen \(known: \{'WORKGROUP'"):
            lowered(matmul_nbits(X, WEIGHTS, constants=wrong))


@pytest.mark.parametrize("x", [X.astype(np.float64), X[:, 1:], X[0], X[:0]])
def test_an_x_that_does_not_fit_is_refused(x):
    with pytest.raises(FeedError, match=r"x is float32 of shape \[rows, 200\]"):
        matmul_nbits(x, WEIGHTS)


def whole(tokens: np.ndarray) -> KVCache:
    cache = KVCache(CacheForm(heads=tokens.shape[1], dim=tokens.shape[2]))
    cache.append(tokens, tokens)
    return cache


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: softmax(ONES.astype(np.float16)), FeedError, r"x is float32 with at least one element; got float16"),
        (lambda: softmax([1.0, 2.0]), FeedError, r"x is of type ndarray or Tensor, not list"),
        (lambda: layer_norm(ONES, [1.0], ONES[0]), FeedError, r"weight is of type ndarray, not list"),
        (
            lambda: matmul_nbits(X, X.astype(float)),
            FeedError,
            r"weights is Packed, or float32 .*got float64 of shape \[3, 200\]",
        ),
        (lambda: embedding([0], X[0]), FeedError, r"table is Packed, or float32 .*got float32 of shape \[200\]"),
        (lambda: embedding([0], [X]), FeedError, r"table is of type Packed or ndarray, not list"),
        (lambda: attention(ONES, X), FeedError, r"cache is of type KVCache, not ndarray"),
        (lambda: matmul_nbits([[1.0]], WEIGHTS), FeedError, r"x is of type ndarray or Tensor, not list"),
        (lambda: attention(1.0, whole(ONES[None])), FeedError, r"query is of type ndarray or Tensor, not float"),
        (lambda: add(ONES, ONES[0, :4]), FeedError, r"last axes of a, \[2, 8\]; got \[4\]"),
        (lambda: add(ONES[0], ONES), FeedError, r"last axes of a, \[8\]; got \[2, 8\]"),
        (lambda: add(ONES, [1.0]), FeedError, r"b is of type ndarray, not list"),
        (lambda: mean_pool(ONES[0]), FeedError, r"x is of shape \[rows, columns\]; got \[8\]"),
        (
            lambda: self_attention(ONES, ONES, ONES),
            FeedError,
            r"one shape \[rows, heads, dim\]; got q of",
        ),
        (
            lambda: self_attention(WIDE, WIDE, WIDE[..., :4]),
            FeedError,
            r"got v of shape \[1, 1, 4\], and q",
        ),
        (
            lambda: self_attention(*[np.ones((2049, 1, 1), np.float32)] * 3),
            ConfigurationError,
            r"2,049 rows are more than 2,048",
        ),
        (lambda: silu(np.ones((0, 4), np.float32)), FeedError, r"shape \[0, 4\]"),
        (lambda: gelu(np.float32(1)), FeedError, r"x is of type ndarray or Tensor, not float32"),
        (lambda: layer_norm(ONES, ONES[0, :7], ONES[0]), FeedError, r"weight is float32 of shape \[8\].*got.*\[7\]"),
        (lambda: layer_norm(ONES, ONES[0], ONES), FeedError, r"bias is float32 of shape \[8\]"),
        (lambda: layer_norm(ONES, ONES[0], ONES[0], epsilon=0), ConfigurationError, r"epsilon=0 is not over 0"),
        (lambda: rope(ONES, [0, 1]), FeedError, r"x is of shape \[rows, heads, an even dim\]"),
        (lambda: rope(ONES[:, None, :7], [0, 1]), FeedError, r"an even dim.*got \[2, 1, 7\]"),
        (lambda: rope(ONES[:, None], [0]), FeedError, r"one a row; got \[2, 1, 8\] and int64 of shape \[1\]"),
        (lambda: embedding([70], WEIGHTS), FeedError, r"ids from 70 to 70: the table has rows 0 to 69"),
        (lambda: embedding([-1], WEIGHTS), FeedError, r"ids from -1"),
        (lambda: embedding([0.5], WEIGHTS), FeedError, r"ids are integers"),
        (lambda: attention(ONES, KVCache(CacheForm(heads=2, dim=8))), FeedError, r"the cache holds no token"),
        (
            lambda: attention(ONES, KVCache(CacheForm(heads=2, dim=9))),
            FeedError,
            r"shape \[2, 9\].*got float32.*\[2, 8\]",
        ),
        (
            lambda: lowered(attention(WIDE[0], whole(WIDE))),
            ConfigurationError,
            r"600 channels are more than 8 x WORKGROUP=64",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


@pytest.mark.parametrize("count", [1, 64, 65, 64 * 65_535, 64 * 65_535 + 1, 10**8])
def test_workgroups_are_spread_over_what_every_adapter_dispatches(count):
    stride, (across, down, deep) = spread(count, 64)
    assert stride == across * 64
    assert stride * (down - 1) < count <= stride * down
    assert max(across, down, deep) <= 65_535


@pytest.mark.parametrize("evidence", list(Evidence))
def test_rows_are_untuned_for_the_kind_of_adapter(evidence):
    target = Target.of(dataclasses.replace(LANE, evidence=evidence))
    chosen = [softmax(ONES).lowered(target).chosen, self_attention(WIDE, WIDE, WIDE).lowered(target).chosen]
    assert chosen == [{"WORKGROUP": 64 if evidence is Evidence.HARDWARE else 8}] * 2
    assert softmax(ONES, constants={"WORKGROUP": 32}).lowered(target).chosen == {"WORKGROUP": 32}
