"""What issue 3 set out to reach, held against the rows: met, missed with the true figure, or not measured."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pytest_webaccel.terms import Fault, Strategy
from tests.bench.matrix.design import MAIN, PEER_FAULTS, TWO_FAULTS, Arm
from tests.bench.matrix.summary import Ratio, by_cell, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.bench.matrix.design import Cell
    from tests.bench.matrix.state import Result

__all__ = ["Target", "compare", "targets"]

#: Most milliseconds at the median with a warm spare; after detection for the fault that only a deadline sees.
LIMITS_MS: Mapping[str, float] = {
    str(Fault.CONNECTION_LOST): 30.0,
    str(Fault.DEVICE_LOST): 60.0,
    str(Fault.PAGE_CRASH): 150.0,
    str(Fault.BROWSER_CRASH): 150.0,
    str(Fault.COMPONENT_TIMEOUT): 150.0,
    TWO_FAULTS: 300.0,
}
LEAST_RUNS = 381
LEAST_TRIALS = 100
SUCCESS_LOW = 0.99
COLD_RATIO = 1.2
PEER_RATIO = 0.4
#: Faults that only slow a lane: nothing is mended, so there is no recovery to be held against another.
SLOWS = frozenset(map(str, (Fault.NETWORK_LATENCY, Fault.NETWORK_BANDWIDTH, Fault.NETWORK_JITTER)))
#: Faults for which no rung is cheaper than a restart.
NO_CHEAPER = frozenset(map(str, (Fault.BROWSER_CRASH, Fault.MULTI_BROWSER, Fault.CASCADE, Fault.WORKER_CRASH)))


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """One target. ``met`` is None where nothing was measured; ``shown`` says whether the interval leaves no doubt."""

    what: str
    wanted: str
    found: str
    met: bool | None
    shown: bool = True


def compare(
    results: Sequence[Result], ours: Strategy, theirs: str, *, spare: bool
) -> dict[tuple[str, str], Ratio | None]:
    """Return the ratio of net medians of two arms, by fault and lane; None where too little was measured."""
    groups = by_cell(results)
    found: dict[tuple[str, str], Ratio | None] = {}
    for cell, trials in groups.items():
        if (cell.strategy, cell.spare) != (ours, spare):
            continue
        other = _find(groups, theirs, cell.fault, cell.lane, spare=False)
        found[cell.fault, cell.lane] = ratio(trials, other, _net)
    return found


def targets(results: Sequence[Result], rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    """Return every target with what was found."""
    return [
        *_recovered(rows),
        *_fast(rows),
        *_cold(results),
        *_against_peer(results),
        *_progressive(results),
        *_often(rows),
        *_proved(rows),
        *_clean(rows),
    ]


def _find(groups: Mapping[Cell, list[Result]], arm: str, fault: str, lane: str, *, spare: bool) -> list[Result]:
    return [
        trial
        for cell, trials in groups.items()
        if (cell.strategy, cell.fault, cell.lane, cell.spare) == (arm, fault, lane, spare)
        for trial in trials
    ]


def _net(trial: Result) -> float:
    return trial.net_ms


def _rows(rows: Sequence[Mapping[str, Any]], strategy: str, fault: str, *, spare: bool) -> list[Mapping[str, Any]]:
    return [row for row in rows if (row["strategy"], row["fault"], row["spare"]) == (strategy, fault, spare)]


def _spares(fault: str) -> str:
    return "two warm spares" if fault == TWO_FAULTS else "a warm spare"


def _recovered(rows: Sequence[Mapping[str, Any]]) -> Iterator[Target]:
    for fault in sorted(MAIN):
        what = f"coordinated recovers every {fault} ({_spares(fault)})"
        wanted = f"n of n, n >= {LEAST_RUNS}, lower Wilson bound >= {SUCCESS_LOW:.0%}"
        found = _rows(rows, Strategy.COORDINATED, fault, spare=True)
        for row in found:
            met = row["recovered"] == row["n"] >= LEAST_RUNS and row["success_low"] >= SUCCESS_LOW
            told = f"{row['recovered']} of {row['n']} on {row['lane']}, lower bound {row['success_low']:.2%}"
            yield Target(what, wanted, told, met)
        if not found:
            yield Target(what, wanted, "", None)


def _fast(rows: Sequence[Mapping[str, Any]]) -> Iterator[Target]:
    for fault, limit in LIMITS_MS.items():
        what = f"median of coordinated with {_spares(fault)} after {fault}"
        hung = fault == Fault.COMPONENT_TIMEOUT
        column = "after_detection_p50_ms" if hung else "net_p50_ms"
        wanted = f"<= {limit:g} ms{' after detection' if hung else ''}"
        found = _rows(rows, Strategy.COORDINATED, fault, spare=True)
        for row in found:
            value = row[column]
            told = "more than half never recovered" if value is None else f"{value:.1f} ms on {row['lane']}"
            yield Target(what, wanted, told, value is not None and value <= limit)
        if not found:
            yield Target(what, wanted, "", None)


def _cold(results: Sequence[Result]) -> Iterator[Target]:
    groups = by_cell(results)
    for cell, trials in groups.items():
        if cell.strategy != Strategy.COORDINATED or cell.spare or cell.fault in {*SLOWS, Fault.WORKER_CRASH}:
            continue
        cold = [
            trial
            for (yard, those) in groups.items()
            if (yard.strategy, yard.lane) == (Arm.COLD, cell.lane)
            for trial in those
        ]
        yield _ratio_target(
            f"coordinated without a spare after {cell.fault} on {cell.lane}, against a bare cold start there",
            COLD_RATIO,
            ratio(trials, cold, _net),
        )


def _against_peer(results: Sequence[Result]) -> Iterator[Target]:
    for (fault, lane), one in compare(results, Strategy.COORDINATED, Arm.RERUN, spare=True).items():
        if fault not in PEER_FAULTS[Arm.RERUN]:
            continue
        yield _ratio_target(f"coordinated after {fault} on {lane}, against playwright_rerun", PEER_RATIO, one)


def _progressive(results: Sequence[Result]) -> Iterator[Target]:
    for (fault, lane), one in compare(results, Strategy.PROGRESSIVE, Strategy.SIMPLE, spare=False).items():
        if fault not in NO_CHEAPER | SLOWS:
            yield _ratio_target(f"progressive after {fault} on {lane}, against simple", 1.0, one)


def _ratio_target(what: str, limit: float, one: Ratio | None) -> Target:
    wanted = f"ratio of medians <= {limit:g}"
    if one is None:
        return Target(what, wanted, "", None)
    found = f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})"
    return Target(what, wanted, found, one.value <= limit, shown=one.high <= limit or one.low > limit)


def _proved(rows: Sequence[Mapping[str, Any]]) -> Iterator[Target]:
    ours = [row for row in rows if row["in_force"] is not None]
    if ours:
        odd = [f"{row['strategy']} {row['fault']} {row['lane']}" for row in ours if row["in_force"] != row["n"]]
        proved, n = sum(row["in_force"] for row in ours), sum(row["n"] for row in ours)
        told = f"{proved} of {n}" + (f"; not in: {', '.join(odd[:8])}" if odd else "")
        yield Target("the strategy named was the one in force", "every trial", told, proved == n)


def _often(rows: Sequence[Mapping[str, Any]]) -> Iterator[Target]:
    """Yield whether every cell was tried often enough; peers as they come are counted in sessions, and left out."""
    counted = [row for row in rows if row["strategy"] not in {*Arm.SESSIONS, Arm.NEW_PAGE}]
    if counted:
        few = [row for row in counted if row["n"] < LEAST_TRIALS]
        told = f"{len(counted) - len(few)} of {len(counted)} cells"
        yield Target("trials of each cell", f"n >= {LEAST_TRIALS}", told, not few)


def _clean(rows: Sequence[Mapping[str, Any]]) -> Iterator[Target]:
    for what, column in (("wrong answers delivered", "wrong"), ("requests done twice", "duplicated"), ("lost", "lost")):
        found = sum(row[column] for row in rows)
        if rows:
            yield Target(what, "0", str(found), found == 0)
