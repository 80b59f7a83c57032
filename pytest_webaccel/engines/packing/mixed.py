"""Mixed precision: how many bits each layer of a model gets, so that all of them fit into a budget. Pure."""

from __future__ import annotations

import dataclasses
import heapq
from typing import TYPE_CHECKING

from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Choice", "allot"]


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What one number of bits means for a layer: ``nbytes`` that it takes, and its ``error``, in any unit but one."""

    nbytes: int
    error: float


def allot(layers: Mapping[str, Mapping[int, Choice]], budget_bytes: int) -> dict[str, int]:
    """Return the bits of each layer: first the fewest for all, then more where a byte takes away most of the error.

    Greedy, by the error saved for each byte more, as long as ``budget_bytes`` lasts; a step may skip bits that save
    nothing. The more bytes there are, the smaller the sum of errors. Raises ConfigurationError where the fewest bits of
    all layers are over the budget already, with what they need.
    """
    chosen = {name: min(choices, key=lambda bits: choices[bits].nbytes) for name, choices in layers.items()}
    spent = sum(layers[name][bits].nbytes for name, bits in chosen.items())
    if spent > budget_bytes:
        raise ConfigurationError(
            f"the fewest bits of every layer take {spent:,} bytes, more than the budget of {budget_bytes:,}"
        )
    waiting = [step for name in layers if (step := _step(layers[name], name, chosen[name])) is not None]
    heapq.heapify(waiting)
    while waiting:
        _, name, bits = heapq.heappop(waiting)
        more = layers[name][bits].nbytes - layers[name][chosen[name]].nbytes
        if spent + more > budget_bytes:
            continue
        spent += more
        chosen[name] = bits
        if (step := _step(layers[name], name, bits)) is not None:
            heapq.heappush(waiting, step)
    return chosen


def _step(choices: Mapping[int, Choice], name: str, now: int) -> tuple[float, str, int] | None:
    """Return the best next step of a layer, as (error saved for a byte, turned; layer; bits); None where none helps."""
    here = choices[now]
    steps = [
        ((there.error - here.error) / (there.nbytes - here.nbytes), name, bits)
        for bits, there in choices.items()
        if there.nbytes > here.nbytes and there.error < here.error
    ]
    return min(steps, default=None)
