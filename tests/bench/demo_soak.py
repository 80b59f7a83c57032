"""The demo's fault tests, many times in a row; after each run nothing may be left running or lying about.

Ends with 0 only if every run passed, every recovery is ``recovered`` in its database, and no process, profile
or temporary folder of ours is left. Progress is printed run by run; ``--runs`` sets how many.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pytest_webaccel.report.statistics import wilson
from tests.bench.common import machine

if TYPE_CHECKING:
    from collections.abc import Sequence


def leftovers(before: set[int], scratch: Path) -> list[str]:
    """Return what a run left behind: processes that were not there before, and files in its own temporary folder."""
    found = []
    for process in psutil.process_iter(["pid", "name", "cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if process.info["pid"] not in before and str(scratch) in command:
            found.append(f"process {process.info['pid']}: {command[:100]}")
    found += [f"left in the temporary folder: {path.name}" for path in scratch.glob("webaccel*")]
    return found


def one_run(root: Path, scratch: Path, seed: int) -> tuple[bool, str, list[tuple[str, str, str, float]]]:
    """Run the fault tests once; return whether all is well, why not, and (fault, strategy, outcome, ms) rows."""
    import duckdb

    database = scratch / "soak.duckdb"
    before = {process.pid for process in psutil.process_iter()}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "tests/demo/test_faults.py", "-n", "2", "-q", "-p", "no:cacheprovider"),
            *(f"--webaccel-seed={seed}", f"--webaccel-db={database}"),
        ],
        cwd=root,
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    rows = []
    if database.exists():
        with duckdb.connect(str(database), read_only=True) as connection:
            rows = connection.execute("select fault, strategy, outcome, total_ms from recoveries").fetchall()
    left = leftovers(before, scratch)
    trouble = left + [
        f"{fault} {strategy}: {outcome}" for fault, strategy, outcome, _ in rows if outcome != "recovered"
    ]
    if done.returncode:
        trouble.append(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}")
    if not rows:
        trouble.append("no recovery was recorded")
    return not trouble, "; ".join(trouble), rows


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.demo_soak")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="two runs")
    options = parser.parse_args(given)
    root = Path(__file__).parents[2]
    runs = 2 if options.quick else options.runs
    good, seconds, recoveries = 0, [], []
    for index in range(runs):
        with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
            begun = time.perf_counter()
            well, trouble, rows = one_run(root, Path(scratch), seed=index)
            seconds.append(time.perf_counter() - begun)
        good += well
        recoveries += rows
        print(
            f"run {index + 1}/{runs}: {'well' if well else trouble} ({len(rows)} recoveries, {seconds[-1]:.0f} s)",
            flush=True,
        )
    recovered = sum(outcome == "recovered" for _, _, outcome, _ in recoveries)
    low = wilson(recovered, len(recoveries)).low if recoveries else 0.0
    print(f"{good} of {runs} runs well; {recovered} of {len(recoveries)} faults recovered (Wilson 95 % low {low:.4f})")
    if options.out:
        row = {"case": "demo_soak", "n": runs, "well": good, "faults": len(recoveries), "recovered": recovered}
        row |= {"success_low": low, "seconds_median": sorted(seconds)[len(seconds) // 2], "evidence": "software"}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            json.dumps({"benchmark": "demo_soak", "machine": machine(), "rows": [row]}, indent=1) + "\n"
        )
    return 0 if good == runs else 1


if __name__ == "__main__":
    sys.exit(main())
