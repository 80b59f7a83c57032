"""The recovery matrix: every strategy under every fault, on real lanes, beside what others do about the same faults.

A randomised block design. Every trial is written to ``--state`` at once, so a rerun goes on where the last one ended:
after Ctrl-C, after ``--minutes``, after a crash. Nothing is measured twice and nothing is lost.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_webaccel.browsers.probe import lanes_table
from pytest_webaccel.terms import Browser, Fault, Lane, Strategy
from tests.bench.common import machine
from tests.bench.matrix.design import Arm, Cell, Counts, Excluded, Trial, blocks, cells, chosen, counts
from tests.bench.matrix.ours import Ours
from tests.bench.matrix.progress import Progress, duration, estimate
from tests.bench.matrix.rerun import Playwright
from tests.bench.matrix.sessions import BATCH, Peers, Restarts, missing
from tests.bench.matrix.state import Result, State, StateError, read, spent
from tests.bench.matrix.summary import rows as summarised
from tests.bench.matrix.targets import targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.terms import ProbeResult

ROOT = Path(__file__).parents[2]
STATE = ROOT / "build" / "bench" / "recovery.jsonl"

#: What a quick sample holds.
_QUICK = "simple,progressive,parallel,coordinated,playwright_rerun,cold_start,connection_lost,browser_crash,nothing"
_QUICK_MINUTES = 1.4
_SHOWN = (
    *("fault", "lane", "strategy", "spare", "n", "recovered", "success_low", "net_p50_ms", "net_low_ms", "net_high_ms"),
    *("p50_ms", "p95_ms", "p99_ms", "detect_p50_ms", "in_force", "cpu_ms", "memory_bytes", "void"),
)


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.recovery", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="write rows as JSON to this file")
    parser.add_argument("--state", type=Path, help=f"trials so far; default {STATE.relative_to(ROOT)}")
    parser.add_argument("--minutes", type=float, help="end after so many minutes; run again to go on")
    parser.add_argument("--n", type=int, default=100, help="trials of a cell of ours (default 100)")
    parser.add_argument("--n-main", type=int, default=381, help="trials of the cells of the main claims (default 381)")
    parser.add_argument("--n-peers", type=int, help="trials of playwright_rerun and worker_restart (default as --n)")
    parser.add_argument("--n-sessions", type=int, default=20, help="sessions of the peers as they come (default 20)")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--lanes", default="home", help="lanes with commas, 'home' for the cheapest that fits a fault")
    parser.add_argument("--only", default="", help="strategies and faults with commas")
    parser.add_argument("--list", action="store_true", help="say what would be done and how long it takes, and end")
    parser.add_argument("--quick", action="store_true", help="a small sample, under two minutes")
    return parser.parse_args(given)


class Arms:
    """Whoever runs a trial, by its strategy."""

    def __init__(self, table: Sequence[ProbeResult], seed: int) -> None:
        self._ours = Ours(table, seed)
        self._playwright = Playwright(table)
        self._peers = Peers(table)
        self._restarts = Restarts(seed)

    def run(self, trials: Sequence[Trial]) -> list[Result]:
        """Run the trials, which are of one cell."""
        cell = trials[0].cell
        if batched(cell):
            return self._restarts.run(trials)
        if cell.strategy in Arm.SESSIONS:
            return [self._peers.run(trial) for trial in trials]
        if cell.strategy in Arm.PLAYWRIGHT:
            return [self._playwright.run(trial) for trial in trials]
        return [self._ours.run(trial) for trial in trials]

    def stop(self) -> None:
        """End everything that they keep between trials."""
        try:
            self._playwright.stop()
        finally:
            self._ours.stop()


def batched(cell: Cell) -> bool:
    """Whether several trials of a cell share one pytest session."""
    ends_worker = cell.fault == Fault.WORKER_CRASH and cell.strategy in Arm.OURS
    return ends_worker or cell.strategy == Strategy.WORKER_RESTART


def go(todo: Sequence[Trial], state: State, arms: Arms, *, until: float, commit: str) -> str:
    """Run what is to be done until it is done, or the time is up; return how it ended."""
    progress = Progress(len(todo), time.monotonic, say=lambda line: print(line, flush=True))
    done = state.done()
    for index, first in enumerate(todo):
        if first.key in done:
            continue
        if time.monotonic() >= until:
            return "the time is up"
        trials = [first]
        if batched(first.cell):
            same = [trial for trial in todo[index + 1 :] if trial.cell == first.cell and trial.key not in done]
            trials += same[: BATCH - 1]
        begun = time.monotonic()
        results = arms.run(trials)
        took = (time.monotonic() - begun) / len(trials)
        for result in results:
            at = datetime.now(UTC).isoformat(timespec="seconds")
            state.add(dataclasses.replace(result, took_s=took, at=at, commit=commit))
        done |= {trial.key for trial in trials}
        left = [trial for trial in todo[index + 1 :] if trial.key not in done]
        for result in results:
            progress.add(result, estimate(left, state.results))
    return ""


def plan(options: argparse.Namespace, table: Sequence[ProbeResult]) -> tuple[list[Trial], list[Excluded]]:
    """Return every trial of the design in its order, and the cells that are left out."""
    found, excluded = cells(table, [name.strip() for name in options.lanes.split(",")])
    only = [word.strip() for word in options.only.split(",") if word.strip()]
    try:
        found = chosen(found, only)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    absent = {cell: reason for cell in found if (reason := missing(cell.strategy))}
    excluded += [Excluded(cell.strategy, cell.fault, cell.lane, reason) for cell, reason in absent.items()]
    wanted = Counts(
        n=options.n,
        main=max(options.n, options.n_main),
        peers=options.n if options.n_peers is None else options.n_peers,
        sessions=min(options.n_sessions, options.n),
    )
    numbers = counts([cell for cell in found if cell not in absent], wanted)
    return [trial for block in blocks(numbers, options.seed) for trial in block], excluded


def main(given: Sequence[str] | None = None) -> int:
    options = parsed(given)
    if options.quick:
        options.n = options.n_main = options.n_peers = min(options.n, 3)
        options.only = options.only or _QUICK
        options.minutes = min(options.minutes or _QUICK_MINUTES, _QUICK_MINUTES)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `timeout` ends a run as Ctrl-C does
    begun = time.monotonic()
    table = _table(options.lanes)
    trials, excluded = plan(options, table)
    about = {"seed": options.seed, **_comparable(machine(table))}
    with contextlib.ExitStack() as stack:
        path = options.state or (
            Path(stack.enter_context(tempfile.TemporaryDirectory())) / "quick.jsonl" if options.quick else STATE
        )
        if options.list:
            results = read(path)[1] if path.exists() else []
            done = spent(results)
            _introduce(trials, [trial for trial in trials if trial.key not in done], excluded, results, path, options)
            return 0
        try:
            state = stack.enter_context(State(path, about))
        except StateError as error:
            raise SystemExit(str(error)) from None
        done = state.done()
        todo = [trial for trial in trials if trial.key not in done]
        _introduce(trials, todo, excluded, state.results, path, options)
        until = begun + options.minutes * 60 if options.minutes is not None else float("inf")
        ended = _measure(todo, state, table, options, until)
        _finish(state.results, trials, excluded, table, options, ended)
    return 130 if ended == "interrupted" else 0


def _table(lanes: str) -> tuple[ProbeResult, ...]:
    browsers = {Browser.CHROMIUM} | {Lane.parse(name).browser for name in lanes.split(",") if name.strip() != "home"}
    table = lanes_table(sorted(browsers))
    if not any(probe.works for probe in table):
        raise SystemExit("no lane works here; see `python -m pytest_webaccel doctor`")
    return tuple(table)


def _comparable(about: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a machine on which figures depend, as they come back from JSON."""
    kept = {name: about[name] for name in ("processor", "cores", "memory_gib", "python", "lanes")}
    data: dict[str, Any] = json.loads(json.dumps(kept))
    return data


