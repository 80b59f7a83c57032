"""How surely, and with how many runs, the operator to blame is found: one is planted, wrong, at a random place.

The models are random chains of 10, 100 and 1,000 nodes in which an error anywhere reaches the end. The lane runs them
in its page, with the planted operator off by one per cent; the reference is onnxruntime on the CPU. Found means that
this operator, and no other, was blamed, and confirmed to fail alone.
"""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.faces.runner import LaneRunner
from pytest_webaccel.parity.blame import find_blame
from pytest_webaccel.parity.reference import Reference
from pytest_webaccel.report.statistics import bootstrap_median, percentile, wilson
from tests.bench.common import arguments, chromium_table, finish, start_worker
from tests.parity.planting import WIDTH, Planted, chain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.parity.verdict import Runner

_RUN_S = 60.0
_SIZES = (10, 100, 1000)


def measure(lane: Runner, nodes: int, tries: int, evidence: str) -> dict[str, Any]:
    """Return the row of one size."""
    runs: list[float] = []
    seconds: list[float] = []
    found = 0
    for number in range(tries):
        chance = np.random.default_rng([nodes, number])
        model, bad = chain(nodes, chance), int(chance.integers(nodes))
        feeds = {"x": chance.standard_normal((1, WIDTH)).astype(np.float32)}
        blame = find_blame(model, feeds, Planted(f"n{bad}", engine=lane), Reference())
        found += (blame.nodes, blame.confirmed) == ((f"n{bad}",), True)
        runs.append(blame.runs)
        seconds.append(blame.seconds)
    interval = bootstrap_median(seconds)
    return {
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
    probe = next((entry for entry in table if entry.lane.backend == "cpu"), table[0])
    sizes, tries = ((10, 100), 5) if options.quick else (_SIZES, 100)
    worker = start_worker(table)
    try:
        with worker.lease(probe.lane, "bench") as lease:
            lane = LaneRunner(worker, lease, None, _RUN_S)
            rows = []
            for nodes in sizes:
                rows.append(measure(lane, nodes, tries, str(probe.evidence)))
                print(f"{nodes} nodes: {rows[-1]['found']} of {tries} found", flush=True)
    finally:
        worker.stop()
    finish("parity", rows, table, options.out)
    return 0 if all(entry["found"] == entry["tries"] for entry in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
