"""Holding one answer against another, and lanes against each other."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.parity.tolerance import Tolerance, tolerance_for, ulp_distance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Comparison", "Difference", "compare", "compare_all", "message"]


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """How one output compares with what was expected.

    ``n_bad`` of ``count`` elements are outside ``tolerance``; ``worst`` is the index of the one that
    is furthest outside (or nearest to it), ``expected`` and ``got`` its values. ``max_abs``,
    ``max_rel`` (over elements expected not to be zero) and ``max_ulp`` (steps between integers) are
    infinite where NaN or infinity meets something else. ``spread`` holds the absolute difference that half of the
    elements, 90 % and 99 % of them do not exceed. ``nan_mismatch`` counts the elements where
    exactly one side is NaN. ``shape_mismatch`` and ``dtype_mismatch`` are (expected, got) or None;
    with either nothing else was compared. Text counts 0 or infinitely far apart.
    """

    agrees: bool
    tolerance: Tolerance
    count: int
    n_bad: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    max_ulp: float = 0.0
    spread: tuple[float, float, float] = (0.0, 0.0, 0.0)
    worst: tuple[int, ...] | None = None
    expected: object = None
    got: object = None
    nan_mismatch: int = 0
    shape_mismatch: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    dtype_mismatch: tuple[str, str] | None = None

    def __str__(self) -> str:
        """Return what is wrong, or how near it is, in one line."""
        if self.dtype_mismatch:
            return f"dtype {self.dtype_mismatch[1]} where {self.dtype_mismatch[0]} was expected"
        if self.shape_mismatch:
            return f"shape {self.shape_mismatch[1]} where {self.shape_mismatch[0]} was expected"
        nan = f", {self.nan_mismatch} of them NaN on one side only" if self.nan_mismatch else ""
        where = (
            f"; worst at {list(self.worst)}: expected {self.expected}, got {self.got}" if self.worst is not None else ""
        )
        half, most, nearly = self.spread
        return (
            f"{self.n_bad} of {self.count} elements outside {self.tolerance}{nan}{where} "
            f"(max abs {self.max_abs:.3g}, max rel {self.max_rel:.3g}, max ULP {self.max_ulp:.3g}; "
            f"abs p50 {half:.3g}, p90 {most:.3g}, p99 {nearly:.3g})"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Every lane's outputs held against ``reference``.

    ``differences`` is by source (a lane, as text), then by output. ``groups`` are the sources,
    reference included, whose answers agree with each other.
    """

    reference: str
    differences: Mapping[str, Mapping[str, Difference]]
    groups: tuple[tuple[str, ...], ...]

    @property
    def agrees(self) -> bool:
        """Whether every output of every source agrees with the reference."""
        return all(one.agrees for outputs in self.differences.values() for one in outputs.values())


def compare(expected: NDArray[Any], got: NDArray[Any], tolerance: Tolerance | None = None) -> Difference:
    """Return how ``got`` differs from ``expected``, by default within its dtype's tolerance.

    NaN agrees with NaN, an infinity with the same infinity. Shapes and dtypes must be equal.
    Raises TypeError for a dtype that cannot be compared.
    """
    expected, got = np.asarray(expected), np.asarray(got)
    tolerance = tolerance_for(expected.dtype) if tolerance is None else tolerance
    count = int(expected.size)
    text = expected.dtype.kind in "OUS" and got.dtype.kind in "OUS"
    if expected.dtype.newbyteorder("=") != got.dtype.newbyteorder("=") and not text:
        kinds = (str(expected.dtype), str(got.dtype))
        return _incomparable(tolerance, count, dtype_mismatch=kinds)
    if expected.shape != got.shape:
        return _incomparable(tolerance, count, shape_mismatch=(expected.shape, got.shape))
    if count == 0:
        return Difference(agrees=True, tolerance=tolerance, count=0)
    if text:
        apart, ulp = _text_distance(expected, got)
        magnitude = np.ones(expected.shape)
    elif expected.dtype.kind == "f":
        native = expected.dtype.newbyteorder("=")
        expected, got = expected.astype(native), got.astype(native)
        apart, ulp = _float_distance(expected, got)
        magnitude = np.abs(expected.astype(np.float64))
    else:
        tolerance_for(expected.dtype)  # refuses what is neither integer nor bool
        apart = ulp = _integer_distance(expected, got)
        magnitude = np.abs(expected.astype(np.float64))
    return _difference(expected, got, tolerance, apart, ulp, magnitude)


