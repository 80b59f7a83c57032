"""Weights as kernels bind them, sent with a program or kept on the device."""

from __future__ import annotations

import dataclasses
import uuid
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np

from pytest_webaccel.engines.kernels.dispatch import Constant
from pytest_webaccel.engines.kernels.program import require
from pytest_webaccel.engines.packing import Packed
from pytest_webaccel.engines.packing.layout import BLOCK
from pytest_webaccel.errors import FeedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.dispatch import Operand

__all__ = [
    "Form",
    "Matrix",
    "Resident",
    "Weights",
    "Words",
    "array_operand",
    "by_columns",
    "by_rows",
    "matrix_form",
    "matrix_operand",
]

T = TypeVar("T")

#: A matrix of weights, packed or float32.
Weights: TypeAlias = "Packed | NDArray[Any]"
#: The same, sent with a program or kept on the device.
Matrix: TypeAlias = "Weights | Resident[Packed] | Resident[NDArray[Any]]"

_FLOAT_BITS = 32


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


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """How a matrix of weights is kept: ``rows`` x ``columns``, 32 bits for plain floats; see :class:`Packed`."""

    bits: int
    group: int
    rows: int
    columns: int
    groups: int
    scale_bits: int = 32
    has_zeros: bool = False

    @classmethod
    def of(cls, weights: Packed | NDArray[Any]) -> Form:
        """Return that of ``weights``."""
        if isinstance(weights, Packed):
            bits = weights.scales.dtype.itemsize * 8
            zeros = weights.zeros is not None
            return cls(weights.bits, weights.group, weights.rows, weights.columns, weights.groups, bits, zeros)
        rows, columns = weights.shape
        return cls(_FLOAT_BITS, BLOCK, rows, columns, -(-columns // BLOCK))

    def constants(self) -> dict[str, int]:
        """Return the constants that tell kernels of it."""
        told = {"BITS": self.bits, "GROUP": self.group, "SCALE_BITS": self.scale_bits}
        return {**told, "HAS_ZEROS": int(self.has_zeros)}


def matrix_form(name: str, given: Matrix) -> Form:
    """Return how a matrix of weights is kept; raises FeedError for what is neither packed nor float32 of two axes."""
    value = given.value if isinstance(given, Resident) else given
    require((Packed, np.ndarray), **{name: value})
    if isinstance(value, np.ndarray) and (value.dtype != np.float32 or value.ndim != 2 or not value.size):
        raise FeedError(
            f"{name} is Packed, or float32 of shape [rows, columns]; got {value.dtype} of shape {list(value.shape)}"
        )
    return Form.of(value)


def matrix_operand(given: Matrix, layout: Callable[[Weights], Words]) -> tuple[Operand, Words]:
    """Return what is bound for a matrix of weights, and where its parts lie."""
    if isinstance(given, Resident):
        return given.form(layout.__name__, layout)
    words = layout(given)
    return words.data, words


def array_operand(name: str, given: NDArray[Any] | Resident[NDArray[Any]]) -> tuple[NDArray[Any], Operand]:
    """Return an array of weights, and what is bound for it; raises FeedError for anything else."""
    if isinstance(given, Resident):
        require(np.ndarray, **{name: given.value})
        return given.value, given.form("whole", Words)[0]
    require(np.ndarray, **{name: given})
    return given, given


def by_rows(*parts: Weights) -> Words:
    """Return weights row by row (``kernels/shared/packed.wgsl``).

    Of several parts of one form the codes of all come first, then the scales of all, then the zeros.
    """
    packed = [part for part in parts if isinstance(part, Packed)]
    return _words(
        [part.words if isinstance(part, Packed) else _floats(part) for part in parts],
        [part.scales for part in packed],
        [part.zeros for part in packed if part.zeros is not None],
    )


def by_columns(weights: Weights) -> Words:
    """Return weights with what rows have at one place side by side: neighbours in a workgroup read neighbours."""
    if not isinstance(weights, Packed):
        return _words([_floats(weights).T], [], [])
    zeros = [] if weights.zeros is None else [weights.zeros.T]
    return _words([weights.words.T], [weights.scales.T], zeros)


def _floats(weights: NDArray[Any]) -> NDArray[np.uint32]:
    """Return float32 weights as words, each row filled up with zeros to whole blocks."""
    rows, columns = weights.shape
    filled = np.zeros((rows, -(-columns // BLOCK) * BLOCK), np.float32)
    filled[:, :columns] = weights
    return filled.view(np.uint32)


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
