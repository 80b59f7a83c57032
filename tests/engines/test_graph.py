"""Programs as they are lowered for WebNN: what is sent, what a builder reads of it, and what a page keeps apart."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_webaccel.engines.kernels import KERNELS, Computation, Plan, Resident, Target, manifest
from pytest_webaccel.engines.kernels.cache import CacheLayout, DeviceCache
from pytest_webaccel.engines.packing import quantise
from pytest_webaccel.engines.packing.cache import CacheForm, KVCache
from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.shipped import shipped
from pytest_webaccel.terms import Backend, Browser, Evidence, Lane, ProbeResult

TARGET = Target(Backend.WEBNN)
FLOATS = np.ones((70, 200), np.float32)
PACKED = quantise(FLOATS, 3, zero_points=True)
X = np.ones((16, 200), np.float32)

matmul_nbits = KERNELS["matmul_nbits"]


def lowered(program):
    return program.lowered(TARGET)


def weights_of(dispatch):
    """Return how the page makes the weights of a product, by operand."""
    return {name: told["spec"] for name, told in dispatch.graph["operands"].items() if name != "x"}


def test_every_kernel_has_a_builder_that_is_served():
    for name in KERNELS:
        made = manifest(name, "webnn")
        assert made.entry == "build"
        assert (shipped("kernels") / name / f"{name}.mjs").is_file()
        assert made.code.count("export function build(") == 1


def test_one_operator_is_one_step_with_what_its_builder_reads():
    bias = Resident(np.ones(8, np.float32))
    plan = Plan.of({"y": KERNELS["add"](np.ones((2, 3, 8), np.float32), bias)["y"]}, lowered)
    args = plan.to_args()
    assert args["codes"] == ["/kernels/add/add.mjs"]
    [step] = args["steps"]
    key = f"{bias.key}-whole"
    assert args["constants"] == [key]
    assert step["bindings"] == ["i0-a", key, "t0-y"]
    plain = {"dtype": "float32", "offset": 0, "packed": None, "baked": False}
    assert step["graph"] == {
        "operands": {
            "a": {"binding": 0, "shape": [6, 8], "spec": {**plain, "shape": [2, 3, 8]}},
            "b": {"binding": 1, "shape": [8], "spec": {**plain, "shape": [8]}},
        },
        "outputs": {"y": 2},
        "attributes": {},
    }


def test_what_a_step_has_computed_is_no_tensor_of_the_page():
    hidden = KERNELS["softmax"](X)["y"]
    plan = Plan.of({"y": KERNELS["gelu"](hidden.reshape(200, 16), tanh=True)["y"]}, lowered)
    step = plan.to_args()["steps"][1]
    assert step["graph"]["operands"] == {"x": {"binding": 0, "shape": [3200], "spec": None}}
    assert step["graph"]["attributes"] == {"tanh": 1}
    assert step["bindings"] == ["t0-y", "t1-y"]


@pytest.mark.parametrize(
    ("weights", "constants", "parts"),
    [
        (FLOATS, {}, {"weights": ("float32", [70, 200], None)}),
        (PACKED, {}, {"weights": ("float32", [70, 200], "weights")}),
        (
            PACKED,
            {"CODES": 1},
            {
                "codes": ("int4", [70, 224], "codes"),
                "scales": ("float32", [70, 7], "scales"),
                "zeros": ("int4", [70, 7], "zeros"),
            },
        ),
    ],
    ids=["floats", "packed", "codes"],
)
def test_weights_are_opened_by_the_page_or_go_on_as_codes(weights, constants, parts):
    told = weights_of(lowered(matmul_nbits(X, weights, constants=constants)))
    assert {
        name: (spec["dtype"], spec["shape"], spec["packed"] and spec["packed"]["part"]) for name, spec in told.items()
    } == parts
    assert not any(spec["baked"] for spec in told.values())


def test_codes_of_eight_bits_are_bytes():
    told = weights_of(lowered(matmul_nbits(X, quantise(FLOATS, 8), constants={"CODES": 1})))
    assert {told[name]["dtype"] for name in ("codes", "zeros")} == {"uint8"}


def test_each_use_of_weights_has_a_key_of_its_own_and_one_layout():
    weights = Resident(PACKED)
    uses = {
        "baked": matmul_nbits(X[:1], weights),
        "floats": matmul_nbits(X, weights),
        "codes": matmul_nbits(X, weights, constants={"CODES": 1}),
        "by_rows": KERNELS["embedding"]([1], weights),
    }
    plan = Plan.of({name: program["y"] for name, program in uses.items()}, lowered)
    assert set(plan.constants) == {f"{weights.key}-{use}" for use in uses}
    assert len({id(data) for data in plan.constants.values()}) == 1
    assert weights_of(lowered(uses["baked"]))["weights"]["baked"]


@pytest.mark.parametrize(
    ("weights", "constants", "words"),
    [
        (PACKED, {"BAKED": 1}, r"BAKED=1 goes with weights that are Resident"),
        (Resident(PACKED), {"BAKED": 1, "CODES": 1}, r"CODES=1 goes with packed weights and BAKED=0"),
        (FLOATS, {"CODES": 1}, r"CODES=1 goes with packed weights"),
        (PACKED, {"TILE_ROWS": 2}, r"TILE_ROWS=2 cannot be chosen \(known: \{'BAKED'"),
    ],
)
def test_constants_that_do_not_go_together_are_refused(weights, constants, words):
    with pytest.raises(ConfigurationError, match=words):
        lowered(matmul_nbits(X, weights, constants=constants))


def test_parts_of_packed_weights_lie_where_they_are_said_to():
    dispatch = lowered(KERNELS["embedding"]([0, 5], PACKED))
    told = dispatch.graph["operands"]
    data = dispatch.inputs["packed"].tobytes()
    for name, right in (("codes", PACKED.words), ("scales", PACKED.scales), ("zeros", PACKED.zeros)):
        spec = told[name]["spec"]
        part = np.frombuffer(data, spec["dtype"], int(np.prod(spec["shape"])), spec["offset"])
        assert right is not None
        np.testing.assert_array_equal(part, right.reshape(-1).view(spec["dtype"]))
    assert told["ids"]["spec"]["dtype"] == "int32"


@pytest.mark.parametrize(
    ("tokens", "operands"),
    [
        (3, {"q", "recent_keys", "recent_values"}),
        (64, {"q", *(f"{kind}_{part}" for kind in ("key", "value") for part in ("codes", "scales", "zeros"))}),
    ],
)
def test_a_cache_is_read_as_far_as_there_is_something(tokens, operands):
    cache = KVCache(CacheForm(heads=2, dim=8))
    cache.append(*np.ones((2, tokens, 2, 8), np.float32))
    dispatch = lowered(KERNELS["attention"](np.ones((2, 8), np.float32), cache))
    assert set(dispatch.graph["operands"]) == operands
    assert dispatch.graph["attributes"]["blocks"] == tokens // 32
    assert all(operand.size for operand in dispatch.inputs.values())


def test_a_cache_on_the_device_is_refused_before_anything_is_sent():
    cache = DeviceCache(CacheLayout(CacheForm(heads=2, dim=8), 64))
    keys = np.ones((1, 2, 8), np.float32)
    work = Computation({"y": cache.append(keys, keys).attention(keys[0])})
    probe = ProbeResult(Lane(Browser.CHROMIUM, Backend.WEBNN), works=True, evidence=Evidence.SOFTWARE)
    with pytest.raises(ConfigurationError, match=r"kernel kv_append is there for .*, and not for webnn"):
        work.plan(probe)
    with pytest.raises(ConfigurationError, match=r"chromium:webnn keeps no states"):
        Computation({"recent": cache.state.cell("recent")}).plan(probe)
