"""A lane as faults see it (:class:`~pytest_webaccel.faults.injector.FaultTarget`)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from pytest_webaccel.errors import WebAccelError

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Mapping, Sequence

    from pytest_webaccel.bridge.toxics import Link
    from pytest_webaccel.browsers.driver import Driver
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.station import Station
    from pytest_webaccel.terms import Damage, ProbeResult, Symptom

__all__ = ["LaneTarget", "Place"]

#: Seconds that a request has whose answer nobody waits for.
_UNHEARD_S = 5.0


class Place(Protocol):
    """Whatever has a station in service: a lane, or a contender for it."""

    @property
    def here(self) -> Station:
        """The station in service."""
        ...


class LaneTarget:
    """What is in service at ``place`` (the lane itself by default) at the moment of each call, and its neighbours."""

    def __init__(self, lane: LiveLane, place: Place | None = None) -> None:
        self._lane = lane
        self._place: Place = place or lane
        self._later: set[asyncio.Task[None]] = set()

    @property
    def driver(self) -> Driver:
        """Driver of the browser in service."""
        return self._place.here.driver

    @property
    def probe(self) -> ProbeResult:
        """What the probe saw of the lane."""
        return self._lane.probe

    @property
    def link(self) -> Link:
        """The network path of the page in service."""
        return self._place.here.channel.link

    def abort_connection(self) -> None:
        """Reset the page's socket in mid-message."""
        self._place.here.channel.abort()

    async def harm(self, kind: str, arguments: Mapping[str, Any] | None = None, *, deadline: float) -> None:
        """Have the page harm itself, and wait until it did."""
        station = self._place.here
        args = {"kind": kind, **(arguments or {})}
        await station.unless_fatal(station.channel.request("harm", args, deadline=deadline))

    def post_harm(self, kind: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Have the page harm itself; nobody waits for its word."""

        async def post() -> None:
            with contextlib.suppress(WebAccelError):
                await self.harm(kind, arguments, deadline=_UNHEARD_S)

        self.later(post())

    async def round_trip(self, *, deadline: float) -> float:
        """Return the milliseconds that a word to the page and back takes now."""
        return await self._place.here.channel.round_trip(deadline=deadline)

    def others(self) -> Sequence[Driver]:
        """Every other running browser of this pool."""
        mine = self._place.here.driver
        return [driver for driver in self._lane.around.running() if driver is not mine]

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on with ``work`` in the background."""
        task = asyncio.ensure_future(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def roll_back_later(self) -> None:
        """Cancel what still goes on in the background."""
        tasks = list(self._later)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def damage(self, symptoms: Collection[Symptom], *, deadline: float) -> Damage:
        """Return the damage seen since the last repair."""
        return await self._place.here.damage(symptoms, deadline=deadline)
