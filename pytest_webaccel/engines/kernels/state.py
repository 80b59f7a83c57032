"""What kernels write and a lane's device keeps between runs. Pure: who runs them says what was run."""

from __future__ import annotations

import dataclasses
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.plan import Computation
    from pytest_webaccel.engines.kernels.program import Program

__all__ = ["Cell", "State"]

_WORD = 4


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A buffer of a state, as it is at one version: words of 32 bits. Programs read and write it in place."""

    state: State
    name: str
    nbytes: int
    version: int

    @property
    def key(self) -> str:
        """The name that it has on a device."""
        return f"{self.state.key}-{self.name}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Its words."""
        return (self.nbytes // _WORD,)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype."""
        return np.dtype(np.uint32)


class State:
    """Buffers that stay on a lane's device, zeros at first; ``sizes`` are bytes by name, multiples of 4.

    Each computation that writes them makes their next version. Where a lane has lost them, by a fault or the end of
    the test, or where it is not known whether a run wrote them, the computations since the last ``checkpoint`` are run
    again in turn from what was there before: so what a program writes must depend on nothing but that. After so many
    versions the buffers are fetched and kept, and what led to them is forgotten. A device keeps them until the test
    ends; of those that nobody holds any more some are freed before, so that there are never many.
    """

    def __init__(self, sizes: Mapping[str, int], *, checkpoint: int = 64) -> None:
        if checkpoint < 1:
            raise ConfigurationError(f"checkpoint={checkpoint}: a state is kept after one computation at the earliest")
        for name, size in sizes.items():
            if size < _WORD or size % _WORD:
                raise ConfigurationError(
                    f"a state's buffer has whole words of {_WORD} bytes, one at least: {name} {size}"
                )
        self.key = uuid.uuid4().hex
        self.sizes = dict(sizes)
        self.checkpoint = checkpoint
        #: How many computations have written it.
        self.version = 0
        #: Those since it was last kept.
        self.log: list[Computation] = []
        #: The buffers by their keys as they were then; none where they were zeros.
        self.saved: dict[str, NDArray[Any]] = {}
        self._written: dict[str, Program] = {}

    @property
    def keys(self) -> frozenset[str]:
        """The names that its buffers have on a device."""
        return frozenset(self.cell(name).key for name in self.sizes)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(self.sizes.values())

    @property
    def saved_version(self) -> int:
        """The version that ``saved`` is."""
        return self.version - len(self.log)

    def cell(self, name: str, version: int | None = None) -> Cell:
        """Return a buffer as it is now, or at a version; one that is past can no more be computed with."""
        return Cell(self, name, self.sizes[name], self.version if version is None else version)

    def commit(self, computation: Computation, programs: Iterable[Program]) -> None:
        """Note that a computation has run, with these programs."""
        self.version += 1
        self.log.append(computation)
        self._written = {place.key: program for program in programs for place in program.places.values()}

    def wrote(self, program: Program) -> bool:
        """Whether a buffer is now as this program wrote it in the last computation."""
        return any(program is one for one in self._written.values())

    def save(self, buffers: Mapping[str, NDArray[Any]]) -> None:
        """Keep the buffers as they are now, by their keys; what led to them need not be run again."""
        self.saved = dict(buffers)
        self.log.clear()
