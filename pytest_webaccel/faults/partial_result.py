"""``partial_result``: an answer arrives truncated or corrupted."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, ClassVar

from pytest_webaccel.faults.injector import BaseInjector
from pytest_webaccel.terms import Fault, FaultPoint, Symptom

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from pytest_webaccel.faults.injector import FaultTarget, Injector
    from pytest_webaccel.terms import ProbeResult

__all__ = ["Part", "PartialResult"]


class Part(enum.StrEnum):
    """What happens to the answer."""

    CORRUPTED = "corrupted"
    TRUNCATED = "truncated"


class PartialResult(BaseInjector):
    """Has the network path change a byte of the next answer, or lose its end, on the way from the page.

    ``part`` says which; None: one is drawn for each strike. The page computed the answer and still holds it.
    """

    fault = Fault.PARTIAL_RESULT
    symptoms = frozenset({Symptom.RESULT_DAMAGED})
    seen_by_request = True
    misfits: ClassVar[Mapping[FaultPoint, str]] = {
        FaultPoint.MID_LOAD: "a load brings no tensors back that could be damaged",
        FaultPoint.AFTER: "the answer has arrived whole by then",
    }

    def __init__(self, part: Part | None = None) -> None:
        self.part = part

    @property
    def variety(self) -> str:
        """Which kind it is."""
        return str(self.part or "")

    def drawn(self, chance: random.Random, lane: ProbeResult) -> Injector:  # noqa: ARG002 - it fits every lane
        """Return the injector of one strike, its part drawn where it was left open."""
        return PartialResult(chance.choice(list(Part)) if self.part is None else self.part)

    async def _undo(self, target: FaultTarget, deadline: float) -> None:  # noqa: ARG002 - it takes no time
        """Let answers pass whole again."""
        target.link.clear()

    async def _break(self, target: FaultTarget, deadline: float) -> None:  # noqa: ARG002 - it takes no time
        if self.part is Part.TRUNCATED:
            target.link.truncate(after_bytes=1)
        else:
            target.link.corrupt()
