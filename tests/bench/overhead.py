"""What the plugin costs: at start where it is unused, a test, and a lease, beside Playwright's context and page.

``start_*`` are whole pytest processes over an empty folder, with and without the plugin, in turn. Times of
tests are those of the whole ``pytest_runtest_protocol``, so fixtures and clean-up count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.common import arguments, chromium_table, finish, row, start_worker
from tests.bench.peers import PlaywrightPage

if TYPE_CHECKING:
    from collections.abc import Sequence

_SUITE = """
def test_plain(index):
    pass

def test_on_lane(webaccel, index):
    pass
"""

_TIMER = """
import json, os, time
import pytest

TIMES = {}

def pytest_generate_tests(metafunc):
    if "index" in metafunc.fixturenames:
        metafunc.parametrize("index", range(int(os.environ["BENCH_TESTS"])))

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    begun = time.perf_counter()
    try:
        return (yield)
    finally:
        TIMES.setdefault(item.originalname, []).append((time.perf_counter() - begun) * 1000)

def pytest_unconfigure():
    with open(os.environ["BENCH_OUT"], "w") as file:
        json.dump(TIMES, file)
"""


def start_times(rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of whole pytest processes by case, measured in turn."""
    commands = {"start_without": ["-p", "no:webaccel"], "start_with": []}
    times: dict[str, list[float]] = {case: [] for case in commands}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(rounds + 1):
            for case, more in commands.items():
                begun = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *more, folder],
                    cwd=folder,
                    capture_output=True,
                    check=False,
                    timeout=60,
                )
                if index:  # the first round warms the file cache
                    times[case].append((time.perf_counter() - begun) * 1000)
    return times


def test_times(tests: int, lane: str) -> dict[str, list[float]]:
    """Return milliseconds of whole test protocols by test function, from one session on ``lane``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_suite.py").write_text(_SUITE)
        (folder / "conftest.py").write_text(_TIMER)
        out = folder / "times.json"
        environment = {**os.environ, "BENCH_TESTS": str(tests), "BENCH_OUT": str(out)}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--webaccel-lanes={lane}", name],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if not out.exists():
            raise SystemExit(done.stdout + done.stderr)
        times: dict[str, list[float]] = json.loads(out.read_text())
    if len(times.get("test_on_lane", ())) != tests:
        raise SystemExit(f"the suite did not run whole:\n{done.stdout}")
    return {case: values[1:] for case, values in times.items()}  # the first one starts the lane


def main(given: Sequence[str] | None = None) -> int:
    options = arguments("overhead", given)
    rounds, tests, leases = (8, 60, 60) if options.quick else (40, 400, 400)
    table = chromium_table()
    probe = next((entry for entry in table if entry.lane.backend == "cpu"), table[0])
    evidence = str(probe.evidence)
    samples = start_times(rounds)
    samples.update(test_times(tests, str(probe.lane)))
    worker = start_worker(table)
    try:
        with PlaywrightPage(probe) as peer:
            with worker.lease(probe.lane, "bench"):
                pass  # started now, warm from here
            warm: list[float] = []
            for _ in range(leases):
                begun = time.perf_counter()
                with worker.lease(probe.lane, "bench"):
                    warm.append((time.perf_counter() - begun) * 1000)
            samples["lease_warm"] = warm
            samples["playwright_context_page"] = peer.contexts(max(leases // 10, 10))
    finally:
        worker.stop()
    rows = [row(case, times, evidence=evidence) for case, times in samples.items()]
    median = {entry["case"]: entry["median_ms"] for entry in rows}
    finish("overhead", rows, table, options.out)
    print(f"start, with less without: {median['start_with'] - median['start_without']:+.1f} ms")
    print(f"a test on a leased lane, less a plain test: {median['test_on_lane'] - median['test_plain']:+.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
