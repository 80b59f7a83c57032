"""How far a long run is: how many trials, how fast, how long still. Pure but for the clock that is passed in."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from pytest_webaccel.terms import Fault, Strategy
from tests.bench.matrix.design import Arm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.matrix.design import Cell, Trial
    from tests.bench.matrix.state import Result

__all__ = ["Progress", "duration", "estimate"]

#: Seconds of a trial of which none was timed yet, on two cores without a GPU.
_GUESSES = {Arm.AS_IT_COMES: 20.0, Arm.XDIST: 8.0, Arm.XDIST_RERUN: 10.0, Arm.WORKER_RESTART: 3.0}
_GUESS_S = 1.8
_SILENT_S = 1.2
_WEBGPU_S = 1.5


def _guess(cell: Cell) -> float:
    if cell.strategy in _GUESSES:
        return _GUESSES[cell.strategy]
    if cell.fault == Fault.WORKER_CRASH and cell.strategy in set(Strategy):
        return _GUESSES[Arm.WORKER_RESTART]
    silent = _SILENT_S if cell.fault in {Fault.COMPONENT_TIMEOUT, Fault.CONNECTION_STALLED} else 0.0
    return _GUESS_S + silent + (_WEBGPU_S if cell.lane.endswith("webgpu") else 0.0)


def estimate(left: Sequence[Trial], results: Sequence[Result]) -> float:
    """Return the seconds that the trials left will take: from those of their cell that were timed, else a guess."""
    timed: dict[Cell, list[float]] = {}
    for result in results:
        if result.took_s:
            timed.setdefault(result.cell, []).append(result.took_s)
    known = {cell: statistics.mean(times) for cell, times in timed.items()}
    scale = 1.0
    if known:  # this machine against the one of the guesses
        scale = sum(known.values()) / sum(_guess(cell) for cell in known)
    return sum(known.get(trial.cell, _guess(trial.cell) * scale) for trial in left)


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Prints a line now and then. ``clock`` is monotonic seconds; ``every_s`` the least time between two lines."""

    def __init__(
        self, total: int, clock: Callable[[], float], *, say: Callable[[str], None], every_s: float = 15.0
    ) -> None:
        self._total = total
        self._clock = clock
        self._say = say
        self._every_s = every_s
        self._begun = clock()
        self._told = self._begun - every_s
        self._done = self._failed = self._void = 0

    def add(self, result: Result, left_s: float) -> None:
        """Count a trial; ``left_s`` is the estimate of what is left, in seconds."""
        self._done += 1
        self._failed += result.outcome == "failed" and result.strategy not in {Strategy.NONE, *Arm.SESSIONS}
        self._void += result.outcome == "void"
        now = self._clock()
        if now - self._told >= self._every_s or self._done == self._total:
            self._told = now
            rate = self._done / max(now - self._begun, 1e-9) * 60
            odd = f", {self._failed} failed" if self._failed else ""
            odd += f", {self._void} void" if self._void else ""
            self._say(
                f"{self._done}/{self._total} trials, {rate:.0f} a minute, about {duration(left_s)} left{odd} "
                f"(last: {result.strategy} {result.fault} {result.lane}{' spare' if result.spare else ''}: "
                f"{result.outcome}{f' {result.total_ms:.0f} ms' if result.total_ms else ''})"
            )
