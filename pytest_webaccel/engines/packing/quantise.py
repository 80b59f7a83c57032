"""Weights to low-bit codes: rounded to nearest, or with the scale that errs least.

A group's scale is found first. ``nearest`` takes it from the extremes: with zero points the range from least to most
(zero always in it) is cut into ``2**bits - 1`` steps; without, the largest magnitude stands on the side that has one
level more, as llama.cpp's ``Q4_0`` does, so that no level is wasted. ``mse`` tries scales around that one and keeps,
for each group, the one whose squared error is least; it is never worse than ``nearest``. Codes are rounded to the
nearest level that is stored: scales are rounded to their own type before.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.packing.layout import known_bits, known_group, pack
from pytest_webaccel.engines.packing.packed import Packed
from pytest_webaccel.errors import ConfigurationError, FeedError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["Search", "coded", "quantise"]


class Search(enum.StrEnum):
    """How a group's scale is found."""

    NEAREST = "nearest"
    MSE = "mse"


#: What the scale of ``nearest`` is multiplied by in turn: clipping the extremes pays with few levels.
_FACTORS = np.linspace(0.4, 1.05, 27, dtype=np.float32)
#: Weights that are looked at together, so that the search needs little memory.
_CHUNK = 1 << 20


def quantise(
    weights: NDArray[Any],
    bits: int,
    *,
    group: int = 32,
    zero_points: bool = False,
    scales: DTypeLike = np.float16,
    search: Search = Search.MSE,
) -> Packed:
    """Return ``weights``, floats of shape (rows, columns), as low-bit codes; groups run along the columns.

    ``scales`` is float16 or float32. Raises ConfigurationError for bits, groups or scales that are not known, FeedError
    for weights that are no matrix of finite floats or too large for the scale's type.
    """
    known_bits(bits)
    known_group(group)
    kind = np.dtype(scales)
    if kind not in (np.float16, np.float32):
        raise ConfigurationError(f"scales={kind}: they are float16 or float32")
    _finite(weights)
    rows, columns = weights.shape
    groups = -(-columns // group)
    step = max(_CHUNK // max(columns, 1), 1)
    found = [
        _rows(weights[first : first + step].astype(np.float32), bits, group, kind, search, zero_points=zero_points)
        for first in range(0, rows, step)
    ]
    codes, scale, zeros = (np.concatenate([part[index] for part in found]) for index in range(3))
    return Packed(
        bits,
        group,
        columns,
        pack(codes.reshape(rows, groups * group), bits),
        scale,
        zeros if zero_points else None,
    )


def _finite(weights: NDArray[Any]) -> None:
    if weights.ndim != 2 or not weights.size or weights.dtype.kind != "f":
        raise FeedError(f"weights are a matrix of floats, not {weights.dtype} of shape {list(weights.shape)}")
    bad = np.argwhere(~np.isfinite(weights))
    if len(bad):
        row, column = bad[0]
        raise FeedError(
            f"weights have {len(bad)} elements that are NaN or infinite, the first at row {row}, column {column}: no "
            "code can stand for those"
        )


def _rows(
    weights: NDArray[np.float32], bits: int, group: int, kind: np.dtype[Any], search: Search, *, zero_points: bool
) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.uint8]]:
    """Return codes (rows, groups, group), scales and zeros (rows, groups) of a few rows."""
    rows, columns = weights.shape
    groups = -(-columns // group)
    padded = np.zeros((rows, groups * group), np.float32)
    padded[:, :columns] = weights
    return coded(padded.reshape(rows, groups, group), bits, kind, search, zero_points=zero_points)


def coded(
    values: NDArray[np.float32],
    bits: int,
    kind: np.dtype[Any],
    search: Search,
    *,
    zero_points: bool,
    importance: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.uint8]]:
    """Return codes of ``values`` (rows, groups, group), with scales of type ``kind`` and zeros (rows, groups).

    ``importance`` (group) is how much the square of an error counts at each place of a group, 1 by default.
    """
    counts = np.ones(values.shape[-1], np.float32) if importance is None else importance
    base = _ranged(values, bits) if zero_points else _extreme(values, bits)
    best = _coded(values, base, bits, kind, zero_points=zero_points)
    if search is Search.MSE:
        least = _error(values, best, counts)
        for factor in _FACTORS:
            other = _coded(values, base * factor, bits, kind, zero_points=zero_points)
            error = _error(values, other, counts)
            better = error < least
            least = np.where(better, error, least)
            best = (
                np.where(better[..., None], other[0], best[0]),
                np.where(better, other[1], best[1]),
                np.where(better, other[2], best[2]),
            )
    return best


def _extreme(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Return the scale that puts the value of largest magnitude on the lowest level: of the other sign than it."""
    place = np.argmax(np.abs(values), axis=-1, keepdims=True)
    scale: NDArray[np.float32] = np.take_along_axis(values, place, axis=-1)[..., 0] / np.float32(-(1 << (bits - 1)))
    return scale


def _ranged(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Return the scale that spreads the levels from the least to the most, zero among them."""
    low, high = np.minimum(values.min(axis=-1), 0), np.maximum(values.max(axis=-1), 0)
    # halves, since the difference of two finite numbers need not be one
    scale: NDArray[np.float32] = (high / 2 - low / 2) / np.float32(((1 << bits) - 1) / 2)
    return scale


def _coded(
    values: NDArray[np.float32], scale: NDArray[np.float32], bits: int, kind: np.dtype[Any], *, zero_points: bool
) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.uint8]]:
    """Return codes under a scale, the scale as it is stored, and zeros."""
    with np.errstate(over="ignore"):
        stored = scale.astype(kind)
    if not np.isfinite(stored).all():
        raise FeedError(
            f"weights up to {np.abs(values).max():g} need a scale that {kind} cannot hold: ask for scales=float32"
        )
    used = stored.astype(np.float32)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        levels = np.nan_to_num(values / used[..., None], nan=0.0, posinf=1e9, neginf=-1e9)
    levels = np.where(used[..., None] == 0, np.float32(0), levels)
    most = (1 << bits) - 1
    if zero_points:
        zeros = np.clip(np.rint(-levels.min(axis=-1).clip(max=0)), 0, most)
    else:
        zeros = np.full(scale.shape, 1 << (bits - 1), np.float32)
    codes = np.clip(np.rint(levels) + zeros[..., None], 0, most)
    return codes.astype(np.uint8), stored, zeros.astype(np.uint8)


def _error(
    values: NDArray[np.float32],
    found: tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.uint8]],
    counts: NDArray[np.float32],
) -> NDArray[np.float64]:
    codes, scale, zeros = found
    levels = codes.astype(np.float32) - zeros[..., None].astype(np.float32)
    off = (levels * scale.astype(np.float32)[..., None]).astype(np.float64) - values
    error: NDArray[np.float64] = np.einsum("rgi,rgi,i->rg", off, off, counts)
    return error
