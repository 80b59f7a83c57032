"""How surely, and with how many runs, the operator to blame is found: one is planted, wrong, at a random place.

The models are random, of 10, 100 and 1,000 nodes: chains, and graphs whose nodes take their second input from anywhere
before them. The planted operator is off by one per cent; a model in which that is nowhere to be seen is drawn anew. The
lane runs them in its page; the reference is onnxruntime on the CPU. Found means that this operator, and no other, was
blamed, and confirmed to fail alone.
"""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.faces.runner import LaneRunner
from pytest_webaccel.parity.blame import find_blame
from pytest_webaccel.parity.reference import Reference
from pytest_webaccel.parity.verdict import Kind
from pytest_webaccel.report.statistics import bootstrap_median, percentile, wilson
from pytest_webaccel.terms import Backend
from tests.bench.common import arguments, chromium_table, finish, start_worker
from tests.parity.planting import WIDTH, Planted, chain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.parity.blame import Blame
    from pytest_webaccel.parity.verdict import Runner

_RUN_S = 60.0
_MOST_DRAWS = 20
#: What is measured: the backend, whether models branch, and their sizes. A software GPU is too slow for the largest.
_ARMS = (
    (Backend.CPU, False, (10, 100, 1000)),
    (Backend.CPU, True, (10, 100, 1000)),
    (Backend.WEBGPU, False, (10, 100)),
)


def planted(lane: Runner, nodes: int, number: int, *, branching: bool) -> tuple[Blame, int]:
    """Return what was blamed in try ``number``, and which node was wrong."""
    for drawn in range(_MOST_DRAWS):
        chance = np.random.default_rng([nodes, number, drawn] if drawn else [nodes, number])
        model, bad = chain(nodes, chance, branching=branching), int(chance.integers(nodes))
        feeds = {"x": chance.standard_normal((1, WIDTH)).astype(np.float32)}
        blame = find_blame(model, feeds, Planted(f"n{bad}", engine=lane), Reference())
        if blame.whole.kind is not Kind.AGREES:
            break
    return blame, bad


def measure(lane: LaneRunner, nodes: int, tries: int, evidence: str, *, branching: bool) -> dict[str, Any]:
    """Return the row of one size."""
    runs: list[float] = []
    seconds: list[float] = []
    found = 0
    for number in range(tries):
        blame, bad = planted(lane, nodes, number, branching=branching)
        found += (blame.nodes, blame.confirmed) == ((f"n{bad}",), True)
        runs.append(blame.runs)
        seconds.append(blame.seconds)
    interval = bootstrap_median(seconds)
    return {
        "where": lane.name,
        "shape": "branching" if branching else "chain",
        "nodes": nodes,
        "tries": tries,
        "n": tries,
        "found": found,
        "found_low": wilson(found, tries).low,
        "runs_median": statistics.median(runs),
        "runs_most": max(runs),
        "seconds_median": statistics.median(seconds),
        "seconds_p95": percentile(seconds, 95),
        "seconds_low": interval.low,
        "seconds_high": interval.high,
        "evidence": evidence,
    }


def main(given: Sequence[str] | None = None) -> int:
    options = arguments("parity", given)
    table = chromium_table()
    probes = {probe.lane.backend: probe for probe in table}
    tries = 5 if options.quick else 100
    worker, rows = start_worker(table), []
    try:
        for backend, branching, sizes in _ARMS:
            if (probe := probes.get(backend)) is None:
                print(f"no {backend} lane works here: left out", flush=True)
                continue
            with worker.lease(probe.lane, "bench") as lease:
                lane = LaneRunner(worker, lease, None, _RUN_S)
                for nodes in sizes[:2] if options.quick else sizes:
                    rows.append(measure(lane, nodes, tries, str(probe.evidence), branching=branching))
                    told = rows[-1]
                    print(
                        f"{told['where']}, {told['shape']}, {nodes} nodes: {told['found']} of {tries} found", flush=True
                    )
    finally:
        worker.stop()
    finish("parity", rows, table, options.out)
    return 0 if all(entry["found"] == entry["tries"] for entry in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
