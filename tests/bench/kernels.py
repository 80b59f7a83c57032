"""The project's own ``matmul_nbits`` beside onnxruntime-web's ``MatMulNBits``: the same weights, rows and page.

Every implementation is given ``x`` in the page's memory and hands back ``y`` there; in rounds, one after the other
and with all numbers of bits, so that a slow moment hits all. What is timed is the page's own time for the whole
request, told with each reply: buffers, upload, run, and what comes back. The first run, which compiles, is apart.
Peers run with ``accuracy_level`` 0, which computes in float32 as ours does, and 4, which may round ``x`` to eight
bits; what is better counts. A ratio is that of the better of onnxruntime-web's two WebGPU builds to ours on WebGPU, of
its WebNN to ours on WebNN, and of its wasm, on one thread, to ours on the CPU, so more than 1 is faster.

``--alone`` leaves the peers out, for more rounds of ours: what other bits, and ``--activations`` that are rounded
before they are multiplied, take beside 4 bits and float32.

onnxruntime-web may run on its wasm what it was asked to run on WebNN, or on WebGPU. ``placed`` is where its own log
says that nodes are; a peer of which none is on the accelerator has a row but counts for nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from pytest_webaccel.browsers.probe import lanes_table
from pytest_webaccel.engines.kernels import Computation, Resident, program
from pytest_webaccel.engines.kernels.rounded import Activations
from pytest_webaccel.engines.packing import quantise, to_matmul_nbits
from pytest_webaccel.errors import WebAccelError
from pytest_webaccel.pool.kernels import run_kernels
from pytest_webaccel.report.statistics import summarise
from pytest_webaccel.terms import CPU_PROVIDER, Backend, Browser, Lane, OrtBuild
from tests.bench.common import finish, ratio_of_medians, resampled, start_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.engines.onnx import Placement
    from pytest_webaccel.engines.packing import Packed
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker
    from pytest_webaccel.terms import ProbeResult

_GROUP = 32
#: Bits that others are held against.
_BITS = 4
_DEADLINE_S = 120.0
#: Normalised squared error below which an answer is right.
_RIGHT = 5e-4
#: Names of what is compared, with the backend and the build of each peer.
_PEERS: Mapping[str, tuple[Backend, OrtBuild]] = {
    "ort_jsep": (Backend.WEBGPU, OrtBuild.JSEP),
    "ort_webgpu": (Backend.WEBGPU, OrtBuild.NATIVE),
    "ort_webnn": (Backend.WEBNN, OrtBuild.JSEP),
    "ort_wasm": (Backend.CPU, OrtBuild.WASM),
}
#: The peers that ours is held against, by its backend.
_BESIDE: Mapping[Backend, tuple[str, ...]] = {
    Backend.WEBGPU: ("ort_jsep", "ort_webgpu"),
    Backend.WEBNN: ("ort_webnn",),
    Backend.CPU: ("ort_wasm",),
}
_ABOUT: Mapping[Backend, str] = {
    Backend.WEBGPU: "the better WebGPU build of onnxruntime-web",
    Backend.WEBNN: "onnxruntime-web on WebNN",
    Backend.CPU: "onnxruntime-web's wasm",
}
_SUFFIX = "ExecutionProvider"
#: What ``placed`` calls onnxruntime-web's wasm.
_WASM = CPU_PROVIDER.removesuffix(_SUFFIX)


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    rows: int
    k: int
    columns: int


@dataclasses.dataclass(slots=True)
class Sample:
    """An implementation of one shape: ``call`` runs it once. ``placed`` says where a peer's nodes are."""

    name: str
    backend: Backend
    bits: int
    call: Callable[[], Reply]
    activations: Activations = Activations.FLOAT32
    placed: str = ""
    first_ms: float = math.nan
    nmse: float = math.nan
    times: list[float] = dataclasses.field(default_factory=list)


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.kernels", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="write rows as JSON to this file")
    parser.add_argument("--quick", action="store_true", help="a small sample, under two minutes")
    parser.add_argument("--browser", type=Browser, nargs="+", default=[Browser.CHROMIUM])
    parser.add_argument("--backends", type=Backend, nargs="+", help="those of ours; all that work here by default")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 2, 3, 8])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048], help="of k and of the columns")
    parser.add_argument("--alone", action="store_true", help="leave onnxruntime-web out")
    parser.add_argument(
        "--activations",
        type=Activations,
        nargs="+",
        default=[Activations.FLOAT32],
        help="what x is rounded to before, on WebGPU",
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=10.0, help="most for the rounds of a shape, after three")
    return parser.parse_args(given)


