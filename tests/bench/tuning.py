"""What tuning gains over the untuned defaults, and whether one workgroup size for a browser would do.

Each kernel and shape is tuned on the lane (``webaccel.tune``'s search), then run in rounds as it is untuned, as it was
tuned, and untuned but for a WORKGROUP of 256, which an older system set for Firefox without measuring. ``gain`` is the
median of the rounds' ratios of untuned to tuned, with its bootstrap interval; ``of_256`` the same of untuned to 256.
Milliseconds are the page's, from the upload of the inputs to the outputs; weights stay on the device.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.browsers.probe import lanes_table
from pytest_webaccel.engines.kernels import KEPT, Computation, Resident, manifest, program
from pytest_webaccel.engines.packing import quantise
from pytest_webaccel.engines.packing.quantise import Search
from pytest_webaccel.errors import ConfigurationError, ModelError
from pytest_webaccel.faces.choices import Choices
from pytest_webaccel.faces.tuning import Tuner
from pytest_webaccel.pool.kernels import run_kernels, timings
from pytest_webaccel.terms import Backend, Browser
from tests.bench.common import finish, median_of_ratios, start_worker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker
    from pytest_webaccel.terms import ProbeResult

_DEADLINE_S = 120.0
_OTHER = 256


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tuning", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="write rows as JSON to this file")
    parser.add_argument("--quick", action="store_true", help="a small sample, under two minutes")
    parser.add_argument("--browser", type=Browser, nargs="+", default=[Browser.CHROMIUM])
    parser.add_argument("--seconds", type=float, default=40.0, help="most for the search of a shape")
    parser.add_argument("--rounds", type=int, default=21)
    return parser.parse_args(given)


def cases(*, quick: bool) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return a kernel and its inputs, by the name of the case."""
    chance = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray[Any, Any]:
        return chance.standard_normal(shape).astype(np.float32)

    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for bits, rows, k, columns in [
        (4, 1, 1024, 1024),
        (4, 16, 1024, 1024),
        (4, 128, 1024, 1024),
        (4, 1, 2048, 2048),
        (4, 16, 1024, 2048),
        (3, 1, 1024, 1024),
        (3, 16, 1024, 1024),
        (2, 1, 1024, 1024),
        (2, 16, 1024, 1024),
        (8, 16, 1024, 1024),
    ]:
        weights = quantise(drawn(columns, k), bits, search=Search.NEAREST)
        found[f"{bits} bits, {rows} x {k} x {columns}"] = ("matmul_nbits", {"x": drawn(rows, k), "weights": weights})
    heads = {name: drawn(128, 12, 32) for name in ("q", "k", "v")}
    found["128 x 12 x 32"] = ("self_attention", heads)
    found["512 x 1024"] = ("layer_norm", {"x": drawn(512, 1024), "weight": drawn(1024), "bias": drawn(1024)})
    found["512 x 1024, rows"] = ("softmax", {"x": drawn(512, 1024)})
    found["512 x 1024, each"] = ("gelu", {"x": drawn(512, 1024)})
    return dict(list(found.items())[:2]) if quick else found


