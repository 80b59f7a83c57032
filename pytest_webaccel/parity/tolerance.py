"""How far two answers may lie apart and still be the same answer.

The WebNN conformance suite (web-platform-tests, ``webnn/resources/utils.js``) allows each operator
its own error: none for what only moves or compares data; a few units in the last place (ULP) for
arithmetic and activations; for reductions and dot products a number of ULP that grows with the terms
summed; and an absolute 1/1024 (float32) or 1/512 (float16) for functions such as sin, log and erf.
For a graph of several operators it adds these up.

A whole model has too many operators for that sum to mean anything, so one mixed rule by dtype stands
in for it: ``|got - expected| <= atol + rtol * |expected|``.

- float32: ``rtol`` 1e-4 is about 840 ULP, what the suite grants one dot product of some 400 terms
  (two ULP a term); ``atol`` 1e-4 takes over near zero, where ULP say nothing, and is a tenth of the
  suite's absolute allowance. Honest backends differ by about 1e-6 on models of a few million
  weights, so both leave two orders of magnitude, and real defects overshoot them by as much.
- float16: one ULP is 1e-3 of the value, so ``rtol`` 1e-2 is about 10 ULP; ``atol`` 5e-3 is two and a
  half of the suite's allowances.
- float64: no operator of a browser backend loses more than a sum's rounding; 1e-9 is far above it.
- integers, booleans, text: exact. A quantised model whose lanes round differently by one step asks
  for a tolerance of its own.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray

__all__ = ["EXACT", "TOLERANCES", "Tolerance", "tolerance_for", "ulp_distance"]


@dataclasses.dataclass(frozen=True, slots=True)
class Tolerance:
    """Agreement means ``|got - expected| <= atol + rtol * |expected|``, or at most ``ulp`` representable values apart.

    Raises ValueError unless all are finite and not negative.
    """

    atol: float
    rtol: float = 0.0
    ulp: int = 0

    def __post_init__(self) -> None:
        """Refuse what would make every answer right or wrong."""
        if not all(math.isfinite(part) and part >= 0 for part in (self.atol, self.rtol, self.ulp)):
            raise ValueError(
                f"atol {self.atol!r}, rtol {self.rtol!r} and ulp {self.ulp!r} must be finite and not negative"
            )

    def __str__(self) -> str:
        """Return the written form used in messages."""
        mixed = f"atol {self.atol:g} + rtol {self.rtol:g} * |expected|" if self.atol or self.rtol else ""
        return " or ".join(part for part in (mixed, f"{self.ulp} ULP" if self.ulp else "") if part) or "exact"


#: Nothing but the same value.
EXACT = Tolerance(0.0)

#: Tolerances of floating-point dtypes by NumPy's name of the dtype.
TOLERANCES: Mapping[str, Tolerance] = {
    "float16": Tolerance(5e-3, 1e-2),
    "float32": Tolerance(1e-4, 1e-4),
    "float64": Tolerance(1e-9, 1e-9),
}


def tolerance_for(dtype: DTypeLike) -> Tolerance:
    """Return the default tolerance of ``dtype``: :data:`EXACT` for integers, booleans and text.

    Raises TypeError for a dtype that no ONNX output has in NumPy, such as a structured one.
    """
    kind = np.dtype(dtype)
    if kind.name in TOLERANCES:
        return TOLERANCES[kind.name]
    if kind.kind in "iubOUS":
        return EXACT
    raise TypeError(f"no tolerance is known for dtype {kind}; known: {', '.join(TOLERANCES)}, integers, bool, text")


def ulp_distance(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.uint64]:
    """Return how many representable values lie from ``a`` to ``b``, element by element.

    Both are float16, float32 or float64 alike, and broadcast. The two zeros are 0 apart; infinity is
    the step after the largest finite value; two NaN are 0 apart, NaN and a number 2**64 - 1.
    Raises TypeError for other or unequal dtypes.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.dtype.name not in TOLERANCES:
        raise TypeError(f"ULP are counted between two arrays of one float dtype, not {a.dtype} and {b.dtype}")
    a, b = np.broadcast_arrays(a, b)
    a_negative, a_steps = _steps_from_zero(a)
    b_negative, b_steps = _steps_from_zero(b)
    apart = np.maximum(a_steps, b_steps) - np.minimum(a_steps, b_steps)
    distance = np.where(a_negative == b_negative, apart, a_steps + b_steps)
    a_nan, b_nan = np.isnan(a), np.isnan(b)
    distance = np.where(a_nan | b_nan, np.uint64(2**64 - 1), distance)
    return np.where(a_nan & b_nan, np.uint64(0), distance).astype(np.uint64)


def _steps_from_zero(values: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    # IEEE 754 orders the bits below the sign as it orders the values.
    width = values.dtype.itemsize * 8
    bits = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").reshape(values.shape).astype(np.uint64)
    return np.signbit(values), bits & np.uint64((1 << (width - 1)) - 1)
