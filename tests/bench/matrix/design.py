"""The design: which cells there are, how often each is tried, and in what order. Pure; the same seed, the same order.

A block holds each cell at most once, in an order of its own, so that a slow hour hits every cell alike. Cells with
fewer repetitions are spread evenly over the blocks, so that a run that is cut short is even too.
"""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING

from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.terms import Backend, Browser, Fault, FaultPoint, Lane, Strategy

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from pytest_webaccel.terms import ProbeResult

__all__ = [
    "MAIN",
    "PEER_FAULTS",
    "TWO_FAULTS",
    "Arm",
    "Cell",
    "Counts",
    "Excluded",
    "Trial",
    "blocks",
    "cells",
    "chosen",
    "counts",
]

#: Fault of the cells in which a fault strikes, and strikes again where recovery has just mended the lane.
TWO_FAULTS = "two_faults"
#: What strikes twice; a trial takes the one that its number says.
TWICE: tuple[Fault, ...] = (Fault.CONNECTION_LOST, Fault.PAGE_CRASH, Fault.BROWSER_CRASH, Fault.DEVICE_LOST)

#: Points in the order in which the matrix looks for one at which the fault can meet a request.
_POINTS = (FaultPoint.MID_REQUEST, FaultPoint.BEFORE, FaultPoint.MID_TRANSFER)


class Arm:
    """Strategies of the matrix, ours and those of peers, by the word that rows carry."""

    COLD = "cold_start"
    OURS = tuple(
        str(strategy)
        for strategy in (
            Strategy.NONE,
            Strategy.SIMPLE,
            Strategy.PROGRESSIVE,
            Strategy.PARALLEL,
            Strategy.COORDINATED,
        )
    )
    WORKER_RESTART = str(Strategy.WORKER_RESTART)
    RERUN = "playwright_rerun"
    NEW_PAGE = "playwright_new_page"
    AS_IT_COMES = "pytest_rerunfailures"
    XDIST = "xdist"
    XDIST_RERUN = "xdist_rerunfailures"
    PLAYWRIGHT = (RERUN, NEW_PAGE)
    SESSIONS = (AS_IT_COMES, XDIST, XDIST_RERUN)
    ALL = (COLD, *OURS, WORKER_RESTART, *PLAYWRIGHT, *SESSIONS)


#: Faults of which each of Playwright's arms can suffer what a user of Playwright can.
PEER_FAULTS: Mapping[str, frozenset[str]] = {
    Arm.RERUN: frozenset(
        {
            *map(str, (Fault.CONNECTION_LOST, Fault.CONNECTION_STALLED, Fault.PAGE_CRASH, Fault.PAGE_RELOAD)),
            *map(str, (Fault.BROWSER_CRASH, Fault.DEVICE_LOST, Fault.DEVICE_DESTROYED, Fault.COMPONENT_TIMEOUT)),
            *map(str, (Fault.COMPONENT_ERROR, Fault.OUT_OF_MEMORY, Fault.CASCADE, Fault.MULTI_BROWSER)),
            TWO_FAULTS,
        }
    ),
    Arm.AS_IT_COMES: frozenset(
        map(str, (Fault.BROWSER_CRASH, Fault.PAGE_CRASH, Fault.DEVICE_LOST, Fault.COMPONENT_TIMEOUT))
    ),
    Arm.XDIST: frozenset({str(Fault.WORKER_CRASH)}),
    Arm.XDIST_RERUN: frozenset({str(Fault.WORKER_CRASH)}),
}
#: After these no browser is left to open another page in.
_ENDS_BROWSER = frozenset({str(Fault.BROWSER_CRASH), str(Fault.CASCADE), str(Fault.MULTI_BROWSER), TWO_FAULTS})

