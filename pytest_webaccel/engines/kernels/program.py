"""One dispatch of one kernel, with all that the page needs to know."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.errors import ConfigurationError, FeedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.packing import Packed

__all__ = ["Output", "Program", "packed_constants", "packed_words", "require", "spread", "words_of"]

#: Workgroups that every adapter dispatches in one dimension.
_MOST_WORKGROUPS = 65_535


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """A tensor that comes back: its dtype by NumPy's name, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A kernel with its constants, inputs and outputs; ``bindings`` names them in the shader's order.

    ``uniform`` are unsigned integers, bound where ``bindings`` says ``uniform``.
    """

    kernel: str
    code: str
    entry: str
    constants: Mapping[str, int]
    bindings: Sequence[str]
    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, Output]
    uniform: Sequence[int]
    workgroups: tuple[int, int, int]

    def require(self, limits: Mapping[str, int]) -> None:
        """Raise ConfigurationError, with the limit, where an adapter cannot hold a buffer or dispatch so much."""
        most = limits.get("maxStorageBufferBindingSize", 0)
        sizes = {name: array.nbytes for name, array in self.inputs.items()}
        sizes |= {name: output.nbytes for name, output in self.outputs.items()}
        for name, size in sizes.items():
            if most and size > most:
                raise ConfigurationError(
                    f"kernel {self.kernel}: {name} takes {size:,} bytes, and this adapter binds at most {most:,} "
                    "(maxStorageBufferBindingSize). Split the work."
                )
        groups = limits.get("maxComputeWorkgroupsPerDimension", 0)
        if groups and max(self.workgroups) > groups:
            raise ConfigurationError(
                f"kernel {self.kernel}: {max(self.workgroups):,} workgroups in one dimension, and this adapter "
                f"dispatches at most {groups:,} (maxComputeWorkgroupsPerDimension). Split the work."
            )

    def to_args(self) -> dict[str, Any]:
        """Return it as the page's operation ``kernel`` takes it, without the inputs."""
        return {
            "kernel": self.kernel,
            "code": self.code,
            "entry": self.entry,
            "constants": dict(self.constants),
            "bindings": list(self.bindings),
            "uniform": list(self.uniform),
            "outputs": [
                {"name": name, "dtype": output.dtype, "shape": list(output.shape), "bytes": output.nbytes}
                for name, output in self.outputs.items()
            ],
            "workgroups": list(self.workgroups),
        }


def require(kind: type, **given: object) -> None:
    """Raise FeedError for what is not of ``kind``, by the name it is given under."""
    for name, one in given.items():
        if not isinstance(one, kind):
            raise FeedError(f"{name} is of type {kind.__name__}, not {type(one).__name__}")


def spread(count: int, workgroup: int) -> tuple[int, tuple[int, int, int]]:
    """Return how many invocations a row of workgroups has, and the workgroups that ``count`` invocations take."""
    groups = -(-count // workgroup)
    across = min(groups, _MOST_WORKGROUPS)
    return across * workgroup, (across, -(-groups // across), 1)


def packed_words(*parts: Packed) -> tuple[NDArray[np.uint32], int, int]:
    """Return weights as kernels bind them (``kernels/shared/packed.wgsl``), and where scales and zeros begin.

    Of several parts of one form the codes of all come first, then the scales of all, then the zeros.
    """
    words = np.concatenate([part.words.reshape(-1) for part in parts])
    scales = words_of(np.concatenate([part.scales.reshape(-1) for part in parts]))
    zeros = [part.zeros.reshape(-1) for part in parts if part.zeros is not None]
    whole = [words, scales, *([words_of(np.concatenate(zeros))] if zeros else [])]
    return np.concatenate(whole), len(words), len(words) + len(scales)


def packed_constants(weights: Packed) -> dict[str, int]:
    """Return the constants that tell kernels how weights are packed."""
    return {
        "BITS": weights.bits,
        "GROUP": weights.group,
        "SCALE_BITS": weights.scales.dtype.itemsize * 8,
        "HAS_ZEROS": int(weights.zeros is not None),
    }


def words_of(array: NDArray[Any]) -> NDArray[np.uint32]:
    """Return the bytes of ``array`` as words, filled up with zeros."""
    data = np.ascontiguousarray(array).tobytes()
    return np.frombuffer(data.ljust(-(-len(data) // 4) * 4, b"\0"), "<u4").astype(np.uint32)
