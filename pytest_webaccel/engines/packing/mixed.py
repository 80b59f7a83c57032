"""Mixed precision: in what form each matrix of a model is kept, so that all of them fit into a budget. Pure."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Protocol, TypeVar

from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["mix"]


class Stored(Protocol):
    """What takes bytes: packed weights, or an array."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""


T = TypeVar("T", bound=Stored)


def mix(candidates: Mapping[str, Sequence[T]], loss: Callable[[str, T], float], budget_bytes: int) -> dict[str, T]:
    """Return one candidate for each name: first the smallest, then others where a byte takes away most of the loss.

    ``loss`` of a name and a candidate is what the model loses by that one alone, in any unit but one; losses are taken
    to add up. Greedy, by the loss saved for each byte more, as long as ``budget_bytes`` lasts; a step may skip
    candidates that save nothing. Raises ConfigurationError where a name has no candidate, or where the smallest of all
    are over the budget already, with what they take.
    """
    if empty := [name for name, forms in candidates.items() if not forms]:
        raise ConfigurationError(f"there is no candidate for {', '.join(empty)}")
    losses = {name: [loss(name, form) for form in forms] for name, forms in candidates.items()}
    sizes = {name: [form.nbytes for form in forms] for name, forms in candidates.items()}
    chosen = {
        name: min(range(len(sizes[name])), key=lambda i: (sizes[name][i], losses[name][i])) for name in candidates
    }
    spent = sum(sizes[name][index] for name, index in chosen.items())
    if spent > budget_bytes:
        raise ConfigurationError(
            f"the smallest candidates take {spent:,} bytes, more than the budget of {budget_bytes:,}"
        )
    waiting = [step for name in candidates if (step := _step(sizes[name], losses[name], name, chosen[name]))]
    heapq.heapify(waiting)
    while waiting:
        _, name, index = heapq.heappop(waiting)
        more = sizes[name][index] - sizes[name][chosen[name]]
        if spent + more > budget_bytes:
            continue
        spent += more
        chosen[name] = index
        if step := _step(sizes[name], losses[name], name, index):
            heapq.heappush(waiting, step)
    return {name: candidates[name][index] for name, index in chosen.items()}


def _step(sizes: Sequence[int], losses: Sequence[float], name: str, now: int) -> tuple[float, str, int] | None:
    """Return the best next step of a name, as (loss saved for a byte, turned; name; index); None where none helps."""
    steps = [
        ((losses[index] - losses[now]) / (size - sizes[now]), name, index)
        for index, size in enumerate(sizes)
        if size > sizes[now] and losses[index] < losses[now]
    ]
    return min(steps, default=None)
