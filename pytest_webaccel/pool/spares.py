"""The warm spares of a lane: started browsers, connected, with the lane's models loaded and run once."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING

from pytest_webaccel.errors import LaneUnavailableError, WebAccelError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pytest_webaccel.pool.holdings import Holdings
    from pytest_webaccel.pool.station import Station
    from pytest_webaccel.recovery.journal import TransactionScope
    from pytest_webaccel.terms import Lane

__all__ = ["Spares"]

_log = logging.getLogger(__name__)

_START_S = 60.0


class Spares:
    """Keeps ``count`` spare stations; ``start`` makes a started one within a deadline in seconds.

    Making one ready is a change of what ``begin`` begins; one that could not be made ready is ended. ``trouble`` is
    why the last one could not be had.
    """

    def __init__(
        self,
        lane: Lane,
        holdings: Holdings,
        start: Callable[[float], Awaitable[Station]],
        begin: Callable[[], TransactionScope],
        *,
        count: int,
    ) -> None:
        self.count = count
        self.stations: list[Station] = []
        self.trouble = ""
        self.on_ready: Callable[[Station], None] = lambda station: None
        self._lane = lane
        self._holdings = holdings
        self._start = start
        self._begin = begin
        self._turn = asyncio.Lock()

    @property
    def ready(self) -> int:
        """How many are up and warm: they hold every model, and have run those that the lane has run."""
        return sum(self._warm(station) for station in self.stations)

    @property
    def full(self) -> bool:
        """Whether as many are ready as are to be kept."""
        return self.ready >= self.count

    async def prepare(self, *, deadline: float = _START_S) -> None:
        """Make every one ready, starting those anew that do not answer; raises as the start and the loads do."""
        async with self._turn:
            for station in list(self.stations):
                if not await station.healthy() and station in self.stations:
                    self.stations.remove(station)
                    await station.stop()
            while len(self.stations) < max(self.count, 1) or not all(map(self._warm, self.stations)):
                cold = next((station for station in self.stations if not self._warm(station)), None)
                if not await self._ready_one(cold, deadline):
                    return

    async def _ready_one(self, station: Station | None, deadline: float) -> bool:
        """Make ``station`` warm, or another; return whether it then is."""
        async with self._begin() as change:
            if station is None:
                station = await self._start(deadline)
                self.stations.append(station)
            change.undo("making a spare ready", functools.partial(self._discard, station))
            await self._holdings.warm(station, deadline=deadline)
        if warm := self._warm(station):
            self.on_ready(station)
        return warm

    async def _discard(self, station: Station) -> None:
        if station in self.stations:
            self.stations.remove(station)
            await station.stop()

    async def warm(self) -> None:
        """Wait until all are ready, where the lane keeps any; what cannot be had is done without, and told."""
        if self.full:
            return
        try:
            await self.prepare()
        except (WebAccelError, TimeoutError) as error:
            self.trouble = str(error) or type(error).__name__
            _log.warning("lane %s: no spare could be made ready: %s", self._lane, self.trouble)
        else:
            self.trouble = ""

    async def take(self, *, deadline: float) -> Station:
        """Hand a spare over, once it has answered; raises LaneUnavailableError where none does."""
        for station in sorted(self.stations, key=self._warm, reverse=True):
            self.stations.remove(station)
            if await station.healthy(deadline=min(deadline, 2.0)):
                return station
            await station.stop()
        raise LaneUnavailableError(f"lane {self._lane} has no spare that answers")

    def give_back(self, station: Station) -> bool:
        """Take a spare back that was not needed after all; False where there are enough meanwhile."""
        if len(self.stations) >= self.count:
            return False
        self.stations.append(station)
        return True

    def _warm(self, station: Station) -> bool:
        return station.driver.pid is not None and station.channel.connected and self._holdings.warm_in(station)
