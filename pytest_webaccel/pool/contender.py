"""A contender in a race of rungs: it mends a station of its own, and sends the request nowhere else."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Generic, TypeVar

from pytest_webaccel.errors import LaneUnavailableError
from pytest_webaccel.pool.undoing import load_again

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.station import Station
    from pytest_webaccel.recovery.engine import Survey
    from pytest_webaccel.terms import Lane

__all__ = ["LaneContender"]


T = TypeVar("T")


class LaneContender(Generic[T]):
    """One rung's part of ``lane``: the station in service, until its rung takes another.

    ``send`` sends the request to a station within a deadline in seconds and returns its checked answer.
    """

    def __init__(self, lane: LiveLane, send: Callable[[Station, float], Awaitable[T]]) -> None:
        self.name: Lane = lane.name
        self._lane = lane
        self._send = send
        self._present = lane.station
        self._station = lane.station
        self._from_spare = False
        self._guest: LiveLane | None = None

    @property
    def lane(self) -> LaneContender[T]:
        """What is mended: itself."""
        return self

    async def replay(self, deadline: float) -> T:
        """Send the request to this contender's station."""
        return await self._send(self.here, deadline)

    def win(self) -> None:
        """Put this contender's station into service."""
        if self._guest is not None:
            self._lane.guest = self._guest
        else:
            self._lane.adopt(self.here)
        self._lane.repair_in_background()

    def lose(self) -> None:
        """Give back the spare; end a browser that was started for the race."""
        if self._guest is not None:
            self._lane.around.give_back(self._guest)
        elif self._station is None or self._station is self._present:
            return
        elif not (self._from_spare and self._lane.spares.give_back(self._station)):
            self._lane.behind(self._station.stop())

    # -- what recovery asks (Repairable) -------------------------------------------------------

    def survey(self) -> Survey:
        """Return what the lane could be mended with."""
        return self._lane.survey()

    async def resend(self, *, deadline: float) -> None:
        """Wait for a connection on which the page can send again."""
        await self.here.reconnect(deadline=deadline)

    async def reconnect(self, *, deadline: float) -> None:
        """Wait until the page has resumed its session."""
        await self.here.reconnect(deadline=deadline)

    async def reload_models(self, *, deadline: float) -> None:
        """Load the models again in the same page."""
        await self.here.reload(self._lane.holdings, deadline=deadline)

    async def adopt_page(self, *, deadline: float) -> None:
        """Take the page that came by itself."""
        await self.here.adopt_page(deadline=deadline)

    async def new_device(self, *, deadline: float) -> None:
        """Take a new device in the same page."""
        await self.here.new_device(deadline=deadline)

    async def new_page(self, *, deadline: float) -> None:
        """Replace the page in the same browser."""
        await self.here.new_page(deadline=deadline)

    async def restart_browser(self, *, deadline: float) -> None:
        """Start a browser beside the one there is."""
        self._station = None
        self._station = await self._lane.open_station(deadline)

    async def use_spare(self, *, deadline: float) -> None:
        """Take the spare."""
        self._station = await self._lane.spares.take(deadline=deadline)
        self._from_spare = True

    async def fail_over(self, *, deadline: float) -> None:
        """Borrow another browser's lane and load the models there."""
        self._guest = await self._lane.borrow_stand_in(deadline=deadline)
        self._station = self._guest.here

    async def load_models(self, *, deadline: float) -> None:
        """Load what the lane must hold."""
        begin = functools.partial(self._lane.around.transaction, "repair", self.name)
        stays = self.here is self._present
        await load_again(begin, self._lane.holdings, self.here, deadline=deadline, stays=stays)

    def repair_in_background(self) -> None:
        """Do nothing yet: the repairs begin when this contender has won."""

    @property
    def here(self) -> Station:
        """The station that it mends; raises LaneUnavailableError where there is none."""
        if self._station is None:
            raise LaneUnavailableError(f"lane {self.name}: this contender has no browser")
        return self._station
