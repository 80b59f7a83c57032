"""The page's own account of kernels on WebNN, in a real browser: what no request from outside can bring about."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engines.pages import in_page

LANE = """
    const { LaneDevice } = await import("/page/device.mjs");
    const { WebnnKernels } = await import("/page/webnn.mjs");
    const device = new LaneDevice("webnn", () => {});
    await device.renew();
    const kernels = new WebnnKernels(device);
    const spec = (shape, more = {}) => ({ dtype: "float32", shape, offset: 0, packed: null, baked: false, ...more });
    const output = (bytes) => ({ name: "y", buffer: "t", dtype: "float32", shape: [bytes / 4], bytes });
    const silu = (count) => ({
        codes: ["/kernels/silu/silu.mjs"],
        steps: [{ kernel: "silu", code: 0, bindings: ["x", "t"], graph: {
            operands: { x: { binding: 0, shape: [count], spec: spec([count]) } }, outputs: { y: 1 }, attributes: {},
        } }],
        dropped: [], constants: [], outputs: [output(4 * count)], repeats: 0,
    });
    const product = (key, baked) => ({
        codes: ["/kernels/matmul_nbits/matmul_nbits.mjs"],
        steps: [{ kernel: "matmul_nbits", code: 0, bindings: ["x", key, "t"], graph: {
            operands: {
                x: { binding: 0, shape: [1, 4], spec: spec([1, 4]) },
                weights: { binding: 1, shape: [2, 4], spec: spec([2, 4], { baked: Boolean(baked) }) },
            },
            outputs: { y: 2 }, attributes: { baked },
        } }],
        dropped: [], constants: [key], outputs: [output(8)], repeats: 0,
    });
    const floats = (name, count, value) => ({ name, data: new Float32Array(count).fill(value).buffer });
    const failed = (work) => work.then(() => "done", (error) => error.kind);
    const numbers = (answer) => [...new Float32Array(answer.tensors[0].bytes.slice().buffer)];
"""


def in_lane(script: str) -> Any:
    """Return what ``script`` returns in a page that has a WebNN lane's device; skips where there is no WebNN."""
    has = "globalThis.navigator.ml?.createContext().then(() => true, () => false)"
    return in_page(LANE + script, needs=has, lacking="this Chromium has no WebNN")


def test_graphs_are_kept_but_not_without_end():
    found = in_lane("""
        const sizes = [];
        for (let count = 1; count <= 40; count++) {
            const answer = await kernels.run(silu(count), [floats("x", count, 0)]);
            if (numbers(answer).some((value) => value !== 0)) throw new Error(`wrong for ${count}`);
            await kernels.run(silu(1), [floats("x", 1, 0)]);
            sizes.push(kernels.own.graphs.size);
        }
        return [Math.max(...sizes), sizes.at(-1), [...kernels.own.graphs.values()].some(({ users }) => users)];
    """)
    assert found == [32, 32, False]


def test_a_graph_that_runs_is_not_ended_by_others_that_come():
    found = in_lane("""
        const slow = { ...silu(5), repeats: 50 };
        const running = kernels.run(slow, [floats("x", 5, 0)]);
        for (let count = 6; count < 50; count++) await kernels.run(silu(count), [floats("x", count, 0)]);
        return (await running).value.times_ms.length;
    """)
    assert found == 50


@pytest.mark.parametrize("baked", [0, 1])
def test_constants_are_counted_and_freed_and_asked_for_again(baked):
    found = in_lane(f"""
        const sent = [floats("x", 4, 1), floats("k", 8, 2)];
        const first = numbers(await kernels.run(product("k", {baked}), sent));
        const kept = kernels.statistics();
        const again = numbers(await kernels.run(product("k", {baked}), sent.slice(0, 1)));
        kernels.free();
        const after = kernels.statistics();
        const missing = await failed(kernels.run(product("k", {baked}), sent.slice(0, 1)));
        const third = numbers(await kernels.run(product("k", {baked}), sent));
        return {{ first, kept, again, after, missing, third }};
    """)
    right = [8, 8]
    assert found == {
        "first": right,
        "kept": {"count": 1, "bytes": 32 * (1 + baked)},
        "again": right,
        "after": {"count": 0, "bytes": 0},
        "missing": "not_held",
        "third": right,
    }


