"""One run of a model on a lane, which may have to be asked for again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.station import Station

__all__ = ["Arrays", "Request"]

Arrays = dict[str, "np.ndarray[Any, Any]"]


class Request:
    """One run, which may have to be asked for again on another page or browser."""

    def __init__(
        self, lane: LiveLane, model: LoadedModel, arrays: Arrays, outputs: Sequence[str] | None, deadline: float
    ) -> None:
        self._lane = lane
        self.model = model
        self._arrays = arrays
        self._outputs = outputs
        self._deadline = deadline
        self._station: Station = lane.here
        self._id = 0

    def send(self, *, hold: bool = False, deadline: float | None = None) -> None:
        """Send it to the station in service."""
        self._station = self._lane.here
        self._id = self._station.engine.send_run(
            self.model, self._arrays, self._outputs, deadline=deadline or self._deadline, hold=hold
        )

    async def started(self, *, deadline: float) -> None:
        """Wait until the page has taken it up."""
        await self._station.channel.started(self._id, deadline=deadline)

    def release(self) -> None:
        """Let it go on from where it is held."""
        self._station.channel.release(self._id)

    async def answer(self) -> Reply:
        """Wait for its answer."""
        return await self._station.unless_fatal(self._station.engine.answer(self.model, self._id))

    def close(self) -> None:
        """Stop waiting for it, if it is still owed."""
        self._station.channel.abandon(self._id)

    async def again(self, deadline: float) -> Reply:
        """Return its answer: the one still owed by the page it was sent to, else of one more sending."""
        if self._station is self._lane.here and self._station.channel.is_pending(self._id):
            return await self.answer()
        self._station.channel.abandon(self._id)
        if self.model.key not in self._lane.here.loaded:
            await self._lane.load(self.model.info, self.model.build, deadline=deadline)
        self.send(deadline=deadline)
        return await self.answer()
