"""What every benchmark shares: arguments, the machine, statistics, the table and the file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.browsers.probe import lanes_table
from pytest_webaccel.pool.worker import Worker
from pytest_webaccel.report.statistics import summarise
from pytest_webaccel.terms import Backend, Browser, ProbeResult, Strategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Resamplings of an interval.
RESAMPLINGS = 2000


def arguments(
    name: str,
    given: Sequence[str] | None = None,
    *,
    backends: bool = False,
    quick: str = "a small sample, under two minutes",
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench.{name}")
    parser.add_argument("--out", type=Path, help="write rows as JSON to this file")
    parser.add_argument("--quick", action="store_true", help=quick)
    if backends:
        parser.add_argument("--backends", type=Backend, nargs="+", help="all that work here by default")
    return parser.parse_args(given)


def machine(table: Sequence[ProbeResult] = ()) -> dict[str, Any]:
    packages = ("pytest", "pytest-xdist", "playwright", "aiohttp", "numpy", "duckdb")
    installed = {}
    for package in packages:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = "not installed"
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "packages": installed,
        "lanes": {str(probe.lane): f"{probe.version} {probe.adapter} {probe.evidence}" for probe in table},
    }


def row(case: str, milliseconds: Sequence[float], *, evidence: str, **more: Any) -> dict[str, Any]:
    """Return the row of one sample, in milliseconds."""
    summary = summarise(milliseconds)
    interval = summary.median_interval
    return {
        "case": case,
        "n": summary.n,
        "median_ms": summary.median,
        "p95_ms": summary.p95,
        "median_low_ms": interval.low if interval else None,
        "median_high_ms": interval.high if interval else None,
        "evidence": evidence,
        **more,
    }


def chromium_table() -> tuple[ProbeResult, ...]:
    """Return the Chromium lanes that work here; ends with a message where there are none."""
    table = tuple(probe for probe in lanes_table([Browser.CHROMIUM]) if probe.works)
    if not table:
        raise SystemExit("no Chromium lane works here; see `python -m pytest_webaccel doctor`")
    return table


def start_worker(table: Sequence[ProbeResult]) -> Worker:
    return Worker(table, run_id="bench", worker="bench", strategy=Strategy.COORDINATED, record=lambda row: None)


def resampled(values: Sequence[float], chance: np.random.Generator) -> NDArray[Any]:
    """Return a median for each resampling."""
    medians: NDArray[Any] = np.median(chance.choice(values, (RESAMPLINGS, len(values))), axis=1)
    return medians


def ratio_of_medians(theirs: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """Return the ratio of the medians and its bootstrap interval of 95 %."""
    chance = np.random.default_rng(0)
    low, high = np.percentile(resampled(theirs, chance) / resampled(ours, chance), [2.5, 97.5])
    return statistics.median(theirs) / statistics.median(ours), float(low), float(high)


def median_of_ratios(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of the ratios round by round, and its bootstrap interval of 95 %."""
    ratios = [one / other for one, other in zip(before, after, strict=True)]
    low, high = np.percentile(resampled(ratios, np.random.default_rng(0)), [2.5, 97.5])
    return statistics.median(ratios), float(low), float(high)


def finish(
    name: str,
    rows: list[dict[str, Any]],
    table: Sequence[ProbeResult],
    out: Path | None,
    summary: Sequence[str] = (),
) -> None:
    """Print the rows as a table, and what they come to, and write them."""
    about = machine(table)
    print(f"{name} on {about['cores']} cores, {about['memory_gib']} GiB, {about['system']}, Python {about['python']}")
    columns = list(dict.fromkeys(key for entry in rows for key in entry))
    cells = [columns, *[[_cell(entry.get(column)) for column in columns] for entry in rows]]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    for told in summary:
        print(told)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        data = {"benchmark": name, "machine": about, **({"summary": list(summary)} if summary else {}), "rows": rows}
        out.write_text(json.dumps(data, indent=1) + "\n")
        print(f"written: {out}")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
