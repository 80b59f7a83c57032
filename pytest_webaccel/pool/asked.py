"""What a test asks for in one call, and how what comes of it is kept in a fault's story."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from pytest_webaccel.errors import DamagedLaneError, FaultError, RecoveryError, WrongAnswerError
from pytest_webaccel.pool.request import Run
from pytest_webaccel.pool.story import Story, contradiction
from pytest_webaccel.recovery.conductor import ANSWERS, GivenUpError
from pytest_webaccel.terms import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.request import Arrays, Redo

__all__ = ["Asked", "checked", "told"]


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One run that a test asked for. ``redo`` does again, on another page, the steps that it builds on."""

    model: LoadedModel
    arrays: Arrays
    outputs: Sequence[str] | None
    deadline: float
    expect: Mapping[str, Any] | None = None
    redo: Redo | None = None

    def request(self, lane: LiveLane) -> Run:
        """Return the request for it, not sent yet."""
        return Run(lane, self.model, self.arrays, self.outputs, self.deadline, redo=self.redo)


def checked(expected: Mapping[str, Any]) -> Callable[[Reply], None]:
    """Return what raises WrongAnswerError for a reply that contradicts ``expected``."""

    def check(reply: Reply) -> None:
        if wrong := contradiction(expected, reply.tensors):
            raise WrongAnswerError(f"the answer contradicts its reference: {wrong}")

    return check


@contextlib.contextmanager
def told(story: Story) -> Iterator[None]:
    """Keep in ``story`` how the request within ended, where it raised.

    A fault that could not be caused, or did no harm, says nothing of recovery: its outcome stays unknown.
    """
    try:
        yield
    except FaultError as error:
        story.detail = str(error)[:500]
        raise
    except (RecoveryError, DamagedLaneError) as error:
        story.outcome, story.detail = Outcome.FAILED, str(error)[:500]
        if isinstance(error, GivenUpError):
            story.phases, story.rungs = error.phases, error.rungs
        raise
    except ANSWERS as error:
        story.detail = f"the request itself is at fault: {error}"[:500]
        raise
