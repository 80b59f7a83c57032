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

__all__ = ["Output", "Program", "arrays", "packed_constants", "packed_inputs", "spread", "words_of"]

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

    def to_args(self, repeats: int = 0) -> dict[str, Any]:
        """Return it as the page's operation ``kernel`` takes it, without the inputs; run ``repeats`` times more."""
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
            "repeats": repeats,
        }


def arrays(**given: object) -> None:
    """Raise FeedError for what is no NumPy array, by the name it is given under."""
    for name, one in given.items():
        if not isinstance(one, np.ndarray):
            raise FeedError(f"{name} is a NumPy array, not {type(one).__name__}")


def spread(count: int, workgroup: int) -> tuple[int, tuple[int, int, int]]:
    """Return how many invocations a row of workgroups has, and the workgroups that ``count`` invocations take."""
    groups = -(-count // workgroup)
    across = min(groups, _MOST_WORKGROUPS)
    return across * workgroup, (across, -(-groups // across), 1)


def packed_inputs(weights: Packed) -> dict[str, NDArray[np.uint32]]:
    """Return what kernels bind of packed weights, as words."""
    zeros = np.zeros(1, np.uint32) if weights.zeros is None else words_of(weights.zeros)
    return {"words": weights.words, "scales": words_of(weights.scales), "zeros": zeros}


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
