"""The few statistics that reports state, with their sources. SciPy is imported when first needed."""

from __future__ import annotations

import dataclasses
import math
import statistics as stdlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Interval", "Summary", "bootstrap_median", "percentile", "summarise", "wilson"]

#: Resamples of a bootstrap: enough for a stable 95 % interval, some milliseconds of work.
_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, both ends included, in the unit of what was measured."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """A sample in figures, in the sample's unit; ``median_interval`` is None under two values."""

    n: int
    median: float
    p95: float
    median_interval: Interval | None


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Return the score interval of a rate, between 0 and 1 (E. B. Wilson, JASA 22, 1927).

    Unlike the normal approximation it is right for few tries and for rates near 0 and 1. Without
    any try it is the whole range. Raises ValueError when the counts or the confidence make no sense.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} tries cannot be")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    if n == 0:
        return Interval(0.0, 1.0)
    z = stdlib.NormalDist().inv_cdf(0.5 + confidence / 2.0)
    rate = successes / n
    scale = 1.0 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(rate * (1.0 - rate) / n + z * z / (4.0 * n * n))
    # At the ends the formula is exact; rounding alone would leave 1e-17 in place of 0.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high)


def percentile(values: Sequence[float], q: float) -> float:
    """Return the ``q``-th percentile (0 to 100), linear between order statistics (type 7 of Hyndman and Fan).

    Raises ValueError for an empty sample or a ``q`` out of range.
    """
    if not values:
        raise ValueError("an empty sample has no percentile")
    if not 0.0 <= q <= 100.0:
        raise ValueError(f"percentile {q} is not between 0 and 100")
    ordered = sorted(values)
    position = (len(ordered) - 1) * q / 100.0
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    if ordered[below] == ordered[above]:
        return float(ordered[below])
    share = position - below
    return float(ordered[below] * (1.0 - share) + ordered[above] * share)


def bootstrap_median(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Interval:
    """Return the percentile-bootstrap interval of the median (B. Efron, Ann. Statist. 7, 1979).

    The same values and ``seed`` give the same interval. Raises ValueError under two values.
    """
    if len(values) < 2:
        raise ValueError("a median of fewer than two values has no interval")
    if len(set(values)) == 1:
        return Interval(float(values[0]), float(values[0]))
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.sort(np.asarray(values, dtype=float)),),
        np.median,
        confidence_level=confidence,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    # Interpolation between resamples may round past the sample's own ends.
    return Interval(max(float(found.low), float(min(values))), min(float(found.high), float(max(values))))


def summarise(values: Sequence[float]) -> Summary:
    """Return median, 95th percentile and the median's interval; raises ValueError for an empty sample."""
    interval = bootstrap_median(values) if len(values) > 1 else None
    return Summary(len(values), percentile(values, 50), percentile(values, 95), interval)
