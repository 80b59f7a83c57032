"""``component_error``: the model raises in the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pytest_webaccel.faults.injector import BaseInjector
from pytest_webaccel.terms import Fault, FaultPoint, Symptom

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_webaccel.faults.injector import FaultTarget

__all__ = ["ComponentError"]


class ComponentError(BaseInjector):
    """Has the page release onnxruntime's sessions behind the back of whatever uses them.

    The next run raises inside onnxruntime, as a run does whose session was freed too early. Nothing shows before
    that: the request itself is what sees it.
    """

    fault = Fault.COMPONENT_ERROR
    symptoms = frozenset({Symptom.OPERATION_FAILED})
    seen_by_request = True
    misfits: ClassVar[Mapping[FaultPoint, str]] = {
        FaultPoint.MID_LOAD: "a model that is still being loaded has no session that could be broken",
        FaultPoint.MID_TRANSFER: "the model has run by the time its answer travels",
        FaultPoint.DURING_RECOVERY: "a lane that is being mended holds no model yet that could be broken",
        FaultPoint.AFTER: "no request comes after the answer that could meet it",
        FaultPoint.RANDOM: "at a moment after the run no request would meet it",
    }

    async def _break(self, target: FaultTarget, deadline: float) -> None:
        await target.harm("component_error", deadline=deadline)
