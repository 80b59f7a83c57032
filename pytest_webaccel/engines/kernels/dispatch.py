"""A program as one backend computes it: what is sent to a page for it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_webaccel.terms import Evidence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.program import Output, Tensor
    from pytest_webaccel.engines.kernels.state import Cell
    from pytest_webaccel.terms import Backend, ProbeResult

__all__ = ["Constant", "Dispatch", "Operand", "Target", "spread"]

#: Workgroups that every adapter dispatches in one dimension.
_MOST_WORKGROUPS = 65_535


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """What a program is lowered for: a backend, the features of its device, and whether that is a software adapter."""

    backend: Backend
    features: frozenset[str] = frozenset()
    software: bool = False

    @classmethod
    def of(cls, probe: ProbeResult) -> Target:
        """Return that of a lane."""
        return cls(probe.lane.backend, frozenset(probe.features), probe.evidence is not Evidence.HARDWARE)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """Data that a lane keeps on its device under ``key``, so that it travels once, for as long as ``owner`` is held."""

    key: str
    data: NDArray[Any]
    owner: object

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.data.shape

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.data.nbytes


#: What a dispatch reads: sent with it, computed by another, or kept on the device.
Operand: TypeAlias = "NDArray[Any] | Tensor | Constant | Cell"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Dispatch:
    """A kernel's implementation with its constants, inputs and outputs; ``bindings`` names these in its order.

    ``uniform`` are unsigned integers, bound where ``bindings`` says ``uniform``. ``chosen`` are the tunable constants,
    ``form`` what else decides, beside the shapes of its inputs, how fast it is; ``source`` tells versions of the kernel
    apart, and ``needs`` are the features that the device must have. On WebNN ``code`` is the address of a builder of
    graphs, and ``graph`` what it is told.
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
    graph: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def signature(self) -> dict[str, Any]:
        """What a tuned choice of constants is for: the shapes of the inputs, by name, ``form``, and the source."""
        return {**{name: list(given.shape) for name, given in self.inputs.items()}, **self.form, "source": self.source}


def spread(count: int, workgroup: int) -> tuple[int, tuple[int, int, int]]:
    """Return how many invocations a row of workgroups has, and the workgroups that ``count`` invocations take."""
    groups = -(-count // workgroup)
    across = min(groups, _MOST_WORKGROUPS)
    return across * workgroup, (across, -(-groups // across), 1)
