"""A kernel that is to run, and what goes into it and comes out of it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pytest_webaccel.engines.kernels.state import Cell
from pytest_webaccel.errors import ConfigurationError, FeedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.dispatch import Dispatch, Target
    from pytest_webaccel.terms import Backend

__all__ = ["Floats", "Output", "Program", "Tensor", "Way", "require"]


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


#: What a kernel takes for an input that may come from another kernel.
Floats: TypeAlias = "NDArray[Any] | Tensor"


#: What makes the dispatch of a program for a target, given tunable constants by name.
Way: TypeAlias = "Callable[[Target, Mapping[str, int]], Dispatch]"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A kernel with what it reads and what it computes; ``ways`` are its implementations, by backend.

    ``constants`` are the tunable ones that were asked for; without them they are tuned, or the defaults. ``places`` are
    the outputs that lie in a state's buffer, which is written in place; ``number`` says in which order programs were
    made.
    """

    kernel: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Output]
    ways: Mapping[Backend, Way]
    constants: Mapping[str, int] = dataclasses.field(default_factory=dict)
    places: Mapping[str, Cell] = dataclasses.field(default_factory=dict)
    number: int = dataclasses.field(default_factory=itertools.count().__next__, init=False)

    @property
    def cells(self) -> list[Cell]:
        """Buffers of states that it reads or writes."""
        return [*(one for one in self.inputs.values() if isinstance(one, Cell)), *self.places.values()]

    def lowered(self, target: Target, tuned: Mapping[str, int] | None = None) -> Dispatch:
        """Return how ``target`` computes it, with the constants ``tuned`` unless others were asked for.

        Raises ConfigurationError for a backend that it is not there for, or constants that do not fit.
        """
        way = self.ways.get(target.backend)
        if way is None:
            known = ", ".join(self.ways)
            raise ConfigurationError(f"kernel {self.kernel} is there for {known}, and not for {target.backend}")
        return way(target, self.constants or tuned or {})

    def __getitem__(self, name: str) -> Tensor:
        """Return an output, to go into another program or to be fetched; raises FeedError for one that it has not."""
        if name not in self.outputs:
            raise FeedError(f"kernel {self.kernel} has no output {name!r} (it has {', '.join(self.outputs)})")
        return Tensor(self, name, self.outputs[name].shape)

    def all_outputs(self) -> dict[str, Tensor]:
        """Return every output by its name."""
        return {name: self[name] for name in self.outputs}


def require(kind: type | tuple[type, ...], **given: object) -> None:
    """Raise FeedError for what is not of ``kind``, by the name it is given under."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    for name, one in given.items():
        if not isinstance(one, kinds):
            known = " or ".join(kind.__name__ for kind in kinds)
            raise FeedError(f"{name} is of type {known}, not {type(one).__name__}")