def test_a_context_that_is_lost_fails_what_runs_and_its_belongings_are_forgotten():
    found = in_lane("""
        await kernels.run(product("k", 0), [floats("x", 4, 1), floats("k", 8, 2)]);
        const running = failed(kernels.run({ ...silu(5), repeats: 10_000 }, [floats("x", 5, 0)]));
        setTimeout(() => device.context.destroy(), 20);
        const lost = await running;
        const later = await failed(kernels.run(silu(5), [floats("x", 5, 0)]));
        await device.renew();
        const missing = await failed(kernels.run(product("k", 0), [floats("x", 4, 1)]));
        const again = numbers(await kernels.run(silu(5), [floats("x", 5, 0)]));
        return { lost, later, missing, again, kept: kernels.statistics().count };
    """)
    assert found == {
        "lost": "device_lost",
        "later": "device_lost",
        "missing": "not_held",
        "again": [0] * 5,
        "kept": 0,
    }


def test_what_a_builder_refuses_is_said_with_the_kernel():
    found = in_lane("""
        const plan = silu(4);
        plan.steps[0].graph.operands.x.shape = [5];
        return kernels.run(plan, [floats("x", 4, 0)]).then(String, ({ kind, message }) => [kind, message]);
    """)
    assert found[0] == "kernel"
    assert found[1].startswith("silu: ")


def test_a_context_without_int4_is_given_the_next_wider_type():
    found = in_lane("""
        const form = { bits: 4, group: 32, rows: 1, columns: 32, scale_bits: 32, has_zeros: false };
        const part = (name, dtype, shape) => spec(shape, { dtype, packed: { ...form, part: name } });
        const plan = (key) => ({
            codes: ["/kernels/matmul_nbits/matmul_nbits.mjs"],
            steps: [{ kernel: "matmul_nbits", code: 0, bindings: ["x", key, "t"], graph: {
                operands: {
                    x: { binding: 0, shape: [1, 32], spec: spec([1, 32]) },
                    codes: { binding: 1, shape: [1, 32], spec: part("codes", "int4", [1, 32]) },
                    scales: { binding: 1, shape: [1, 1], spec: part("scales", "float32", [1, 1]) },
                    zeros: { binding: 1, shape: [1, 1], spec: part("zeros", "int4", [1, 1]) },
                },
                outputs: { y: 2 }, attributes: { baked: 0 },
            } }],
            dropped: [], constants: [key], outputs: [output(4)], repeats: 0,
        });
        const words = new Uint32Array([0x76543210, 0xfedcba98, 0x76543210, 0xfedcba98, 0]);
        new Float32Array(words.buffer)[4] = 0.5;
        const weights = (name) => ({ name, data: words.buffer });
        const dtypes = () => [...kernels.own.kept.values()].flatMap(({ tensors }) =>
            [...tensors.values()].map(({ dataType }) => dataType));
        const x = floats("x", 32, 1);
        const first = [numbers(await kernels.run(plan("a"), [x, weights("a")])), dtypes()];
        kernels.free();
        const limits = device.context.opSupportLimits();
        limits.dequantizeLinear.input.dataTypes = ["int8", "uint8"];
        device.context.opSupportLimits = () => limits;
        const second = [numbers(await kernels.run(plan("a"), [x, weights("a")])), dtypes()];
        return [first, second];
    """)
    right = [sum(2 * (code - 8) * 0.5 for code in range(16))]
    assert found == [[right, ["int4", "float32", "int4"]], [right, ["int8", "float32", "int8"]]]
