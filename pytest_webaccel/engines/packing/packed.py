"""A matrix of low-bit weights as it is stored and as kernels read it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.packing.layout import known_bits, known_group, unpack
from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Packed"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """``rows`` x ``columns`` weights: ``(code - zero) * scale``, each row in groups of ``group`` along its columns.

    ``words`` are the codes, uint32 of shape (rows, groups * group // 32 * bits), packed as
    :mod:`~pytest_webaccel.engines.packing.layout` says; the last group is filled up with the code of zero. ``scales``
    are float16 or float32 of shape (rows, groups). ``zeros`` are uint8 of that shape, or None where the zero is
    ``2**(bits - 1)`` everywhere (symmetric). Raises ConfigurationError for parts that do not fit together.
    """

    bits: int
    group: int
    columns: int
    words: NDArray[np.uint32]
    scales: NDArray[Any]
    zeros: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        """Look whether the parts fit together: they may come from a file, or from a page."""
        known_bits(self.bits)
        known_group(self.group)
        if self.columns < 1:
            raise ConfigurationError(f"columns={self.columns}: a row has at least one")
        wanted = (self.scales.shape[0] if self.scales.ndim else 0, self.groups)
        lengths = (wanted[0], self.groups * self.group // 32 * self.bits)
        if self.scales.dtype not in (np.float16, np.float32) or self.scales.shape != wanted:
            raise ConfigurationError(
                f"scales are float16 or float32 of shape {list(wanted)}, not {self.scales.dtype} of shape "
                f"{list(self.scales.shape)}"
            )
        if self.words.dtype != np.uint32 or self.words.shape != lengths:
            raise ConfigurationError(
                f"words are uint32 of shape {list(lengths)}, not {self.words.dtype} of shape {list(self.words.shape)}"
            )
        if self.zeros is None:
            return
        if self.zeros.dtype != np.uint8 or self.zeros.shape != wanted:
            raise ConfigurationError(
                f"zeros are uint8 of shape {list(wanted)}, not {self.zeros.dtype} of shape {list(self.zeros.shape)}"
            )
        if self.zeros.size and self.zeros.max() >= 1 << self.bits:
            raise ConfigurationError(f"a zero of {self.zeros.max()} does not fit into {self.bits} bits")

    @property
    def rows(self) -> int:
        """How many rows there are: outputs of the product."""
        return int(self.scales.shape[0])

    @property
    def groups(self) -> int:
        """How many groups a row has; the last one may be cut short."""
        return -(-self.columns // self.group)

    @property
    def nbytes(self) -> int:
        """Bytes that everything takes."""
        return self.words.nbytes + self.scales.nbytes + (0 if self.zeros is None else self.zeros.nbytes)

    @property
    def effective_bits(self) -> float:
        """Bits for each weight with everything counted: codes, scales, zeros, and what fills up the last group."""
        return self.nbytes * 8 / (self.rows * self.columns) if self.rows else 0.0

    def codes(self) -> NDArray[np.uint8]:
        """Return the codes, uint8 of shape (rows, columns)."""
        return unpack(self.words, self.bits)[:, : self.columns]

    def dequantised(self) -> NDArray[np.float32]:
        """Return the weights that the codes stand for, float32 of shape (rows, columns)."""
        zeros = self._by_column(self.zeros) if self.zeros is not None else np.float32(1 << (self.bits - 1))
        weights = (self.codes().astype(np.float32) - zeros) * self._by_column(self.scales)
        return weights.astype(np.float32)

    def _by_column(self, values: NDArray[Any]) -> NDArray[np.float32]:
        return np.repeat(values.astype(np.float32), self.group, axis=1)[:, : self.columns]
