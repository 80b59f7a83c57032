"""The WebAssembly of our kernels: made from its sources, within its bounds, on a memory where nothing overlaps."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pytest_webaccel.engines.kernels import KERNELS, Plan, Target, manifest
from pytest_webaccel.engines.kernels.cache import CacheLayout, DeviceCache
from pytest_webaccel.engines.kernels.manifest import names
from pytest_webaccel.engines.packing import quantise
from pytest_webaccel.engines.packing.cache import CacheForm, KeyScales, KVCache
from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.shipped import shipped
from pytest_webaccel.terms import Backend
from tests.engines.pages import in_page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_webaccel.engines.kernels import Tensor

BUILT = shipped("kernels") / "built"
TARGET = Target(Backend.CPU)


def test_what_ships_is_what_the_sources_make(tmp_path):
    script = shipped("kernels") / "build.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], check=True, timeout=300)
    for name in ("simd.wasm", "relaxed.wasm"):
        assert (tmp_path / name).read_bytes() == (BUILT / name).read_bytes(), f"make {name} again: {script.name}"


def test_a_cpu_has_nothing_to_tune():
    assert not [name for name in names("cpu") if manifest(name, "cpu").tunable]
    with pytest.raises(ConfigurationError, match=r"WORKGROUP=32 cannot be chosen \(known: \{\}\)"):
        KERNELS["softmax"](np.ones((1, 2), np.float32), constants={"WORKGROUP": 32}).lowered(TARGET)


CHANCE = np.random.default_rng(0)


def drawn(*shape: int) -> np.ndarray[Any, Any]:
    return CHANCE.standard_normal(shape).astype(np.float32)


def cached(keys: KeyScales, bits: int, tokens: int) -> KVCache:
    cache = KVCache(CacheForm(heads=3, dim=20, bits=bits, group=32, window=3, keys=keys))
    cache.append(*drawn(2, tokens, 3, 20))
    return cache


def dispatched(outputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the last step of a plan, as the page is told it, with each buffer's size and what is in it."""
    plan = Plan.of(outputs, lambda program: program.lowered(TARGET))
    dispatch = plan.dispatches[-1]
    found: list[dict[str, Any]] = []
    for name, bound in zip(dispatch.bindings, plan.bound[-1], strict=True):
        data = np.array(dispatch.uniform, np.uint32) if bound == "" else plan.inputs.get(bound)
        if bound in plan.states:
            data = CHANCE.integers(0, 2**32, plan.states[bound] // 4, np.uint32)
        raw = b"" if data is None else np.ascontiguousarray(data).tobytes()
        written = name in dispatch.outputs
        size = len(raw) or plan.temporaries[bound]
        found.append({"size": size, "data": base64.b64encode(raw).decode(), "written": written})
    return {"entry": dispatch.entry, "buffers": found}


def kept(keys: KeyScales, bits: int, window: int, tokens: int, recent: type[np.floating[Any]]) -> Tensor:
    """Return what writes into a cache that stays, after the last of some tokens."""
    form = CacheForm(heads=3, dim=20, bits=bits, group=32, window=window, keys=keys, recent=recent)
    cache = DeviceCache(CacheLayout(form, 64)).append(*drawn(2, tokens, 3, 20))
    return max(cache._written.values(), key=lambda tensor: tensor.program.number)


def programs() -> dict[str, Tensor]:
    """Return what programs of odd shapes give, of every kernel, by what they are."""
    odd = drawn(3, 7)
    found = {
        "add": KERNELS["add"](odd, drawn(7)),
        "add one": KERNELS["add"](drawn(5, 1), drawn(1)),
        "gelu": KERNELS["gelu"](odd),
        "gelu tanh": KERNELS["gelu"](drawn(1), tanh=True),
        "silu": KERNELS["silu"](drawn(6)),
        "softmax": KERNELS["softmax"](odd),
        "softmax one": KERNELS["softmax"](drawn(2, 1)),
        "layer_norm": KERNELS["layer_norm"](odd, drawn(7), drawn(7)),
        "mean_pool": KERNELS["mean_pool"](odd, normalise=True),
        "rope": KERNELS["rope"](drawn(2, 3, 14), [0, 9]),
        "rope interleaved": KERNELS["rope"](drawn(1, 1, 2), [5], interleaved=True),
        "self_attention": KERNELS["self_attention"](*drawn(3, 11, 2, 13)),
        "self_attention causal": KERNELS["self_attention"](*drawn(3, 5, 1, 131), causal=True),
        "embedding floats": KERNELS["embedding"]([4, 0], drawn(5, 33)),
    }
    for bits in (2, 3, 4, 8):
        table = quantise(drawn(5, 33), bits, zero_points=bits == 3, scales="f4" if bits == 2 else "f2")
        found[f"embedding {bits}"] = KERNELS["embedding"]([4, 0], table)
        for keys in KeyScales:
            found[f"attention {bits} {keys}"] = KERNELS["attention"](drawn(3, 20), cached(keys, bits, 70))
    found["attention recent"] = KERNELS["attention"](drawn(3, 20), cached(KeyScales.CHANNEL, 4, 2))
    for rows, columns, k in ((1, 1, 1), (1, 17, 33), (3, 5, 40), (9, 19, 300)):
        found[f"matmul {rows} floats"] = KERNELS["matmul_nbits"](drawn(rows, k), drawn(columns, k))
        for bits in (2, 3, 4, 8):
            packed = quantise(drawn(columns, k), bits, zero_points=rows == 3, scales="f4" if bits == 2 else "f2")
            found[f"matmul {rows} {bits}"] = KERNELS["matmul_nbits"](drawn(rows, k), packed)
    tensors = {name: program["y"] for name, program in found.items()}
    for recent in (np.float16, np.float32):
        tensors[f"kv_append {recent.__name__}"] = kept(KeyScales.CHANNEL, 4, 64, 5, recent)
        for bits in (2, 3, 4, 8):
            for keys in KeyScales:
                tensors[f"kv_quantise {bits} {keys} {recent.__name__}"] = kept(keys, bits, 0, 32, recent)
    return tensors


# Runs each program once for each of its buffers, which then ends where the memory does: what is beyond it traps, or
# takes the page with it.
# What lies between buffers is NaN, which an answer must not depend on, and must still be there.
BOUNDS = """
    const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    const SPACE = 96, FILL = 0xff;
    const wrong = [], answers = { simd: {}, relaxed: {} };
    for (const build of ["simd", "relaxed"]) {
        const module = await WebAssembly.compileStreaming(fetch(`/kernels/built/${build}.wasm`));
        for (const { name, entry, buffers } of programs) {
            let answer = null;
            for (let last = 0; last < buffers.length; last++) {
                const { exports } = new WebAssembly.Instance(module);
                const base = (exports.__heap_base.value + 63) & ~63;
                exports.memory.grow(8);
                const memory = new Uint8Array(exports.memory.buffer);
                memory.fill(FILL, base);
                const places = [];
                let next = base + SPACE;
                for (const [index, { size, data }] of buffers.entries()) {
                    const at = index === last ? memory.length - size : next;
                    if (index !== last) next += Math.ceil(size / 16) * 16 + SPACE;
                    memory.set(bytes(data), at);
                    places.push({ at, size });
                }
                if (next > memory.length - 2 * buffers[last].size) wrong.push(`${name}: memory is too small`);
                const before = memory.slice();
                try {
                    exports[entry](...places.map(({ at }) => at));
                } catch (error) {
                    wrong.push(`${build} ${name}, buffer ${last} at the end: ${error}`);
                    continue;
                }
                const output = places[buffers.findIndex(({ written }) => written)];
                const got = memory.slice(output.at, output.at + output.size).join();
                answer ??= got;
                answers[build][name] ??= [...memory.subarray(output.at, output.at + output.size)];
                if (got !== answer) wrong.push(`${build} ${name}: it depends on where buffer ${last} lies`);
                memory.fill(0, output.at, output.at + output.size);
                before.fill(0, output.at, output.at + output.size);
                const changed = memory.findIndex((one, at) => at >= base && one !== before[at]);
                if (changed >= 0) wrong.push(`${build} ${name}: it wrote at ${changed}, outside of its output`);
            }
        }
    }
    return { wrong, ...answers };
"""


def test_nothing_beyond_a_buffer_is_read_or_written_and_both_builds_agree():
    told = [{"name": name, **dispatched({"y": tensor})} for name, tensor in programs().items()]
    assert {one["entry"] for one in told} == set(names("cpu"))
    found = in_page(f"const programs = {json.dumps(told)}; {BOUNDS}")
    assert found["wrong"] == []
    for name, simd in found["simd"].items():
        one, other = (np.array(raw, np.uint8) for raw in (simd, found["relaxed"][name]))
        if name.startswith("kv_"):
            np.testing.assert_array_equal(one, other, name)
        else:  # the builds round products and sums otherwise
            np.testing.assert_allclose(one.view("f4"), other.view("f4"), rtol=1e-4, atol=1e-5, err_msg=name)


HEAP = """
    const { Heap } = await import("/page/heap.mjs");
    let state = 12345;
    const chance = (most) => (state = (state * 1103515245 + 12345) % 2 ** 31) % most;
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 400 });
    const heap = new Heap(memory, 100);
    const taken = new Map();
    const wrong = [];
    for (let turn = 0; turn < 3000; turn++) {
        if (chance(5) < 3) {
            const bytes = chance(20) ? chance(3000) : chance(100000);
            const at = heap.take(bytes);
            if (at % 64 || at < 100 || at + bytes > memory.buffer.byteLength) wrong.push(`${at} for ${bytes}`);
            for (const [other, size] of taken) {
                if (at < other + size && other < at + bytes) wrong.push(`${at} of ${bytes} lies over ${other}`);
            }
            taken.set(at, bytes);
        } else if (taken.size) {
            const at = [...taken.keys()][chance(taken.size)];
            heap.give(at);
            taken.delete(at);
        }
        if (turn % 1000 === 999) {
            for (const at of taken.keys()) heap.give(at);
            taken.clear();
            if (heap.end !== 128 || heap.gaps.length) wrong.push(`${heap.end} and ${heap.gaps.length} gaps are left`);
        }
    }
"""


def test_what_is_taken_overlaps_nothing_and_all_of_it_comes_back():
    assert in_page(f"{HEAP} return wrong;") == []


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("2 ** 32", "more than the 4294967296 that WebAssembly addresses"), ("2 ** 26", "cannot grow to 67108992")],
)
def test_more_than_there_can_be_is_an_error_and_takes_nothing(wanted, words):
    script = f"{HEAP} try {{ heap.take({wanted}); }} catch (error) {{ return [error.kind, error.message, heap.end]; }}"
    kind, message, end = in_page(script)
    assert (kind, end) == ("memory", 128)
    assert words in message


