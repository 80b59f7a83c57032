"""A lane as faults see it (:class:`~pytest_webaccel.faults.injector.FaultTarget`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pytest_webaccel.faults.later import Later

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pytest_webaccel.bridge.toxics import Link
    from pytest_webaccel.browsers.driver import Driver
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.station import Station
    from pytest_webaccel.terms import Damage, ProbeResult, Symptom

__all__ = ["LaneTarget", "Place"]


class Place(Protocol):
    """Whatever has a station in service: a lane, or a contender for it."""

    @property
    def here(self) -> Station:
        """The station in service."""
        ...


class LaneTarget(Later):
    """What is in service at ``place`` (the lane itself by default) at the moment of each call, and its neighbours."""

    def __init__(self, lane: LiveLane, place: Place | None = None) -> None:
        super().__init__()
        self._lane = lane
        self._place: Place = place or lane

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

    async def round_trip(self, *, deadline: float) -> float:
        """Return the milliseconds that a word to the page and back takes now."""
        return await self._place.here.channel.round_trip(deadline=deadline)

    def others(self) -> Sequence[Driver]:
        """Every other running browser of this pool."""
        mine = self._place.here.driver
        return [driver for driver in self._lane.around.running() if driver is not mine]

    async def damage(self, symptoms: Collection[Symptom], *, deadline: float) -> Damage:
        """Return the damage seen since the last repair."""
        return await self._place.here.damage(symptoms, deadline=deadline)
