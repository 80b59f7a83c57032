"""The conformance suite as a whole, and what a test costs in it beside a page of its own for each.

The suite is run as users run it, over two workers, on every Chromium lane that works; its rows are those of its own
database. Then a sample of its tests is run twice on each lane, interleaved: in the one page that stays, as the suite
does, and in a new page of the same browser for each.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_webaccel.conformance.cases import NodeCase, catalogue
from pytest_webaccel.faces.runner import LaneRunner
from pytest_webaccel.history import Store
from pytest_webaccel.parity.verdict import Kind
from pytest_webaccel.rows import ConformanceRow
from tests.bench.common import chromium_table, finish, row, start_worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.pool.worker import Worker
    from pytest_webaccel.terms import ProbeResult

_RUN_S = 30.0
_SUITE_S = 3600.0


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.conformance", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="write rows as JSON to this file")
    parser.add_argument("--quick", action="store_true", help="a small sample, under two minutes")
    return parser.parse_args(given)


def suite(*, quick: bool) -> list[dict[str, Any]]:
    """Run the suite in a process of its own; return a row for each lane."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "conformance.duckdb"
        command = [sys.executable, "-m", "pytest", "--pyargs", "pytest_webaccel.conformance", "-n", "2", "-q"]
        command += ["-p", "no:cacheprovider", "-p", "no:playwright", "--tb=no", "--webaccel-browser=chromium"]
        command += [f"--webaccel-db={database}", *(["-k", "test_abs or test_conv_"] if quick else [])]
        begun = time.perf_counter()
        done = subprocess.run(command, cwd=folder, timeout=_SUITE_S, check=False, capture_output=True, text=True)
        seconds = time.perf_counter() - begun
        print("\n".join(done.stdout.splitlines()[-12:]), flush=True)
        with Store.open(database, read_only=True) as store:
            found = store.rows(ConformanceRow)
    rows = []
    for lane, build, version, evidence in sorted({(one.lane, one.build, one.version, one.evidence) for one in found}):
        mine = [one for one in found if one.lane == lane]
        counts = Counter(one.kind for one in mine)
        rows.append(
            row(
                f"suite, {lane}",
                [one.ms for one in mine],
                evidence=str(evidence),
                lane=lane,
                engine=f"{version} {build}",
                **{str(kind): counts[str(kind)] for kind in Kind},
                not_as_expected=sum(one.kind != one.expected for one in mine),
                seconds=seconds,
            )
        )
    return rows


def costs(worker: Worker, probe: ProbeResult, cases: Sequence[NodeCase]) -> list[dict[str, Any]]:
    """Time each of ``cases`` on a lane, in the page that stays and in a page of its own."""
    times: dict[str, list[float]] = {"one page": [], "a page for each": []}
    with worker.lease(probe.lane, "bench") as lease:
        runner = LaneRunner(worker, lease, None, _RUN_S)
        model, stored = cases[0].read()
        runner.run(model, stored.feeds)
        for number, case in enumerate(cases):
            model, stored = case.read()
            for way in sorted(times, reverse=bool(number % 2)):
                begun = time.perf_counter()
                if way == "a page for each":
                    worker.call(lease.lane.here.new_page(deadline=_RUN_S), deadline=_RUN_S)
                runner.run(model, stored.feeds)
                times[way].append((time.perf_counter() - begun) * 1000)
    return [row(f"{way}, {probe.lane}", taken, evidence=str(probe.evidence)) for way, taken in times.items()]


def main(given: Sequence[str] | None = None) -> int:
    options = parsed(given)
    table = chromium_table()
    rows = suite(quick=options.quick)
    takeable = [case for case in catalogue() if not case.obstacle]
    cases = random.Random(2026).sample(takeable, 5 if options.quick else 60)
    worker = start_worker(table)
    try:
        for probe in table:
            rows += costs(worker, probe, cases)
    finally:
        worker.stop()
    finish("conformance", rows, table, options.out)
    return 0 if rows and not any(entry.get("not_as_expected") for entry in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
