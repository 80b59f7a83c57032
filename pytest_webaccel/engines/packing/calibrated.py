"""Weights to low-bit codes by what they are multiplied with: each rounding makes up for those before it. Pure.

A layer computes ``x @ weights.T``. With ``gram = x.T @ x``, an error ``d`` of one row of the weights changes that row's
outputs by ``d @ gram @ d``, the sum of squares. Columns are rounded one after the other, and what each rounding costs
is taken off the columns that are still to come (GPTQ: Frantar et al., 2022, arXiv:2210.17323). A group's scale is found
when its turn comes, from the weights as they are by then. After that every code is looked at again, all others held
still, and set to what serves best (coordinate descent, as in QuantEase: Behdin et al., 2023, arXiv:2309.01885).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.packing.layout import pack
from pytest_webaccel.engines.packing.packed import Packed
from pytest_webaccel.engines.packing.quantise import Search, coded, quantise
from pytest_webaccel.errors import FeedError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["calibrated", "output_error"]

#: What is added to the diagonal of the gram matrix, as a share of its mean: inputs that were not seen count a little.
_DAMPING = 0.01
#: How often every code is looked at again.
_SWEEPS = 2


def calibrated(
    weights: NDArray[Any],
    gram: NDArray[Any],
    bits: int,
    *,
    group: int = 32,
    zero_points: bool = False,
    scales: DTypeLike = np.float16,
) -> Packed:
    """Return ``weights``, floats of shape (rows, columns), as low-bit codes that serve inputs like those of ``gram``.

    ``gram`` is ``x.T @ x``, in any unit, of inputs ``x`` of shape (samples, columns). The other arguments are those of
    :func:`quantise`. The :func:`output_error` of no row is more than that of ``quantise``. Raises what ``quantise``
    raises, and FeedError for a ``gram`` of another shape or that no inputs have.
    """
    plain = quantise(weights, bits, group=group, zero_points=zero_points, scales=scales)
    wide = plain.groups * group
    target = np.zeros((wide, plain.rows), np.float32)
    target[: plain.columns] = weights.T
    damped = _damped(gram, plain.columns, wide)
    levels, scale, zeros = _rounded(target, damped, plain, zero_points=zero_points)
    for _ in range(_SWEEPS):
        _swept(levels, target, damped, scale, zeros, plain)
    codes = (levels.reshape(plain.groups, group, plain.rows) + zeros[:, None]).astype(np.uint8)
    found = Packed(
        bits,
        group,
        plain.columns,
        pack(np.ascontiguousarray(codes.reshape(wide, plain.rows).T), bits),
        np.ascontiguousarray(scale.T).astype(plain.scales.dtype),
        np.ascontiguousarray(zeros.T).astype(np.uint8) if zero_points else None,
    )
    return _better(weights, gram, found, plain)


def output_error(weights: NDArray[Any], packed: Packed, gram: NDArray[Any]) -> NDArray[np.float64]:
    """Return for each row the sum of squares by which ``packed`` changes ``x @ weights.T``; ``gram`` is ``x.T @ x``."""
    off = packed.dequantised().astype(np.float64) - weights
    error: NDArray[np.float64] = np.einsum("rc,rc->r", off @ gram.astype(np.float64), off)
    return error


def _damped(gram: NDArray[Any], columns: int, wide: int) -> NDArray[np.float64]:
    """Return ``gram`` with about 1 on its diagonal, damped, for ``wide`` columns; those added have to do with none."""
    if gram.shape != (columns, columns) or gram.dtype.kind != "f" or not np.isfinite(gram).all():
        raise FeedError(
            f"gram is finite floats of shape [{columns}, {columns}], not {gram.dtype} of shape {list(gram.shape)}"
        )
    mean = float(np.trace(gram, dtype=np.float64)) / columns
    damped = np.zeros((wide, wide))
    damped[:columns, :columns] = gram / mean if mean > 0 else gram
    damped[np.diag_indices(wide)] += _DAMPING
    return damped


def _rounded(
    target: NDArray[np.float32], damped: NDArray[np.float64], form: Packed, *, zero_points: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return levels (columns, rows), scales and zeros (groups, rows), column after column."""
    try:
        upper = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    except np.linalg.LinAlgError as error:
        raise FeedError("gram is no sum of squares: is it x.T @ x?") from error
    left, levels = target.copy(), np.zeros_like(target)
    scales, zeros = np.zeros((2, form.groups, form.rows), np.float32)
    for number in range(form.groups):
        first, last = number * form.group, (number + 1) * form.group
        block = np.ascontiguousarray(left[first:last].T)[:, None]
        costs = np.diag(upper)[first:last] ** -2
        _, scale, zero = coded(
            block, form.bits, form.scales.dtype, Search.MSE, zero_points=zero_points, importance=costs
        )
        scales[number], zeros[number] = scale[:, 0], zero[:, 0]
        owed = np.zeros((form.group, form.rows), np.float32)
        for column in range(first, last):
            levels[column] = _level(left[column], scales[number], zeros[number], form.bits)
            off = (left[column] - levels[column] * scales[number]) / upper[column, column]
            left[column:last] -= np.outer(upper[column, column:last], off)
            owed[column - first] = off
        left[last:] -= upper[first:last, last:].T @ owed
    return levels, scales, zeros


def _swept(
    levels: NDArray[np.float32],
    target: NDArray[np.float32],
    damped: NDArray[np.float64],
    scales: NDArray[np.float32],
    zeros: NDArray[np.float32],
    form: Packed,
) -> None:
    """Set every level in turn to the one under which the error of its row is least, the others being as they are."""
    moments = damped.astype(np.float32)
    pull = moments @ (target - levels * np.repeat(scales, form.group, axis=0))
    for number, (scale, zero) in enumerate(zip(scales, zeros, strict=True)):
        first, last = number * form.group, (number + 1) * form.group
        moved = np.zeros((form.group, form.rows), np.float32)
        for column in range(first, last):
            wanted = levels[column] * scale + pull[column] / moments[column, column]
            level = _level(wanted, scale, zero, form.bits)
            moved[column - first] = (level - levels[column]) * scale
            levels[column] = level
            pull[column:last] -= np.outer(moments[column, column:last], moved[column - first])
        pull[first:last] -= np.triu(moments[first:last, first:last], 1) @ moved
        pull[:first] -= moments[:first, first:last] @ moved
        pull[last:] -= moments[last:, first:last] @ moved


def _level(
    values: NDArray[np.float32], scale: NDArray[np.float32], zero: NDArray[np.float32], bits: int
) -> NDArray[np.float32]:
    """Return the nearest level, code less zero, of each value; 0 where the scale is 0."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        ratio = np.nan_to_num(values / scale, nan=0.0, posinf=1e9, neginf=-1e9)
    level: NDArray[np.float32] = np.clip(np.rint(np.where(scale == 0, 0, ratio)), -zero, (1 << bits) - 1 - zero)
    return level


def _better(weights: NDArray[Any], gram: NDArray[Any], one: Packed, other: Packed) -> Packed:
    """Return of each row what errs less."""
    keep = output_error(weights, one, gram) <= output_error(weights, other, gram)
    zeros = None
    if one.zeros is not None and other.zeros is not None:
        zeros = np.where(keep[:, None], one.zeros, other.zeros)
    return Packed(
        one.bits,
        one.group,
        one.columns,
        np.where(keep[:, None], one.words, other.words),
        np.where(keep[:, None], one.scales, other.scales),
        zeros,
    )
