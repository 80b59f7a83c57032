"""The warm spare of a lane: a started browser, connected, with the lane's models loaded and run once."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pytest_webaccel.errors import LaneUnavailableError, WebAccelError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pytest_webaccel.pool.holdings import Holdings
    from pytest_webaccel.pool.station import Station
    from pytest_webaccel.terms import Lane

__all__ = ["Spare"]

_log = logging.getLogger(__name__)

_START_S = 60.0


class Spare:
    """Keeps at most one spare station; ``start`` makes a started one within a deadline in seconds.

    ``wanted`` says whether the lane is to have one at all. ``trouble`` is why the last one could not be had.
    """

    def __init__(
        self, lane: Lane, holdings: Holdings, start: Callable[[float], Awaitable[Station]], *, wanted: bool
    ) -> None:
        self.wanted = wanted
        self.station: Station | None = None
        self.trouble = ""
        self.on_ready: Callable[[Station], None] = lambda station: None
        self._lane = lane
        self._holdings = holdings
        self._start = start
        self._turn = asyncio.Lock()

    @property
    def ready(self) -> bool:
        """Whether it is up and warm: it holds every model, and has run those that the lane has run."""
        station = self.station
        if station is None or station.driver.pid is None or not station.channel.connected:
            return False
        return self._holdings.warm_in(station)

    async def prepare(self, *, deadline: float = _START_S) -> None:
        """Make it ready, starting it anew where it does not answer; raises as the start and the loads do."""
        async with self._turn:
            if self.station is not None and not await self.station.healthy():
                broken, self.station = self.station, None
                await broken.stop()
            if self.station is None:
                self.station = await self._start(deadline)
            station = self.station
            await self._holdings.warm(station, deadline=deadline)
            if self.ready:
                self.on_ready(station)

    async def warm(self) -> None:
        """Wait until it is ready, where the lane keeps one; one that cannot be had is done without, and told."""
        if not self.wanted or self.ready:
            return
        try:
            await self.prepare()
        except (WebAccelError, TimeoutError) as error:
            self.trouble = str(error) or type(error).__name__
            _log.warning("lane %s: no spare could be made ready: %s", self._lane, self.trouble)
        else:
            self.trouble = ""

    async def take(self, *, deadline: float) -> Station:
        """Hand the spare over, once it has answered; raises LaneUnavailableError where none does."""
        station = self.station
        if station is None or not await station.healthy(deadline=min(deadline, 2.0)):
            raise LaneUnavailableError(f"lane {self._lane} has no spare that answers")
        if self.station is not station:
            raise LaneUnavailableError(f"lane {self._lane}: its spare was taken already")
        self.station = None
        return station

    def give_back(self, station: Station) -> bool:
        """Take a spare back that was not needed after all; False where there is another one meanwhile."""
        if self.station is not None or not self.wanted:
            return False
        self.station = station
        return True
