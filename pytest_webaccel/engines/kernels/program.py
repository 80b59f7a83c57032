"""One dispatch of one kernel, and what goes into it and comes out of it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pytest_webaccel.errors import FeedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Constant", "Floats", "Operand", "Output", "Program", "Tensor", "require", "spread"]

#: Workgroups that every adapter dispatches in one dimension.
_MOST_WORKGROUPS = 65_535


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """A tensor that is computed: its dtype by NumPy's name, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """An output of a program, as it goes into another: it stays on the device, and is computed once."""

    program: Program
    name: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype."""
        return np.dtype(self.program.outputs[self.name].dtype)

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.size * self.dtype.itemsize

    def reshape(self, *shape: int) -> Tensor:
        """Return the same elements under another shape; raises FeedError where they are not as many."""
        if math.prod(shape) != self.size:
            raise FeedError(f"a tensor of shape {list(self.shape)} cannot be reshaped to {list(shape)}")
        return Tensor(self.program, self.name, shape)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """Data that a lane keeps on its device under ``key``, so that it travels once."""

    key: str
    data: NDArray[Any]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.data.nbytes


#: What a program reads: sent with it, computed by another, or kept on the device.
Operand: TypeAlias = "NDArray[Any] | Tensor | Constant"
#: What a kernel takes for an input that may come from another kernel.
Floats: TypeAlias = "NDArray[Any] | Tensor"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A kernel with its constants, inputs and outputs; ``bindings`` names them in the shader's order.

    ``uniform`` are unsigned integers, bound where ``bindings`` says ``uniform``. ``chosen`` are the tunable constants,
    ``form`` what else decides, beside the shapes of its inputs, how fast it is; ``source`` tells versions of the kernel
    apart, and ``needs`` are the features that the device must have.
    """

    kernel: str
    code: str
    entry: str
    constants: Mapping[str, int]
    bindings: Sequence[str]
    inputs: Mapping[str, Operand]
    outputs: Mapping[str, Output]
    uniform: Sequence[int]
    workgroups: tuple[int, int, int]
    chosen: Mapping[str, int] = dataclasses.field(default_factory=dict)
    form: Mapping[str, int] = dataclasses.field(default_factory=dict)
    source: str = ""
    needs: Sequence[str] = ()

    def __getitem__(self, name: str) -> Tensor:
        """Return an output, to go into another program or to be fetched; raises FeedError for one that it has not."""
        if name not in self.outputs:
            raise FeedError(f"kernel {self.kernel} has no output {name!r} (it has {', '.join(self.outputs)})")
        return Tensor(self, name, self.outputs[name].shape)

    def all_outputs(self) -> dict[str, Tensor]:
        """Return every output by its name."""
        return {name: self[name] for name in self.outputs}

    @property
    def signature(self) -> dict[str, Any]:
        """What a tuned choice of constants is for: the shapes of the inputs, by name, ``form``, and the source."""
        shapes = {
            name: list(given.data.shape if isinstance(given, Constant) else given.shape)
            for name, given in self.inputs.items()
        }
        return {**shapes, **self.form, "source": self.source}


def require(kind: type | tuple[type, ...], **given: object) -> None:
    """Raise FeedError for what is not of ``kind``, by the name it is given under."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    for name, one in given.items():
        if not isinstance(one, kinds):
            known = " or ".join(kind.__name__ for kind in kinds)
            raise FeedError(f"{name} is of type {known}, not {type(one).__name__}")


def spread(count: int, workgroup: int) -> tuple[int, tuple[int, int, int]]:
    """Return how many invocations a row of workgroups has, and the workgroups that ``count`` invocations take."""
    groups = -(-count // workgroup)
    across = min(groups, _MOST_WORKGROUPS)
    return across * workgroup, (across, -(-groups // across), 1)