def model(weights: Packed, accuracy: int) -> bytes:
    """Return an ONNX model of one ``MatMulNBits`` from ``x`` to ``y``."""
    nbits = to_matmul_nbits(weights)
    float32 = nbits.scales.astype(np.float32)
    attributes: dict[str, Any] = {**nbits.attributes, "accuracy_level": accuracy}
    node = helper.make_node("MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", nbits.k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", nbits.n])],
        [numpy_helper.from_array(nbits.b, "b"), numpy_helper.from_array(float32, "s")],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return made


class Bench:
    """Leased lanes, one for each backend, and what runs on them."""

    def __init__(self, worker: Worker, leases: Mapping[Backend, Lease]) -> None:
        self._worker = worker
        self._leases = leases

    def ours(self, backend: Backend, x: np.ndarray[Any, Any], weights: Packed, activations: Activations) -> Sample:
        lease = self._leases[backend]
        given = {"x": x, "weights": Resident(weights), "activations": activations}
        work = Computation(program("matmul_nbits", given).all_outputs())

        def call() -> Reply:
            return self._worker.call(run_kernels(lease, work, deadline=_DEADLINE_S), deadline=_DEADLINE_S)

        return Sample("ours", backend, weights.bits, call, activations)

    def theirs(self, name: str, x: np.ndarray[Any, Any], weights: Packed, accuracy: int) -> Sample:
        """Raise a WebAccelError where it does not load the model."""
        backend, build = _PEERS[name]
        lease = self._leases[backend]
        loaded = self._worker.call(
            lease.load(model(weights, accuracy), build, deadline=_DEADLINE_S), deadline=_DEADLINE_S
        )
        station = lease.lane.here
        self._worker.call(station.hold("x", x, deadline=_DEADLINE_S), deadline=_DEADLINE_S)

        async def run() -> Reply:
            request = station.engine.send_run(loaded, {}, None, deadline=_DEADLINE_S, held={"x": "x"})
            return await station.engine.answer(loaded, request)

        def call() -> Reply:
            return self._worker.call(run(), deadline=_DEADLINE_S)

        about = f"{name}{'' if accuracy == 0 else f' accuracy {accuracy}'}"
        return Sample(about, backend, weights.bits, call, placed=places(loaded.placement))

    def free(self) -> None:
        """Drop every model."""
        for lease in self._leases.values():
            for loaded in list(lease.lane.here.loaded.values()):
                self._worker.call(lease.drop(loaded, deadline=_DEADLINE_S), deadline=_DEADLINE_S)
            self._worker.call(lease.lane.here.free_constants(deadline=_DEADLINE_S), deadline=_DEADLINE_S)

    def samples(
        self, x: np.ndarray[Any, Any], weights: Packed, backends: Sequence[Backend], options: argparse.Namespace
    ) -> list[Sample]:
        found = [
            self.ours(backend, x, weights, activations)
            for backend in backends
            for activations in options.activations
            if backend is Backend.WEBGPU or activations is Activations.FLOAT32
        ]
        if options.alone or weights.bits == 3:  # MatMulNBits has no three bits
            return found
        for name, accuracy in itertools.product(_PEERS, (0, 4)):
            if _PEERS[name][0] not in self._leases:
                continue
            try:
                found.append(self.theirs(name, x, weights, accuracy))
            except WebAccelError as error:
                print(f"{name}, {weights.bits} bits, accuracy {accuracy}: {str(error)[:160]}", flush=True)
        return found


def places(placement: Placement) -> str:
    """Return the counts of nodes by execution provider, as ``1 WebNN``; empty where the log told none."""
    nodes = sorted(placement.nodes.items())
    return ", ".join(f"{count} {name.removesuffix(_SUFFIX)}" for name, count in nodes if count)


def counts(backend: Backend, placed: str, nmse: float) -> bool:
    """Whether a peer is right, and where it was asked to be with a node at least."""
    elsewhere = [part for part in placed.split(", ") if part and part.split()[1] != _WASM]
    return nmse < _RIGHT and (backend is Backend.CPU or bool(elsewhere))


def measure(bench: Bench, shape: Shape, backends: Sequence[Backend], options: argparse.Namespace) -> list[Sample]:
    chance = np.random.default_rng([shape.rows, shape.k, shape.columns])
    plain = chance.standard_normal((shape.columns, shape.k)).astype(np.float32)
    x = chance.standard_normal((shape.rows, shape.k)).astype(np.float32)
    samples = []
    for bits in options.bits:
        weights = quantise(plain, bits, group=_GROUP)
        right = x.astype(np.float64) @ weights.dequantised().astype(np.float64).T
        for sample in bench.samples(x, weights, backends, options):
            try:
                reply = sample.call()
            except WebAccelError as error:
                print(f"{sample.name}, {bits} bits, {shape}: {str(error)[:160]}", flush=True)
                continue
            sample.first_ms = reply.page_ms
            sample.nmse = float(np.square(reply.tensors["y"] - right).sum() / np.square(right).sum())
            samples.append(sample)
    begun = time.monotonic()
    for turn in range(options.rounds):
        if turn >= 3 and time.monotonic() - begun > options.seconds:
            break
        for sample in list(samples):
            try:
                sample.times.append(sample.call().page_ms)
            except WebAccelError as error:
                print(f"left out: {sample.name}, {sample.bits} bits, {shape}: {str(error)[:160]}", flush=True)
                samples.remove(sample)
    bench.free()
    return samples


def better(samples: Sequence[Sample], ours: Sample) -> Sample | None:
    """Return the fastest of onnxruntime-web's on the backend of ours that is right, and really there.

    What is alone is held against our own: rounded activations against float32, other bits against 4.
    """
    if ours.activations is not Activations.FLOAT32:
        return own(samples, ours, ours.bits)
    if len({one.name for one in samples}) == 1:
        return own(samples, ours, _BITS) if ours.bits != _BITS else None
    beside = [one for one in samples if one.bits == ours.bits and one.name.split()[0] in _BESIDE[ours.backend]]
    valid = [one for one in beside if counts(one.backend, one.placed, one.nmse)]
    return min(valid, key=lambda one: statistics.median(one.times), default=None)


def own(samples: Sequence[Sample], ours: Sample, bits: int) -> Sample | None:
    """Return our sample of float32 activations at so many bits."""
    kinds = [one for one in samples if one.name == ours.name and one.backend is ours.backend and one.bits == bits]
    return next((one for one in kinds if one.activations is Activations.FLOAT32), None)


def rows_of(shape: Shape, samples: Sequence[Sample], table: Mapping[Backend, ProbeResult]) -> list[dict[str, Any]]:
    rows = []
    for sample in samples:
        probe = table[sample.backend]
        summary = summarise(sample.times)
        interval = summary.median_interval
        told: dict[str, Any] = {
            "kernel": "matmul_nbits",
            "bits": sample.bits,
            "rows": shape.rows,
            "k": shape.k,
            "columns": shape.columns,
            "lane": str(probe.lane),
            "adapter": probe.adapter,
            "implementation": sample.name,
            "activations": str(sample.activations),
            "n": summary.n,
            "median_ms": summary.median,
            "median_low_ms": interval.low if interval else None,
            "median_high_ms": interval.high if interval else None,
            "p95_ms": summary.p95,
            "first_ms": sample.first_ms,
            "nmse": f"{sample.nmse:.1e}",
            "evidence": str(probe.evidence),
        }
        if sample.name != "ours":
            told["placed"] = sample.placed
        beside = better(samples, sample) if sample.name == "ours" else None
        if beside is not None:
            told["peer"] = f"{beside.name}, {beside.bits} bits" if beside.name == "ours" else beside.name
            told["peer_ms"] = statistics.median(beside.times)
            told["ratio"], told["ratio_low"], told["ratio_high"] = ratio_of_medians(beside.times, sample.times)
        rows.append(told)
    return rows


def summary_alone(found: Mapping[Shape, Sequence[Sample]], table: Mapping[Backend, ProbeResult]) -> list[str]:
    """Return how ours stand beside our own: geometric means over shapes, with bootstrap intervals of 95 %."""
    ratios: dict[tuple[Backend, int, Activations], list[tuple[float, Any]]] = {}
    for samples in found.values():
        for sample in samples:
            if beside := better(samples, sample):
                chance = np.random.default_rng(0)
                drawn = resampled(beside.times, chance) / resampled(sample.times, chance)
                ratio = statistics.median(beside.times) / statistics.median(sample.times)
                ratios.setdefault((sample.backend, sample.bits, sample.activations), []).append((ratio, drawn))
    lines = []
    for (backend, bits, activations), pairs in ratios.items():
        mean = statistics.geometric_mean([ratio for ratio, _ in pairs])
        low, high = np.percentile(np.exp(np.mean([np.log(drawn) for _, drawn in pairs], axis=0)), [2.5, 97.5])
        rounded = activations is not Activations.FLOAT32
        about = f"{bits} bits, x rounded to {activations}" if rounded else f"{bits} bits"
        beside_what = "float32" if rounded else f"our {_BITS} bits"
        lines.append(
            f"{table[backend].lane}, {about}: geometric mean {mean:.2f} times as fast as {beside_what} ({low:.2f} to "
            f"{high:.2f}) over {len(pairs)} shapes, least {min(ratio for ratio, _ in pairs):.2f}"
        )
    return lines


def right_times(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, Lane, int], dict[Shape, float]]:
    """Return the medians of what counts, of each implementation, lane and number of bits by shape."""
    found: dict[tuple[str, Lane, int], dict[Shape, float]] = {}
    for row in rows:
        if row["activations"] != Activations.FLOAT32:
            continue
        name = str(row["implementation"]).split()[0]  # of one implementation the better accuracy level
        shape, lane = Shape(row["rows"], row["k"], row["columns"]), Lane.parse(row["lane"])
        if name != "ours" and not counts(lane.backend, row["placed"], float(row["nmse"])):
            continue
        times = found.setdefault((name, lane, row["bits"]), {})
        times[shape] = min(times.get(shape, math.inf), row["median_ms"])
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the rows come to: geometric means over shapes, of medians."""
    found = right_times(rows)
    lines = []
    for (name, lane, bits), ours in found.items():
        if name != "ours":
            continue
        backend, cpu = lane.backend, Lane(lane.browser, Backend.CPU)
        beside: dict[str, dict[Shape, float]] = {}
        for peer in _BESIDE[backend]:
            for shape, time_ms in found.get((peer, lane, bits), {}).items():
                times = beside.setdefault(_ABOUT[backend], {})
                times[shape] = min(times.get(shape, math.inf), time_ms)
        if backend is not Backend.CPU:
            beside[_ABOUT[Backend.CPU]] = found.get(("ort_wasm", cpu, bits), {})
        if backend is Backend.WEBNN:
            many = {shape: ms for shape, ms in found.get(("ours", cpu, bits), {}).items() if shape.rows > 1}
            beside["our CPU path for more than one row"] = many
        if bits != 4:
            beside["our 4 bits"] = found.get(("ours", lane, 4), {})
        for about, times in beside.items():
            shared = [times[shape] / time_ms for shape, time_ms in ours.items() if shape in times]
            if shared:
                mean = statistics.geometric_mean(shared)
                lines.append(
                    f"{lane}, {bits} bits: geometric mean {mean:.2f} times as fast as {about} over {len(shared)} "
                    f"shapes, least {min(shared):.2f}"
                )
    return lines


def compared(
    browser: Browser, table: Sequence[ProbeResult], options: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of one browser's lanes, and what they come to."""
    probes = {probe.lane.backend: probe for probe in table}
    backends = options.backends or [backend for backend in _BESIDE if backend in probes]
    if missing := set(backends or _BESIDE) - set(probes):
        lanes = ", ".join(f"{browser}:{backend}" for backend in sorted(missing))
        raise SystemExit(f"{lanes} does not work here; see `python -m pytest_webaccel doctor`")
    if backends == [Backend.CPU]:
        probes = {Backend.CPU: probes[Backend.CPU]}
    shapes = [Shape(*parts) for parts in itertools.product(options.rows, options.sizes, options.sizes)]
    worker, rows = start_worker(list(probes.values())), []
    found: dict[Shape, list[Sample]] = {}
    try:
        leases = {backend: worker.lease(probe.lane, f"bench-{backend}") for backend, probe in probes.items()}
        bench = Bench(worker, {backend: lease.__enter__() for backend, lease in leases.items()})
        for number, shape in enumerate(shapes, 1):
            found[shape] = measure(bench, shape, backends, options)
            made = rows_of(shape, found[shape], probes)
            rows += made
            for ours in (row for row in made if row["implementation"] == "ours"):
                faster = f", {ours['ratio']:.2f} times as fast as {ours['peer']}" if "ratio" in ours else ""
                print(
                    f"{number} of {len(shapes)}: {ours['lane']}, {ours['bits']} bits, {ours['activations']}, "
                    f"{shape.rows} x {shape.k} x "
                    f"{shape.columns}: {ours['median_ms']:.2f} ms{faster}",
                    flush=True,
                )
        for lease in leases.values():
            lease.__exit__(None, None, None)
    finally:
        worker.stop()
    return rows, summary_alone(found, probes) if options.alone else summary(rows)


def main(given: Sequence[str] | None = None) -> int:
    options = parsed(given)
    if options.quick:
        options.bits, options.sizes, options.rounds = [4], [1024], 5
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    whole: list[ProbeResult] = []
    for browser in options.browser:
        table = tuple(probe for probe in lanes_table([browser]) if probe.works)
        made, told = compared(browser, table, options)
        rows, lines = [*rows, *made], [*lines, *told]
        whole += table
    finish("kernels_alone" if options.alone else "kernels", rows, whole, options.out, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
