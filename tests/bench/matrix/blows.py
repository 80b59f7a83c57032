"""What a soak does: which fault, when, on which lane, under which strategy. Drawn; the same seed, the same blows."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING

from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.terms import MENDING, Fault, FaultPoint, Lane, Strategy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_webaccel.terms import ProbeResult

__all__ = ["Blow", "drawn", "possible"]

#: How often a lane is drawn against the others: the quick ones more often, so that more faults fit into an hour.
_WEIGHTS: Mapping[str, float] = {"chromium:cpu": 4.0, "chromium:webnn": 2.0, "chromium:webgpu": 2.0}


@dataclasses.dataclass(frozen=True, slots=True)
class Blow:
    """One fault of a soak; ``number`` counts from 0."""

    number: int
    lane: Lane
    fault: Fault
    point: FaultPoint
    strategy: Strategy


def possible(table: Sequence[ProbeResult]) -> tuple[dict[Lane, list[tuple[Fault, FaultPoint]]], list[str]]:
    """Return which fault can strike when on each working lane, and why the others cannot."""
    found: dict[Lane, list[tuple[Fault, FaultPoint]]] = {}
    left_out = []
    for probe in table:
        if not probe.works:
            continue
        for fault in Fault:
            injector = INJECTORS.get(fault)
            if fault is Fault.WORKER_CRASH:
                reason: str | None = "it would end the soak itself; the matrix causes it in sessions of pytest-xdist"
            else:
                reason = "it has no injector" if injector is None else injector.meaning(probe)
            if reason or injector is None:
                left_out.append(f"{probe.lane} {fault}: {reason}")
                continue
            found.setdefault(probe.lane, []).extend(
                (fault, point) for point in FaultPoint if not injector.misfit(point)
            )
    return found, left_out


def drawn(number: int, seed: int, there: Mapping[Lane, Sequence[tuple[Fault, FaultPoint]]]) -> Blow:
    """Return blow ``number``; each fault is drawn as often as any other that the lane can suffer."""
    chance = random.Random(f"soak\0{seed}\0{number}")
    lanes = sorted(there)
    lane = chance.choices(lanes, [_WEIGHTS.get(str(name), 1.0) for name in lanes])[0]
    faults = sorted({fault for fault, _ in there[lane]})
    fault = chance.choice(faults)
    point = chance.choice([when for what, when in there[lane] if what is fault])
    return Blow(number, lane, fault, point, chance.choice(sorted(MENDING)))
