"""What came of running a model, or a part of one, where its right answers are known."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pytest_webaccel.parity.compare import Difference, compare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pytest_webaccel.parity.tolerance import Tolerance

__all__ = ["Kind", "Ran", "Runner", "Verdict", "alike", "judged"]


class Kind(enum.StrEnum):
    """How a run ended."""

    AGREES = "agrees"
    WRONG = "wrong_answer"
    NOT_FINITE = "not_finite"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    FELL_BACK = "fell_back"
    NOT_ASKED = "not_asked"


@dataclasses.dataclass(frozen=True, slots=True)
class Ran:
    """What a runner made of a model: its ``outputs`` by name, or none of them and how it ended.

    ``trouble`` is UNSUPPORTED where the engine refused the model, FAILED where a run did, CRASHED where the lane broke
    under it each time it was tried, TIMED_OUT where no answer came in time each time it was tried, NOT_ASKED where its
    inputs cannot be handed to the lane. ``fallbacks`` counts operators that ran elsewhere than they were asked to,
    ``placement`` the nodes by execution provider.
    """

    outputs: Mapping[str, NDArray[Any]]
    trouble: Kind | None = None
    detail: str = ""
    fallbacks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    placement: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Runner(Protocol):
    """Somewhere that models run: a lane, or onnxruntime on this machine."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def run(self, model: bytes, feeds: Mapping[str, NDArray[Any]]) -> Ran:
        """Run an ONNX file's bytes once, and keep nothing of it. What goes wrong with the model is no exception."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """How a run stands to the right answers. ``differences`` is by output, of those that are wrong."""

    kind: Kind
    detail: str = ""
    differences: Mapping[str, Difference] = dataclasses.field(default_factory=dict)
    got: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)

    def is_like(self, other: Verdict) -> bool:
        """Whether both are troubles of one sort: see :func:`alike`."""
        return self.kind is not Kind.NOT_ASKED and alike(self.kind, other.kind)


def judged(
    ran: Ran, expected: Mapping[str, NDArray[Any]], tolerances: Mapping[str, Tolerance], *, fallbacks: bool = False
) -> Verdict:
    """Return the verdict on ``ran``; ``fallbacks`` says whether an operator that ran elsewhere is trouble too."""
    if ran.trouble is not None:
        return Verdict(ran.trouble, ran.detail)
    found = {name: compare(array, ran.outputs[name], tolerances.get(name)) for name, array in expected.items()}
    wrong = {name: one for name, one in found.items() if not one.agrees}
    if wrong:
        strange = any(_spoilt(expected[name], ran.outputs[name]) for name in wrong)
        kind = Kind.NOT_FINITE if strange else Kind.WRONG
        return Verdict(kind, "; ".join(f"{name}: {one}" for name, one in wrong.items()), wrong, ran.outputs)
    if fallbacks and ran.fallbacks:
        told = ", ".join(f"{name} x{count}" for name, count in sorted(ran.fallbacks.items()))
        return Verdict(Kind.FELL_BACK, f"fell back to wasm: {told}", got=ran.outputs)
    return Verdict(Kind.AGREES, got=ran.outputs)


def _spoilt(expected: NDArray[Any], got: NDArray[Any]) -> bool:
    """Whether ``got`` holds NaN or infinity where ``expected`` holds a number."""
    if expected.dtype.kind != "f" or got.dtype.kind != "f" or expected.shape != got.shape:
        return False
    return bool(np.any(np.isfinite(expected) & ~np.isfinite(got)))


def alike(one: Kind | None, two: Kind | None) -> bool:
    """Whether two troubles are of one sort: an answer that is not finite is a wrong one, what hangs may as well crash.

    Which of the latter two it is depends on who notices first.
    """
    return _SORTS.get(one, one) is _SORTS.get(two, two)


_SORTS: Mapping[Kind | None, Kind] = {Kind.NOT_FINITE: Kind.WRONG, Kind.TIMED_OUT: Kind.CRASHED}