_NETWORK = "a page that Playwright drives has no path of the test's own that could be slowed or damaged"
_PEER_REASONS: Mapping[str, str] = {
    str(Fault.WORKER_CRASH): "the process that drives the browser dies: see the arms on pytest-xdist",
    str(Fault.STAGGERED): "its later blows are drawn against our own lanes; the peer is hit by two_faults instead",
    str(Fault.PARTIAL_RESULT): _NETWORK,
}


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One combination that is tried again and again. ``spare``: a warm spare stands ready."""

    strategy: str
    fault: str
    lane: str
    point: str
    spare: bool = False

    @property
    def spares(self) -> int:
        """How many warm spares there are: one, and another for the second of two faults."""
        return 0 if not self.spare else 2 if self.fault == TWO_FAULTS else 1

    @property
    def key(self) -> str:
        """Its name in a state file."""
        return "/".join((self.strategy, self.fault, self.lane, self.point, "spare" if self.spare else "no_spare"))


@dataclasses.dataclass(frozen=True, slots=True)
class Excluded:
    """A cell that cannot be, and why."""

    strategy: str
    fault: str
    lane: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One repetition of a cell, counted from 0."""

    cell: Cell
    number: int

    @property
    def key(self) -> str:
        """Its name in a state file: a trial that has one there is not done again."""
        return f"{self.cell.key}#{self.number}"

    @property
    def twice(self) -> Fault:
        """What strikes twice, in a cell of two faults."""
        fitting = [
            fault for fault in TWICE if self.cell.lane.endswith(Backend.WEBGPU) or fault is not Fault.DEVICE_LOST
        ]
        return fitting[self.number % len(fitting)]


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """How often: ``n`` each cell of ours, ``main`` those of the main claims, ``peers``, whole ``sessions``.

    Peers beside the one that is compared with, a new page and whole sessions, are tried ``sessions`` times.
    """

    n: int = 100
    main: int = 381
    peers: int = 100
    sessions: int = 20


#: Faults of the main claims, tried with ``coordinated`` and a warm spare.
MAIN = frozenset(
    {
        *map(str, (Fault.CONNECTION_LOST, Fault.BROWSER_CRASH, Fault.DEVICE_LOST, Fault.COMPONENT_TIMEOUT)),
        TWO_FAULTS,
    }
)


def cells(table: Sequence[ProbeResult], lanes: Sequence[str]) -> tuple[list[Cell], list[Excluded]]:
    """Return every cell that can be on ``lanes``, and those that cannot, with the reason.

    A lane is named ``BROWSER:BACKEND``; ``home`` stands for the cheapest Chromium lane that can suffer the fault.
    """
    probes = {probe.lane: probe for probe in table}
    found: dict[Cell, None] = {}
    excluded: dict[Excluded, None] = {}
    for name in lanes:
        for fault in (*map(str, Fault), TWO_FAULTS):
            probe, reason = _probe(fault, name, probes)
            if probe is None:
                excluded[Excluded("any", fault, name, reason)] = None
                continue
            for one in _cells(fault, probe):
                match one:
                    case Cell():
                        found[one] = None
                    case Excluded():
                        excluded[one] = None
    used = {cell.lane for cell in found}
    yardsticks = [Cell(Arm.COLD, "nothing", lane, "none") for lane in sorted(used)]
    return [*yardsticks, *found], list(excluded)


def _probe(fault: str, name: str, probes: Mapping[Lane, ProbeResult]) -> tuple[ProbeResult | None, str]:
    """Return the lane on which ``fault`` is tried where ``name`` was asked for, or why there is none."""
    homes = [Lane(Browser.CHROMIUM, backend) for backend in (Backend.CPU, Backend.WEBGPU, Backend.WEBNN)]
    reason = "the lane is not there"
    for lane in homes if name == "home" else [Lane.parse(name)]:
        probe = probes.get(lane)
        if probe is None or not probe.works:
            reason = f"{lane} does not work here: {probe.reason if probe else 'it was not probed'}"
            continue
        objection = _objection(fault, probe)
        if objection is None:
            return probe, ""
        reason = objection
    return None, reason


def _objection(fault: str, probe: ProbeResult) -> str | None:
    if fault in {TWO_FAULTS, str(Fault.WORKER_CRASH)}:  # what dies there is tried in a session of its own
        return None
    injector = INJECTORS.get(Fault(fault))
    return "it has no injector" if injector is None else injector.meaning(probe)