KERNELS_OF_A_PAGE = """
    const { WasmKernels } = await import("/page/wasm.mjs");
    const kernels = new WasmKernels();
    const floats = (...values) => new Float32Array(values).buffer;
    const add = { kernel: "add", entry: "add", bindings: ["a", "b", "y", ""], uniform: [4, 2] };
    const y = { name: "y", buffer: "y", dtype: "float32", shape: [4], bytes: 16 };
    const temporaries = [{ name: "y", bytes: 16 }];
    const plan = { steps: [add], temporaries, dropped: [], constants: ["b"], states: [], outputs: [y], repeats: 0 };
    const a = { name: "a", data: floats(1, 2, 3, 4) }, b = { name: "b", data: floats(10, 20) };
    const told = async (plan, tensors) => {
        try {
            const { value, tensors: answers } = await kernels.run(plan, tensors);
            const found = answers.map(({ bytes }) => [...new Float32Array(bytes.buffer, bytes.byteOffset, 4)]);
            return [found, value.times_ms.length, value.kept_bytes, value.passing_bytes];
        } catch (error) {
            return [error.kind, error.message];
        }
    };
"""
SUMS = [[11, 22, 13, 24]]


def test_constants_outlive_runs_until_they_are_freed_or_a_run_that_brought_them_fails():
    script = """
        const found = [await told(plan, [a]), await told(plan, [a, b]), await told({ ...plan, repeats: 3 }, [a])];
        found.push(kernels.statistics());
        found.push(await told({ ...plan, steps: [{ ...add, bindings: ["a", "c", "y", ""] }] }, [a, b]));
        found.push(kernels.statistics().count, await told(plan, [a]), await told(plan, [a, b]));
        kernels.free();
        found.push(kernels.statistics().count, await told(plan, [a]));
        return found;
    """
    missing = ["not_held", "nothing is kept as b in this page"]
    assert in_page(KERNELS_OF_A_PAGE + script) == [
        missing,
        [SUMS, 0, 8, 40],
        [SUMS, 3, 8, 40],
        {"count": 1, "bytes": 8},
        ["usage", "nothing was sent for c, and nothing writes it"],
        0,
        missing,
        [SUMS, 0, 8, 40],
        0,
        missing,
    ]


