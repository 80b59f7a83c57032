"""What the bridge costs: a round trip, tensors into and out of the page, beside Playwright's ``evaluate``.

Both run in the same Chromium build, one after the other in rounds, so that a slow moment hits both.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.bench.common import arguments, chromium_table, finish, row, start_worker
from tests.bench.peers import PlaywrightPage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.worker import Worker

MIB = 1 << 20
EVALUATE_BYTES = 1 * MIB


async def _times(work: Callable[[], Any], n: int) -> list[float]:
    times = []
    for _ in range(n):
        begun = time.perf_counter()
        await work()
        times.append((time.perf_counter() - begun) * 1000)
    return times


def _round_trips(worker: Worker, lane: LiveLane, n: int) -> list[float]:
    channel = lane.here.channel
    return worker.call(_times(lambda: channel.request("echo", {"value": 1}, deadline=10.0), n), deadline=120.0)


def _into(worker: Worker, lane: LiveLane, size: int, n: int) -> list[float]:
    channel, data = lane.here.channel, np.arange(size, dtype=np.uint8)
    work = _times(lambda: channel.request("sink", tensors={"data": data}, deadline=30.0), n)
    return worker.call(work, deadline=600.0)


def _out_of(worker: Worker, lane: LiveLane, size: int, n: int) -> list[float]:
    channel = lane.here.channel
    return worker.call(_times(lambda: channel.request("source", {"bytes": size}, deadline=30.0), n), deadline=600.0)


def main(given: Sequence[str] | None = None) -> int:
    options = arguments("bridge", given)
    rounds, trips, transfers = (2, 200, 5) if options.quick else (5, 1000, 20)
    table = chromium_table()
    probe = table[0]
    evidence = str(probe.evidence)
    samples: dict[tuple[str, int], list[float]] = {}

    def add(case: str, size: int, times: list[float]) -> None:
        samples.setdefault((case, size), []).extend(times)

    worker = start_worker(table)
    try:
        with PlaywrightPage(probe) as peer, worker.lease(probe.lane, "bench") as lease:
            _round_trips(worker, lease.lane, 50)
            for _ in range(rounds):
                add("round_trip", 0, _round_trips(worker, lease.lane, trips))
                add("evaluate", 0, peer.round_trips(trips // 5))
                for size in (64 * 1024, MIB, 16 * MIB):
                    add("into_page", size, _into(worker, lease.lane, size, transfers))
                    add("out_of_page", size, _out_of(worker, lease.lane, size, transfers))
                add("evaluate", EVALUATE_BYTES, peer.transfers(EVALUATE_BYTES // 4, 2))
    finally:
        worker.stop()
    rows = []
    for (case, size), times in sorted(samples.items()):
        entry = row(case, times, evidence=evidence, bytes=size, lane=str(probe.lane))
        moved = 2 * size if case == "evaluate" else size
        entry["mb_per_s"] = moved / 1e6 / (entry["median_ms"] / 1000) if size else None
        rows.append(entry)
    finish("bridge", rows, table, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