def _cells(fault: str, probe: ProbeResult) -> Iterator[Cell | Excluded]:
    lane = str(probe.lane)
    point = str(_point(fault))
    for arm in Arm.OURS:
        yield Cell(arm, fault, lane, point)
    if fault == Fault.WORKER_CRASH:
        reason = "with a spare: the spare dies with the worker that keeps it"
        yield Excluded(str(Strategy.COORDINATED), fault, lane, reason)
    else:
        yield Cell(Strategy.COORDINATED, fault, lane, point, spare=True)
    if fault in INJECTORS and INJECTORS[Fault(fault)].degrades:
        yield Excluded(Arm.WORKER_RESTART, fault, lane, "the lane goes on, only slower: nothing fails the test")
    elif fault == TWO_FAULTS:
        yield Excluded(Arm.WORKER_RESTART, fault, lane, "a second death of a test is never tried a third time")
    elif fault == Fault.WORKER_CRASH:
        yield Excluded(Arm.WORKER_RESTART, fault, lane, "the worker that died is replaced under every strategy alike")
    else:
        yield Cell(Arm.WORKER_RESTART, fault, lane, point)
    yield from _peers(fault, lane, point)


def _peers(fault: str, lane: str, point: str) -> Iterator[Cell | Excluded]:
    if not lane.startswith(f"{Browser.CHROMIUM}:"):
        yield Excluded(Arm.RERUN, fault, lane, "the peers run on Chromium, the browser that Playwright drives best")
        return
    if fault in PEER_FAULTS[Arm.RERUN]:
        yield Cell(Arm.RERUN, fault, lane, point)
        if fault in _ENDS_BROWSER:
            yield Excluded(Arm.NEW_PAGE, fault, lane, "no browser is left to open another page in")
        else:
            yield Cell(Arm.NEW_PAGE, fault, lane, point)
    else:
        yield Excluded(Arm.RERUN, fault, lane, _PEER_REASONS.get(fault, _NETWORK))
    for arm in Arm.SESSIONS:
        if fault in PEER_FAULTS[arm]:
            yield Cell(arm, fault, lane, point)


def _point(fault: str) -> FaultPoint:
    if fault == TWO_FAULTS:
        return FaultPoint.DURING_RECOVERY
    injector = INJECTORS.get(Fault(fault))
    return next((point for point in _POINTS if injector is None or not injector.misfit(point)), FaultPoint.MID_LOAD)


def counts(found: Sequence[Cell], wanted: Counts) -> dict[Cell, int]:
    """Return how often each cell is tried."""
    return {cell: _count(cell, wanted) for cell in found}


def _count(cell: Cell, wanted: Counts) -> int:
    if cell.strategy in {*Arm.SESSIONS, Arm.NEW_PAGE}:
        return wanted.sessions
    if cell.strategy in {*Arm.PLAYWRIGHT, Arm.WORKER_RESTART}:
        return wanted.peers
    if cell.strategy == Strategy.COORDINATED and cell.spare and cell.fault in MAIN:
        return wanted.main
    return wanted.n


def blocks(numbers: Mapping[Cell, int], seed: int) -> list[list[Trial]]:
    """Return the blocks, each in an order of its own that ``seed`` draws."""
    most = max(numbers.values(), default=0)
    result = []
    for block in range(most):
        trials = []
        for cell in sorted(numbers):
            before, after = (numbers[cell] * upto // most for upto in (block, block + 1))
            trials += [Trial(cell, number) for number in range(before, after)]
        random.Random(f"blocks\0{seed}\0{block}").shuffle(trials)
        result.append(trials)
    return result


def chosen(found: Sequence[Cell], only: Collection[str]) -> list[Cell]:
    """Return the cells whose strategy and fault are named in ``only``; where none of a kind is named, all of it.

    Raises ValueError for a word that names neither.
    """
    strategies, faults = {cell.strategy for cell in found}, {cell.fault for cell in found}
    if unknown := [word for word in only if word not in strategies | faults]:
        known = ", ".join(sorted(strategies | faults))
        raise ValueError(f"--only {','.join(unknown)}: no such strategy or fault here (known: {known})")
    wanted = {kind: names & set(only) or names for kind, names in (("strategy", strategies), ("fault", faults))}
    return [cell for cell in found if cell.strategy in wanted["strategy"] and cell.fault in wanted["fault"]]
