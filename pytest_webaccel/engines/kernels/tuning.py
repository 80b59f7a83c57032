"""How the constants are looked for under which a kernel is fastest. Pure: it asks for times and is told."""

from __future__ import annotations

import dataclasses
import enum
import statistics
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

__all__ = ["BETTER", "Constants", "Timing", "TimingState", "Tuning", "descend", "every", "key"]

Constants: TypeAlias = "Mapping[str, int]"

#: A candidate is better where it takes at most this part of the time of the best so far: less is noise.
BETTER = 0.97
#: Passes over all constants.
_PASSES = 3


class TimingState(enum.StrEnum):
    """What came of a candidate."""

    TIMED = "timed"
    WRONG = "wrong"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """A candidate and what came of it: the milliseconds of runs, and ``first_ms`` of the one that compiles."""

    constants: Constants
    state: TimingState
    times: Sequence[float] = ()
    first_ms: float = 0.0
    nmse: float = 0.0
    detail: str = ""

    @property
    def median_ms(self) -> float:
        """The median time; infinite where none was timed."""
        return statistics.median(self.times) if self.state is TimingState.TIMED and self.times else float("inf")


@dataclasses.dataclass(frozen=True, slots=True)
class Tuning:
    """What a tuner found: all that it tried, and the best of it."""

    kernel: str
    timings: Sequence[Timing]
    untuned: Timing
    best: Timing

    @property
    def gain(self) -> float:
        """How many times as fast as the untuned one the best is, by their medians."""
        return self.untuned.median_ms / self.best.median_ms

    def table(self) -> str:
        """Return every candidate that was tried, the fastest first, as lines of text."""
        ordered = sorted(self.timings, key=lambda timing: timing.median_ms)
        names = list(self.untuned.constants)
        lines = [[*names, "median ms", "n", "first ms", "nmse", ""]]
        for timing in ordered:
            marks = [word for word, one in (("chosen", self.best), ("untuned", self.untuned)) if one is timing]
            values = [str(timing.constants[name]) for name in names]
            if timing.state is TimingState.TIMED:
                figures = [f"{timing.median_ms:.3f}", str(len(timing.times)), f"{timing.first_ms:.1f}"]
                values += [*figures, f"{timing.nmse:.1e}", ", ".join(marks)]
            else:
                values += ["", "", "", "", f"{timing.state}: {timing.detail}"[:80]]
            lines.append(values)
        widths = [max(len(line[at]) for line in lines) for at in range(len(names) + 4)]
        return "\n".join(
            "  ".join([*(cell.rjust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
            for line in lines
        )


def key(constants: Constants) -> tuple[tuple[str, int], ...]:
    """Return constants as something that can be looked up."""
    return tuple(sorted(constants.items()))


def descend(
    choices: Mapping[str, Sequence[int]], start: Constants, fits: Callable[[Constants], bool]
) -> Generator[Constants, float, None]:
    """Yield candidates, and take the time of each: one constant is changed after the other, and kept where it helps.

    It ends with a pass that changed nothing. None is yielded twice, and none that does not fit.
    """
    best, best_ms = dict(start), (yield dict(start))
    tried = {key(start)}
    for _ in range(_PASSES):
        before = best
        for name, values in choices.items():
            for value in values:
                candidate = _beside({**best, name: value}, name, choices, fits)
                if candidate is None or key(candidate) in tried:
                    continue
                tried.add(key(candidate))
                took = yield candidate
                if took < best_ms * BETTER:
                    best, best_ms = dict(candidate), took
        if best is before:
            return


def _beside(
    candidate: Constants, changed: str, choices: Mapping[str, Sequence[int]], fits: Callable[[Constants], bool]
) -> Constants | None:
    """Return ``candidate`` where it fits, else with one other constant at its default; None where none of them fits."""
    others = [{**candidate, other: values[0]} for other, values in choices.items() if other != changed]
    return next((one for one in (candidate, *others) if fits(one)), None)


def every(
    choices: Mapping[str, Sequence[int]], start: Constants, fits: Callable[[Constants], bool]
) -> Generator[Constants, float, None]:
    """Yield every candidate that fits, ``start`` first; their times change nothing."""
    yield dict(start)
    candidates: list[dict[str, int]] = [{}]
    for name, values in choices.items():
        candidates = [{**one, name: value} for one in candidates for value in values]
    for candidate in candidates:
        if key(candidate) != key(start) and fits(candidate):
            yield candidate