def compare_all(
    answers: Mapping[str, Mapping[str, NDArray[Any]]],
    reference: str,
    tolerances: Mapping[str, Tolerance] | None = None,
) -> Comparison:
    """Return every source's outputs against those of ``reference``, itself one of the sources.

    ``answers`` is by source, then by output; ``tolerances`` by output, the dtype's default where
    absent. Agreement is not transitive: a source joins the first group whose first member it agrees
    with, the reference's group first. Raises ValueError when ``reference`` is missing or sources
    have different outputs.
    """
    if reference not in answers:
        raise ValueError(f"reference {reference!r} is not among the sources {sorted(answers)}")
    for source, outputs in answers.items():
        if set(outputs) != set(answers[reference]):
            raise ValueError(f"{source} has outputs {sorted(outputs)}, {reference} has {sorted(answers[reference])}")
    allowed = tolerances or {}

    def differences(base: str, source: str) -> dict[str, Difference]:
        return {name: compare(value, answers[source][name], allowed.get(name)) for name, value in answers[base].items()}

    against = {source: differences(reference, source) for source in answers if source != reference}
    groups = [[reference]]
    for source, found in against.items():
        for group in groups:
            held = found if group[0] == reference else differences(group[0], source)
            if all(one.agrees for one in held.values()):
                group.append(source)
                break
        else:
            groups.append([source])
    return Comparison(reference, against, tuple(tuple(group) for group in groups))


def message(comparison: Comparison, model: str = "model") -> str:
    """Return what disagrees: each output with its worst element, and which sources agree with which."""
    total = len(comparison.differences)
    wrong = [
        (source, bad)
        for source, outputs in comparison.differences.items()
        if (bad := {name: one for name, one in outputs.items() if not one.agrees})
    ]
    if not wrong:
        return f"{model}: {total} of {total} agree with {comparison.reference}"
    lines = [f"{model}: {len(wrong)} of {total} disagree with {comparison.reference}"]
    lines += [f"  output {name!r} on {source}: {one}" for source, bad in wrong for name, one in bad.items()]
    groups = "; ".join(" = ".join(group) for group in comparison.groups)
    lines.append(f"  who agrees with whom: {groups}")
    return "\n".join(lines)


def _incomparable(
    tolerance: Tolerance,
    count: int,
    *,
    shape_mismatch: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    dtype_mismatch: tuple[str, str] | None = None,
) -> Difference:
    return Difference(
        agrees=False,
        tolerance=tolerance,
        count=count,
        n_bad=count,
        max_abs=math.inf,
        max_rel=math.inf,
        max_ulp=math.inf,
        spread=(math.inf, math.inf, math.inf),
        shape_mismatch=shape_mismatch,
        dtype_mismatch=dtype_mismatch,
    )


def _difference(
    expected: NDArray[Any],
    got: NDArray[Any],
    tolerance: Tolerance,
    apart: NDArray[np.float64],
    ulp: NDArray[np.float64],
    magnitude: NDArray[np.float64],
) -> Difference:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        allowed = np.where(np.isfinite(magnitude), tolerance.atol + tolerance.rtol * magnitude, 0.0)
        bad = (apart > allowed) & ((ulp > tolerance.ulp) | np.isinf(apart))
        outside = np.where(np.isinf(apart), np.inf, apart - allowed)
        if bad.any():  # what is within the ULP that are allowed is not outside, however far it lies
            outside = np.where(bad, outside, -np.inf)
        relative = np.where(apart == 0, 0.0, np.where(magnitude > 0, apart / magnitude, 0.0))
        relative = np.where(np.isinf(apart), np.inf, relative)
    worst = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(outside)), outside.shape))
    nan = int(np.count_nonzero(np.isnan(expected) != np.isnan(got))) if expected.dtype.kind == "f" else 0
    n_bad = int(np.count_nonzero(bad))
    return Difference(
        agrees=n_bad == 0,
        tolerance=tolerance,
        count=int(expected.size),
        n_bad=n_bad,
        max_abs=float(np.max(apart)),
        max_rel=float(np.max(relative)),
        max_ulp=float(np.max(ulp)),
        spread=_spread(apart),
        worst=worst,
        expected=_plain(expected[worst]),
        got=_plain(got[worst]),
        nan_mismatch=nan,
    )


def _spread(apart: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the nearest elements at or above the 50th, 90th and 99th percentile; infinity cannot be interpolated."""
    half, most, nearly = np.percentile(apart, [50, 90, 99], method="higher")
    return float(half), float(most), float(nearly)


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _float_distance(expected: NDArray[Any], got: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    same = (expected == got) | (np.isnan(expected) & np.isnan(got))
    finite = np.isfinite(expected) & np.isfinite(got)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    steps = ulp_distance(expected, got).astype(np.float64)
    odd = ~same & ~finite
    return np.where(same, 0.0, np.where(odd, np.inf, apart)), np.where(odd, np.inf, steps)


def _integer_distance(expected: NDArray[Any], got: NDArray[Any]) -> NDArray[np.float64]:
    # Signed values are widened and read modulo 2**64, where the difference of any two is exact.
    wide = np.int64 if expected.dtype.kind == "i" else np.uint64
    high, low = (pick(expected, got).astype(wide).view(np.uint64) for pick in (np.maximum, np.minimum))
    return np.asarray(high - low).astype(np.float64)


def _text_distance(expected: NDArray[Any], got: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    same = np.asarray(expected.astype(object) == got.astype(object), dtype=bool)
    apart = np.where(same, 0.0, np.inf)
    return apart, apart
