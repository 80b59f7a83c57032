"""Thousands of faults in one long-lived process: random ones, at random moments, on every lane, under every strategy.

Ends with 0 only where no answer was wrong, nothing was done twice, no committed result was lost, no process or
profile was left after any worker, and memory stays flat. Every fault is written to ``--state`` at once; the same
command goes on where it ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_webaccel.browsers.probe import lanes_table
from pytest_webaccel.pool.worker import Worker
from pytest_webaccel.report.statistics import wilson
from pytest_webaccel.terms import Browser, Evidence, Lane, Strategy
from tests.bench.common import machine
from tests.bench.matrix.blows import drawn, possible
from tests.bench.matrix.flat import Point, Slope, slope
from tests.bench.matrix.progress import duration
from tests.bench.matrix.soaking import Struck, leftovers, look, scratch_folder, strike
from tests.bench.matrix.state import RECOVERED, VOID, Log, StateError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_webaccel.rows import Row
    from pytest_webaccel.terms import Fault, FaultPoint, ProbeResult

ROOT = Path(__file__).parents[2]
STATE = ROOT / "build" / "bench" / "soak.jsonl"
#: Seconds of a fault, on two cores without a GPU, before the first ones are timed.
_GUESS_S = 1.8
_LOOK_EVERY = 25
#: Growth for each 1000 faults up to which memory counts as flat: MiB, and file descriptors.
FLAT: Mapping[str, float] = {"in_use_mib": 1.0, "fds": 0.5}
#: Faults of one process under which nothing can be said of memory.
LEAST_FOR_MEMORY = 1000
_MIB = 1 << 20


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=10_000)
    parser.add_argument(
        "--part", help="FIRST:LAST, only the faults with these numbers: several processes or machines share one soak"
    )
    parser.add_argument("--merge", type=Path, nargs="+", default=[], help="state files of parts, taken into this one")
    parser.add_argument("--batch", type=int, default=250, help="faults after which the worker is ended and looked at")
    parser.add_argument("--minutes", type=float, help="end after so many minutes; run again to go on")
    parser.add_argument("--lanes", default="", help="lanes with commas; default: every Chromium lane that works")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--state", type=Path, help=f"faults so far; default {STATE.relative_to(ROOT)}")
    parser.add_argument("--out", type=Path, help="write the row as JSON to this file")
    parser.add_argument("--quick", action="store_true", help="40 faults, under two minutes")
    return parser.parse_args(given)


def numbers_of(options: argparse.Namespace) -> range:
    """Return the numbers of the faults that are asked for; SystemExit says what is wrong with ``--part``."""
    whole = range(options.faults)
    if not options.part:
        return whole
    first, colon, last = options.part.partition(":")
    if not colon or not first.isdigit() or not last.isdigit() or not int(first) < int(last) <= options.faults:
        raise SystemExit(f"--part {options.part}: expected FIRST:LAST with 0 <= FIRST < LAST <= {options.faults}")
    return whole[int(first) : int(last)]


class Soak:
    """A soak under way; ``log`` is where everything that happens is kept."""

    def __init__(self, table: Sequence[ProbeResult], log: Log, options: argparse.Namespace, scratch: Path) -> None:
        self._table = table
        self._log = log
        self._options = options
        self._scratch = scratch
        self._process = f"{os.getpid()}-{int(time.time())}"
        self._begun = time.monotonic()
        self._done = 0
        self._rows: list[Row] = []

    def run(self, there: Mapping[Lane, Sequence[tuple[Fault, FaultPoint]]], until: float) -> str:
        """Cause what is left of the faults; return how it ended."""
        known = {entry["number"] for entry in self._log.entries if "number" in entry}
        left = [number for number in numbers_of(self._options) if number not in known]
        if left and time.monotonic() < until:
            self._log.append({"machine": machine(self._table)})
        for first in range(0, len(left), self._options.batch):
            numbers = left[first : first + self._options.batch]
            # Every other worker keeps a warm spare, so that both ways of recovering are worn.
            spares = (numbers[0] // self._options.batch) % 2
            worker = self._worker(spares=spares)
            try:
                for number in numbers:
                    if time.monotonic() >= until:
                        return "the time is up"
                    self._one(worker, number, there, len(left))
                    if self._done % _LOOK_EVERY == 0:
                        self._log.append(look(self._process, self._done, live=True, spares=spares))
            finally:
                worker.stop()
                self._log.append({"left": leftovers(self._scratch), "process": self._process, "after": self._done})
                self._log.append(look(self._process, self._done, live=False, spares=spares))
        return ""

    def _one(
        self, worker: Worker, number: int, there: Mapping[Lane, Sequence[tuple[Fault, FaultPoint]]], left: int
    ) -> None:
        begun = time.monotonic()
        struck = strike(worker, drawn(number, self._options.seed, there), self._rows)
        self._log.append({**struck.to_json(), "took_s": round(time.monotonic() - begun, 3)})
        self._done += 1
        self._tell(struck, left)

    def _worker(self, *, spares: int) -> Worker:
        return Worker(
            self._table,
            run_id="soak",
            worker="soak",
            strategy=Strategy.COORDINATED,
            record=self._rows.append,
            spares=spares,
            budget_s=120.0,
            seed=self._options.seed,
        )

    def _tell(self, struck: Struck, left: int) -> None:
        blow = struck.blow
        if struck.outcome == VOID or struck.wrong or struck.lost or struck.duplicated or struck.outcome != RECOVERED:
            words = f"{blow.lane} {blow.fault}@{blow.point} {blow.strategy}: {struck.outcome}"
            odd = f"wrong {struck.wrong} lost {struck.lost} twice {struck.duplicated}"
            print(f"  {blow.number}: {words}; {odd}; {struck.detail[:200]}", flush=True)
        if self._done % _LOOK_EVERY == 0 or self._done == left:
            rate = (time.monotonic() - self._begun) / self._done
            still = duration(rate * (left - self._done))
            print(f"{self._done}/{left} faults, {60 / rate:.0f} a minute, about {still} left", flush=True)


def slopes(entries: Sequence[Mapping[str, Any]], batch: int) -> dict[str, Slope | None]:
    """Return the growth for each 1000 faults of a process, by what grows, under the code that was looked at last.

    Memory is looked at with the browsers up, with and without spares apart; open files once a worker has ended, since
    before they depend on how many lanes it has begun.
    """
    looks = last_code(entries)

    def points(name: str, unit: float, *, live: bool) -> list[Point]:
        return [
            Point(f"{entry['look']} {entry['spares'] if live else ''}", entry["faults"], entry[name] / unit)
            for entry in looks
            if entry["live"] is live and entry.get(name) is not None
        ]

    warm_up = min(batch, 100)
    return {
        "in_use_mib": slope(points("in_use", _MIB, live=True), warm_up=warm_up),
        "held_mib": slope(points("held", _MIB, live=True), warm_up=warm_up),
        "rss_mib": slope(points("rss", _MIB, live=True), warm_up=warm_up),
        "pss_mib": slope(points("pss", _MIB, live=True), warm_up=warm_up),
        "fds": slope(points("fds", 1, live=False), warm_up=warm_up),
    }


def last_code(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the looks under the version of the package that was looked at last."""
    looks = [entry for entry in entries if "look" in entry]
    return [entry for entry in looks if entry.get("code") == looks[-1].get("code")]