def _introduce(
    trials: Sequence[Trial],
    todo: Sequence[Trial],
    excluded: Sequence[Excluded],
    results: Sequence[Result],
    path: Path,
    options: argparse.Namespace,
) -> None:
    print(f"{len({trial.cell for trial in trials})} cells, {len(trials)} trials, {len(trials) - len(todo)} done before")
    wanted = {trial.cell.fault for trial in trials}
    for one in [one for one in excluded if not options.only or one.fault in wanted]:
        print(f"  left out: {one.strategy} {one.fault} {one.lane}: {one.reason}")
    whole = estimate(todo, results)
    limit = f"; this run ends after {options.minutes:g} min" if options.minutes is not None else ""
    known = "from trials timed before" if results else "a guess until the first trials are timed"
    print(f"{len(todo)} trials left, about {duration(whole)} in all ({known}){limit}; state: {path}", flush=True)


def _measure(
    todo: Sequence[Trial], state: State, table: Sequence[ProbeResult], options: argparse.Namespace, until: float
) -> str:
    arms = Arms(table, options.seed)
    try:
        ended = go(todo, state, arms, until=until, commit=_commit())
    except KeyboardInterrupt:
        ended = "interrupted"
    finally:
        arms.stop()
    if ended:
        print(f"{ended}: {len(state.results)} trials are kept in {state.path}; the same command goes on from there")
    return ended


def _commit() -> str:
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=10
    )
    return said.stdout.strip()


def _finish(
    results: Sequence[Result],
    trials: Sequence[Trial],
    excluded: Sequence[Excluded],
    table: Sequence[ProbeResult],
    options: argparse.Namespace,
    ended: str,
) -> None:
    rows = summarised(results)
    about = machine(table)
    print(f"recovery on {about['cores']} cores, {about['memory_gib']} GiB, {about['system']}, Python {about['python']}")
    _show(rows)
    reached = targets(results, rows)
    for target in reached:
        word = {True: "met", False: "MISSED", None: "not measured"}[target.met]
        print(f"{word}: {target.what}: {target.wanted}{f': {target.found}' if target.found else ''}")
    if options.out is None:
        return
    commits = sorted({result.commit for result in results})
    data = {
        "benchmark": "recovery",
        "machine": about,
        "seed": options.seed,
        "commits": commits,
        "whole": not ended and {trial.key for trial in trials} <= {result.trial for result in results},
        "rows": rows,
        "excluded": [dataclasses.asdict(one) for one in excluded],
        "targets": [dataclasses.asdict(target) for target in reached],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(data, indent=1) + "\n")
    print(f"written: {options.out}")


def _show(rows: Sequence[dict[str, Any]]) -> None:
    def cell(value: Any) -> str:
        return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [list(_SHOWN), *[[cell(row[name]) for name in _SHOWN] for row in rows]]
    widths = [max(len(line[index]) for line in lines) for index in range(len(_SHOWN))]
    for line in lines:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