def test_states_are_zeros_at_first_and_written_in_place():
    script = """
        const steps = [{ ...add, bindings: ["s", "b", "s", ""] }];
        const state = { name: "s", bytes: 16, fresh: false };
        const next = { ...plan, steps, temporaries: [], states: [state], outputs: [{ ...y, buffer: "s" }] };
        const fresh = { ...next, states: [{ ...state, fresh: true }] };
        const found = [await told(next, [b]), await told(fresh, [b]), await told(next, []), await told(fresh, [])];
        found.push(await told(fresh, [{ name: "s", data: floats(1, 1, 1, 1) }]));
        found.push(await told(fresh, [{ name: "s", data: floats(1) }]), kernels.statistics().count);
        return found;
    """
    sums = [[[10, 20, 10, 20]], [[20, 40, 20, 40]], [[10, 20, 10, 20]], [[11, 21, 11, 21]]]
    assert in_page(KERNELS_OF_A_PAGE + script) == [
        ["not_held", "nothing is kept as s in this page"],
        *[[one, 0, 24, 8] for one in sums],
        ["usage", "s is of another size"],
        1,
    ]


def test_addresses_beyond_two_gib_are_no_negative_ones():
    script = """
        await told(plan, [a, b]);
        kernels.life.heap.take(2 ** 31 + 64);
        return [await told({ ...plan, constants: [] }, [a, b]), kernels.life.memory.buffer.byteLength > 2 ** 31];
    """
    assert in_page(KERNELS_OF_A_PAGE + script) == [[SUMS, 0, 8, 48], True]