def row_of(entries: Sequence[Mapping[str, Any]], batch: int) -> dict[str, Any]:
    """Return the one row of a soak."""
    faults = [entry for entry in entries if "number" in entry]
    tried = [entry for entry in faults if entry["outcome"] != VOID]
    recovered = sum(entry["outcome"] == RECOVERED for entry in tried)
    row: dict[str, Any] = {
        "case": "soak",
        "n": len(faults),
        "struck": len(tried),
        "recovered": recovered,
        "success_low": wilson(recovered, len(tried)).low,
        "void": len(faults) - len(tried),
        "answers": sum(entry["answers"] for entry in faults),
        "wrong": sum(entry["wrong"] for entry in faults),
        "duplicated": sum(entry["duplicated"] for entry in faults),
        "lost": sum(entry["lost"] for entry in faults),
        "workers": sum("left" in entry for entry in entries),
        "orphans": sum(len(entry["left"]) for entry in entries if "left" in entry),
        "seconds": round(sum(entry["took_s"] for entry in faults)),
        "machines": len({json.dumps(entry["machine"], sort_keys=True) for entry in entries if "machine" in entry}) or 1,
        "evidence": str(_evidence(entries)),
    }
    longest = Counter[str]()
    for entry in last_code(entries):
        longest[entry["look"]] = max(longest[entry["look"]], entry["faults"])
    row["memory_n"] = max(longest.values(), default=0)
    for what, one in slopes(entries, batch).items():
        row |= {f"{what}_per_1000": None, f"{what}_low": None, f"{what}_high": None}
        if one is not None:
            row |= {f"{what}_per_1000": one.value, f"{what}_low": one.low, f"{what}_high": one.high}
    return row


