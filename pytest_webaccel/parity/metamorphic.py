"""Relations between a model's own answers, for where nothing else says what is right. Pure.

A batch is answered as its items are one by one, and in whatever order they stand. ``axes`` says by name which axis of
an array counts the items; an array that is not named is the same for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.errors import FeedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["axes_of", "batch_size", "item", "joined", "permuted"]

Arrays = dict[str, "NDArray[Any]"]


def axes_of(given: int | Mapping[str, int], names: Sequence[str], what: str) -> dict[str, int]:
    """Return the axis of each of ``names``: one for all, or those that are given; raises FeedError for another name."""
    if isinstance(given, int):
        return dict.fromkeys(names, given)
    if unknown := [name for name in given if name not in names]:
        raise FeedError(f"{what}: {', '.join(map(repr, unknown))} is not among {', '.join(names)}.")
    return dict(given)


def batch_size(feeds: Mapping[str, NDArray[Any]], axes: Mapping[str, int]) -> int:
    """Return how many items ``feeds`` hold; raises FeedError for fewer than two, and where inputs differ."""
    sizes = {}
    for name, axis in axes.items():
        array = np.asarray(feeds[name])
        sizes[name] = array.shape[_axis(name, array, axis)]
    if len(set(sizes.values())) != 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items()) or "no input"
        raise FeedError(f"a batch has one size, and the inputs hold: {told}. Name their axes, such as axes={{'x': 0}}.")
    size = int(next(iter(sizes.values())))
    if size < 2:
        raise FeedError(f"a batch of {size} item says nothing; feed two or more.")
    return size


def item(feeds: Mapping[str, NDArray[Any]], axes: Mapping[str, int], index: int) -> Arrays:
    """Return the feeds of one item, as a batch of one."""
    return permuted(feeds, axes, [index])


def permuted(arrays: Mapping[str, NDArray[Any]], axes: Mapping[str, int], order: Sequence[int]) -> Arrays:
    """Return ``arrays`` with their items in ``order``."""
    return {
        name: np.take(array, order, axis=_axis(name, array, axes[name])) if name in axes else np.asarray(array)
        for name, array in arrays.items()
    }


def joined(answers: Sequence[Mapping[str, NDArray[Any]]], axes: Mapping[str, int]) -> Arrays:
    """Return the answers to single items as that of a batch; what has no axis is the first item's."""
    return {
        name: np.concatenate([one[name] for one in answers], axis=_axis(name, array, axes[name]))
        if name in axes
        else array
        for name, array in answers[0].items()
    }


def _axis(name: str, array: NDArray[Any], axis: int) -> int:
    if -array.ndim <= axis < array.ndim:
        return axis
    raise FeedError(
        f"{name!r} of shape {list(array.shape)} has no axis {axis} that could count items. Name the axes of those that "
        "have, such as axes={'x': 0} and output_axes={'y': 0}; what is not named is the same for all items."
    )
