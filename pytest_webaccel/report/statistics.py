"""The few statistics that reports state, with their sources. SciPy is imported when first needed."""

from __future__ import annotations

import dataclasses
import math
import statistics as stdlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

__all__ = [
    "Censored",
    "Interval",
    "Summary",
    "bootstrap_median",
    "censored_median_interval",
    "censored_percentile",
    "percentile",
    "resampled_medians",
    "summarise",
    "summarise_censored",
    "wilson",
]

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


# -- times of tries of which some failed: they would have come after all others, nobody knows when --------


@dataclasses.dataclass(frozen=True, slots=True)
class Censored:
    """A sample of times with ``failures`` that are longer than all of them. What falls among failures is None."""

    n: int
    failures: int
    median: float | None
    p95: float | None
    median_interval: Interval | None


def censored_percentile(values: Sequence[float], failures: int, q: float) -> float | None:
    """Return the ``q``-th percentile of ``values`` and of ``failures`` that would have come after all of them."""
    whole = [*values, *[math.inf] * failures]
    if not whole:
        return None
    ordered = sorted(whole)
    position = (len(ordered) - 1) * q / 100.0
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    if math.isinf(above):
        return None
    return below + (above - below) * (position - math.floor(position))


def resampled_medians(values: Sequence[float], failures: int, seed: int) -> np.ndarray[Any, Any]:
    """Return medians of bootstrap resamples of ``values`` and ``failures``, infinite where they fall among those."""
    import numpy as np

    whole = np.array([*sorted(values), *[np.inf] * failures])
    chance = np.random.default_rng(seed)
    drawn = np.sort(whole[chance.integers(0, len(whole), size=(_RESAMPLES, len(whole)))], axis=1)
    lower, upper = drawn[:, (len(whole) - 1) // 2], drawn[:, len(whole) // 2]
    return np.where(np.isinf(upper), np.inf, (np.where(np.isinf(lower), 0.0, lower) + upper) / 2)


def censored_median_interval(values: Sequence[float], failures: int = 0, seed: int = 0) -> Interval | None:
    """Return the 95 % percentile-bootstrap interval of the median; None where it is open or there are too few."""
    if len(values) < 2:
        return None
    import numpy as np

    low, high = np.quantile(resampled_medians(values, failures, seed), (0.025, 0.975), method="nearest")
    return Interval(float(low), float(high)) if np.isfinite(high) else None


def summarise_censored(values: Sequence[float], failures: int) -> Censored:
    """Return median, 95th percentile and the median's interval of ``values`` and of ``failures``."""
    return Censored(
        len(values) + failures,
        failures,
        censored_percentile(values, failures, 50),
        censored_percentile(values, failures, 95),
        censored_median_interval(values, failures),
    )