class Bench:
    """A leased lane on which kernels are tuned and timed."""

    def __init__(self, worker: Worker, lease: Lease, options: argparse.Namespace) -> None:
        self._worker = worker
        self._lease = lease
        self._options = options

    def row(self, kernel: str, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what one case gains; None where it does not run untuned, or no more as it was tuned."""
        kept = {name: Resident(one) if name in KEPT.get(kernel, ()) else one for name, one in inputs.items()}
        tuner = Tuner(self._worker, self._lease, "bench", Choices(None), lambda line: None)
        seconds = self._options.seconds
        tuning = tuner.tune(kernel, kept, whole=False, repeats=5, seconds=seconds, timeout=_DEADLINE_S)
        untuned, best = dict(tuning.untuned.constants), dict(tuning.best.constants)
        arms = {"untuned": untuned, "tuned": best, "other": {**untuned, "WORKGROUP": _OTHER}}
        times: dict[str, list[float]] = {name: [] for name in arms}
        for turn in range(self._options.rounds):
            for name in list(arms) if turn % 2 else list(reversed(arms)):
                took = self._time(kernel, kept, arms[name])
                if took is None:
                    arms.pop(name)
                    times.pop(name)
                else:
                    times[name].append(took)
            if not {"untuned", "tuned"} <= set(arms):
                break
        work = self._lease.lane.here.free_constants(deadline=_DEADLINE_S)
        self._worker.call(work, deadline=_DEADLINE_S)
        if lost := {"untuned", "tuned"} - set(arms):
            print(f"left out: a case of {kernel} that does not run {' nor '.join(sorted(lost))}", flush=True)
            return None
        changed = {name: value for name, value in best.items() if untuned[name] != value}
        told: dict[str, Any] = {"candidates": len(tuning.timings), "n": len(times["tuned"])}
        told |= {f"{name}_ms": statistics.median(took) for name, took in times.items() if name != "other"}
        told["gain"], told["gain_low"], told["gain_high"] = median_of_ratios(times["untuned"], times["tuned"])
        if "other" in times:
            told["of_256"], told["of_256_low"], told["of_256_high"] = median_of_ratios(times["untuned"], times["other"])
        return {**told, "tuned": " ".join(f"{name}={value}" for name, value in changed.items())}

    def _time(self, kernel: str, inputs: Mapping[str, Any], constants: Mapping[str, int]) -> float | None:
        """Return the milliseconds of a run that is compiled; None where these constants cannot be."""
        work = Computation(program(kernel, inputs, constants).all_outputs())
        try:
            request = run_kernels(self._lease, work, deadline=_DEADLINE_S, repeats=1)
            return timings(self._worker.call(request, deadline=_DEADLINE_S), 1).times_ms[0]
        except (ConfigurationError, ModelError):
            return None


def summary(rows: Sequence[Mapping[str, Any]], about: str) -> list[str]:
    """Return the geometric means over shapes, with intervals as if the shapes' own errors were independent."""
    lines = []
    for name, what in (("gain", "tuned"), ("of_256", "a WORKGROUP of 256 everywhere")):
        found = [row for row in rows if name in row]
        if not found:
            continue
        mean = statistics.geometric_mean([row[name] for row in found])
        errors = [math.log(row[f"{name}_high"] / row[f"{name}_low"]) / 2 for row in found]
        off = math.sqrt(sum(error**2 for error in errors)) / len(errors)
        better = sum(row[f"{name}_low"] > 1 for row in found)
        worse = sum(row[f"{name}_high"] < 1 for row in found)
        lines.append(
            f"{about}: {what} is {mean:.2f} times as fast as untuned ({mean * math.exp(-off):.2f} to "
            f"{mean * math.exp(off):.2f}) over {len(found)} cases, faster in {better}, slower in {worse}"
        )
    return lines


def main(given: Sequence[str] | None = None) -> int:
    options = parsed(given)
    if options.quick:
        options.seconds, options.rounds = 15.0, 7
    table = [probe for probe in lanes_table(options.browser) if probe.lane.backend is Backend.WEBGPU and probe.works]
    if not table:
        raise SystemExit("no WebGPU lane of these works here; see `python -m pytest_webaccel doctor`")
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    for probe in table:
        found = tuned(probe, options)
        rows += found
        lines += summary(found, f"{probe.lane}, {probe.adapter}")
    finish("tuning", rows, table, options.out, lines)
    return 0


def tuned(probe: ProbeResult, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of one lane."""
    worker = start_worker([probe])
    rows: list[dict[str, Any]] = []
    try:
        with worker.lease(probe.lane, "bench") as lease:
            bench = Bench(worker, lease, options)
            for name, (kernel, inputs) in cases(quick=options.quick).items():
                assert _OTHER in manifest(kernel).tunable["WORKGROUP"], kernel
                about = {"kernel": kernel, "shape": name, "lane": str(probe.lane), "adapter": probe.adapter}
                if (found := bench.row(kernel, inputs)) is None:
                    continue
                rows.append({**about, **found, "evidence": str(probe.evidence)})
                print(f"{kernel}, {name}: {rows[-1]['gain']:.2f} ({rows[-1]['tuned']})", flush=True)
    finally:
        worker.stop()
    return rows


if __name__ == "__main__":
    sys.exit(main())
