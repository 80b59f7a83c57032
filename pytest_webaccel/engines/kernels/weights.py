"""Weights as kernels bind them, sent with a program or kept on the device."""

from __future__ import annotations

import dataclasses
import uuid
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from pytest_webaccel.engines.kernels.program import Constant, require
from pytest_webaccel.engines.packing import Packed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.program import Operand

__all__ = ["Resident", "Words", "array_operand", "by_columns", "by_rows", "packed_constants", "packed_operand"]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Resident(Generic[T]):
    """Weights, an array or :class:`~pytest_webaccel.engines.packing.Packed`, that stay on a lane's device.

    They are sent at their first use and freed when the test ends; a lane that was mended gets them again. They must not
    be changed meanwhile.
    """

    value: T
    key: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    _forms: dict[str, Words] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def form(self, name: str, made: Callable[[T], Words]) -> tuple[Constant, Words]:
        """Return them as ``made`` lays them out, made once."""
        if name not in self._forms:
            self._forms[name] = made(self.value)
        words = self._forms[name]
        return Constant(f"{self.key}-{name}", words.data), words


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Words:
    """Words of one buffer, and from which word on the scales and the zeros lie."""

    data: NDArray[Any]
    scales: int = 0
    zeros: int = 0


def packed_operand(
    name: str, given: Packed | Resident[Packed], layout: Callable[[Packed], Words]
) -> tuple[Packed, Operand, Words]:
    """Return low-bit weights, what is bound for them, and where their parts lie; raises FeedError for anything else."""
    if isinstance(given, Resident):
        require(Packed, **{name: given.value})
        constant, words = given.form(layout.__name__, layout)
        return given.value, constant, words
    require(Packed, **{name: given})
    words = layout(given)
    return given, words.data, words


def array_operand(name: str, given: NDArray[Any] | Resident[NDArray[Any]]) -> tuple[NDArray[Any], Operand]:
    """Return an array of weights, and what is bound for it; raises FeedError for anything else."""
    if isinstance(given, Resident):
        require(np.ndarray, **{name: given.value})
        return given.value, given.form("whole", Words)[0]
    require(np.ndarray, **{name: given})
    return given, given


def by_rows(*parts: Packed) -> Words:
    """Return weights row by row (``kernels/shared/packed.wgsl``).

    Of several parts of one form the codes of all come first, then the scales of all, then the zeros.
    """
    return _words(
        [part.words for part in parts],
        [part.scales for part in parts],
        [part.zeros for part in parts if part.zeros is not None],
    )


def by_columns(weights: Packed) -> Words:
    """Return weights with what rows have at one place side by side: neighbours in a workgroup read neighbours."""
    zeros = [] if weights.zeros is None else [weights.zeros.T]
    return _words([weights.words.T], [weights.scales.T], zeros)


def packed_constants(weights: Packed) -> dict[str, int]:
    """Return the constants that tell kernels how weights are packed."""
    return {
        "BITS": weights.bits,
        "GROUP": weights.group,
        "SCALE_BITS": weights.scales.dtype.itemsize * 8,
        "HAS_ZEROS": int(weights.zeros is not None),
    }


def _words(codes: list[NDArray[Any]], scales: list[NDArray[Any]], zeros: list[NDArray[Any]]) -> Words:
    parts = [
        _filled(np.concatenate([one.reshape(-1) for one in part])) if part else np.zeros(0, np.uint32)
        for part in (codes, scales, zeros)
    ]
    return Words(np.concatenate(parts), len(parts[0]), len(parts[0]) + len(parts[1]))


def _filled(array: NDArray[Any]) -> NDArray[np.uint32]:
    """Return the bytes of ``array`` as words, filled up with zeros."""
    data = np.ascontiguousarray(array).tobytes()
    return np.frombuffer(data.ljust(-(-len(data) // 4) * 4, b"\0"), "<u4").astype(np.uint32)
