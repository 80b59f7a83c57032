"""The matrices of an encoder at few bits, calibrated and mixed: what ``minilm`` holds against rounding to nearest."""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels.weights import by_columns, by_rows
from pytest_webaccel.engines.packing import Packed, Search, calibrated, mix, quantise
from tests.engines.bert import embedded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.bert import Bert

__all__ = ["Rounding"]

#: Bits, groups and zero points that a table of embeddings may have: its rows are looked up, so no inputs calibrate it.
_TABLES = (
    (2, 32, False),
    (3, 128, False),
    (3, 64, False),
    (3, 32, False),
    (4, 128, False),
    (4, 64, True),
    (4, 32, True),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """Weights, and what a device keeps of them: scales and zeros are filled up to words there."""

    packed: Packed
    nbytes: int


class Rounding:
    """Forms of an encoder's matrices, by the second moments that ``texts``, as token ids, give to their inputs.

    What candidates lose is measured on ``sentences``.
    """

    def __init__(self, plain: Bert, texts: Sequence[Sequence[int]], sentences: Sequence[Sequence[int]]) -> None:
        self.plain = plain
        self._wide = functools.cache(lambda name: plain.weight(name).astype(np.float64))
        self._weights = {name: plain.weight(name) for name in plain.matrices}
        inputs: dict[str, list[NDArray[Any]]] = collections.defaultdict(list)
        for ids in texts:
            self._embedded({}, ids, lambda name, x: inputs[name].append(x.astype(np.float32)))
        self._grams = {}
        for name in list(inputs):
            x = np.concatenate(inputs.pop(name))
            self._grams[name] = x.T @ x
        self._looked_at = sentences
        self._right = [self._embedded({}, ids) for ids in sentences]
        self._rounded = functools.cache(self._made)

    def calibrated(self, bits: int, *, group: int = 32, zero_points: bool = False) -> dict[str, Packed]:
        """Return all matrices at one number of bits, calibrated but for tables, which are rounded to nearest."""
        return {name: self._rounded(name, bits, group, zero_points) for name in self._weights}

    def mixed(self, share: float) -> dict[str, Packed]:
        """Return all matrices so that the whole encoder takes ``share`` of its bytes in float32 on a device.

        Candidates are measured one by one: the mean of 1 less the cosine to the embedding in float32.
        """
        vectors = self.plain.nbytes - sum(weight.nbytes for weight in self._weights.values())
        candidates = {name: self._candidates(name) for name in self._weights}
        chosen = mix(candidates, self._loss, int(self.plain.nbytes * share) - vectors)
        return {name: kept.packed for name, kept in chosen.items()}

    def _candidates(self, name: str) -> list[Kept]:
        forms = [(4, 64, True), (4, 32, True)] if name in self._grams else _TABLES
        eight = quantise(self._weights[name], 8, group=128, search=Search.NEAREST)
        found = [*(self._rounded(name, bits, group, zeros) for bits, group, zeros in forms), eight]
        layout = by_columns if name in self._grams else by_rows
        return [Kept(packed, layout(packed).data.nbytes) for packed in found]

    def _made(self, name: str, bits: int, group: int, zero_points: bool) -> Packed:
        weight, gram = self._weights[name], self._grams.get(name)
        if gram is None:
            return quantise(weight, bits, group=group, zero_points=zero_points)
        return calibrated(weight, gram, bits, group=group, zero_points=zero_points)

    def _loss(self, name: str, kept: Kept) -> float:
        changed = {name: kept.packed.dequantised().astype(np.float64)}
        pairs = zip(self._looked_at, self._right, strict=True)
        return float(np.mean([1 - self._embedded(changed, ids) @ right for ids, right in pairs]))

    def _embedded(
        self,
        changed: Mapping[str, NDArray[Any]],
        ids: Sequence[int],
        seen: Callable[[str, NDArray[Any]], None] = lambda name, x: None,
    ) -> NDArray[Any]:
        def weight(name: str) -> NDArray[Any]:
            return changed[name] if name in changed else self._wide(name)

        return embedded(weight, ids, layers=self.plain.layers, heads=self.plain.heads, seen=seen)