def _evidence(entries: Sequence[Mapping[str, Any]]) -> Evidence:
    """Return the weakest grade of the lanes: one row has one, and a fault on software proves nothing of hardware."""
    lanes = [lane for entry in entries for lane in entry.get("machine", {}).get("lanes", {}).values()]
    hardware = bool(lanes) and all(lane.endswith(str(Evidence.HARDWARE)) for lane in lanes)
    return Evidence.HARDWARE if hardware else Evidence.SOFTWARE


def verdicts(row: Mapping[str, Any], wanted: int) -> dict[str, bool]:
    """Return what a soak must show, and whether it did."""
    told = {f"{name} is 0": row[name] == 0 for name in ("wrong", "duplicated", "lost", "orphans")}
    for what, limit in FLAT.items():
        high = row[f"{what}_high"]
        if high is None and wanted < LEAST_FOR_MEMORY:
            continue
        enough = high is not None and row["memory_n"] >= min(LEAST_FOR_MEMORY, wanted)
        told[f"{what} grows by less than {limit:g} for each 1000 faults"] = enough and high <= limit
    return {f"{wanted} faults were caused": row["n"] >= wanted, **told}


def main(given: Sequence[str] | None = None) -> int:
    options = parsed(given)
    if options.quick:
        options.faults, options.batch = min(options.faults, 40), 20
        options.minutes = min(options.minutes or 1.5, 1.5)
    numbers_of(options)  # a part that is none is said before anything is made
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lanes = [Lane.parse(name) for name in options.lanes.split(",") if name]
    whole = lanes_table(sorted({lane.browser for lane in lanes} or {Browser.CHROMIUM}))
    table = [probe for probe in whole if probe.works and (not lanes or probe.lane in lanes)]
    if not table:
        raise SystemExit("no lane works here; see `python -m pytest_webaccel doctor`")
    there, left_out = possible(table)
    about = {"seed": options.seed, "lanes": [_named(probe) for probe in table]}
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(scratch_folder()))
        path = options.state or (scratch / "quick.jsonl" if options.quick else STATE)
        try:
            log = stack.enter_context(Log(path, about, keep=False))
        except StateError as error:
            raise SystemExit(str(error)) from None
        try:
            for part in options.merge:
                print(f"{part}: {log.merge(part, key='number')} entries taken over")
        except StateError as error:
            raise SystemExit(str(error)) from None
        _introduce(log, options, left_out)
        try:
            until = begun + options.minutes * 60 if options.minutes is not None else float("inf")
            ended = Soak(table, log, options, scratch).run(there, until)
        except KeyboardInterrupt:
            ended = "interrupted"
        if ended:
            print(f"{ended}: all so far is kept in {log.path}; the same command goes on from there")
        return _finish(log, table, options, ended)


def _named(probe: ProbeResult) -> str:
    """Return what figures of a lane depend on; an adapter of hardware is another lane."""
    name = f"{probe.lane} {probe.version}"
    return f"{name} {probe.adapter}" if probe.evidence is Evidence.HARDWARE else name


def _introduce(log: Log, options: argparse.Namespace, left_out: Sequence[str]) -> None:
    for line in left_out:
        print(f"  left out: {line}")
    timed = [entry["took_s"] for entry in log.entries if "number" in entry]
    each = sum(timed) / len(timed) if timed else _GUESS_S
    asked = set(numbers_of(options))
    left = len(asked - {entry["number"] for entry in log.entries if "number" in entry})
    known = "as those before" if timed else "a guess until the first are timed"
    print(
        f"{left} of {len(asked)} faults left, about {duration(left * each)} ({known}); state: {log.path}",
        flush=True,
    )


def _finish(log: Log, table: Sequence[ProbeResult], options: argparse.Namespace, ended: str) -> int:
    entries = log.whole()
    row = row_of(entries, options.batch)
    print(
        f"{row['n']} faults, {row['struck']} struck, {row['recovered']} recovered "
        f"(Wilson 95 % low {row['success_low']:.4f}); {row['answers']} answers held against NumPy"
    )
    for what, one in slopes(entries, options.batch).items():
        print(f"{what} for each 1000 faults: {one or 'too few looks to say'}")
    reasons = Counter(
        entry.get("detail", "")[:120] for entry in entries if entry.get("outcome") not in {None, RECOVERED}
    )
    for reason, count in reasons.most_common(10):
        print(f"  {count} x not recovered or void: {reason}")
    told = verdicts(row, len(numbers_of(options)))
    for what, well in told.items():
        print(f"{'yes' if well else 'NO'}: {what}")
    if options.out:
        data = {"benchmark": "soak", "machine": machine(table), "seed": options.seed, "rows": [row], "verdicts": told}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(data, indent=1) + "\n")
        print(f"written: {options.out}")
    return 130 if ended == "interrupted" else 0 if all(told.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
