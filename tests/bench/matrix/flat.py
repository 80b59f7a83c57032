"""Whether something grows: the slope over a long run, with its interval. Pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Point", "Slope", "slope"]

#: Points under which no slope is stated.
LEAST = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """One look: after how many faults of this ``process``, which value. Processes start from different values."""

    process: str
    faults: int
    value: float


@dataclasses.dataclass(frozen=True, slots=True)
class Slope:
    """Growth for each 1000 faults, in the unit of the values, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f}, {self.n} looks)"


def slope(points: Sequence[Point], *, warm_up: int = 0) -> Slope | None:
    """Return the common slope of all processes, each with an intercept of its own (least squares, Student's t).

    The first ``warm_up`` faults of each process are left out: caches fill there. None where too few are left.
    """
    from scipy.stats import t

    kept: dict[str, list[Point]] = {}
    for point in points:
        if point.faults >= warm_up:
            kept.setdefault(point.process, []).append(point)
    groups = [group for group in kept.values() if len(group) > 1]
    n = sum(map(len, groups))
    freedom = n - len(groups) - 1
    if n < LEAST or freedom < 1:
        return None
    x = np.concatenate([_centred([point.faults / 1000 for point in group]) for group in groups])
    y = np.concatenate([_centred([point.value for point in group]) for group in groups])
    spread = float(x @ x)
    if spread == 0:
        return None
    value = float(x @ y) / spread
    error = float(np.sqrt(np.sum((y - value * x) ** 2) / freedom / spread))
    half = float(t.ppf(0.975, freedom)) * error
    return Slope(value, value - half, value + half, n)


def _centred(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    centred: NDArray[np.float64] = array - array.mean()
    return centred
