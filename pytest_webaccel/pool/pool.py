"""The pool: owns a worker's lanes, starts them when first asked for, hands them out, ends them all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path  # noqa: TC003 - in the type of an argument that is kept
from typing import Any

from pytest_webaccel.bridge.server import Bridge
from pytest_webaccel.browsers.driver import Driver
from pytest_webaccel.browsers.profiles import Profile
from pytest_webaccel.engines.onnx import OrtCopy, Placement
from pytest_webaccel.errors import LaneUnavailableError
from pytest_webaccel.pool.lane import LiveLane
from pytest_webaccel.pool.station import Station
from pytest_webaccel.terms import Evidence, Lane, LaneState, ProbeResult

__all__ = ["DriverMaker", "Pool"]

#: Makes the driver, not started, of a lane that the probe saw.
DriverMaker = Callable[[ProbeResult], Driver]

_LEASE_S = 120.0


class Pool:
    """Lanes of one worker.

    ``table`` is what the probe saw, ``ort`` the folder of onnxruntime-web and its version, ``spares``
    how many warm spares each lane keeps (0 or 1).
    """

    def __init__(
        self,
        table: Sequence[ProbeResult],
        make_driver: DriverMaker,
        ort: Callable[[], tuple[Path, str]],
        *,
        spares: int = 0,
        on_start: Callable[[LiveLane], None] = lambda lane: None,
    ) -> None:
        self._table = {probe.lane: probe for probe in table}
        self._make_driver = make_driver
        self._ort = ort
        self._spares = spares
        self._on_start = on_start
        self._bridge = Bridge()
        self._lanes: dict[Lane, LiveLane] = {}
        self._placements: dict[str, Placement] = {}
        self._ort_copy: OrtCopy | None = None
        self._scratch: Profile | None = None

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """Lanes that work on this machine, started or not."""
        return tuple(lane for lane, probe in self._table.items() if probe.works)

    def evidence(self, name: Lane) -> Evidence:
        """Return the grade of what is measured on a lane; the weakest for one that is not of this run."""
        probe = self._table.get(name)
        return probe.evidence if probe is not None else Evidence.FAKE

    @property
    def folder(self) -> Path:
        """A folder of the pool's own, removed with it, and by the next run's sweep if this process is killed."""
        if self._scratch is None:
            self._scratch = Profile()
        return self._scratch.path

    @contextlib.asynccontextmanager
    async def lease(self, name: Lane, *, deadline: float = _LEASE_S) -> AsyncIterator[LiveLane]:
        """Hand out a lane, started if need be, until the block ends.

        Raises LaneUnavailableError with the reason when it does not work here, does not start, or
        is not free within ``deadline`` seconds.
        """
        lane = self._lane(name)
        try:
            async with asyncio.timeout(deadline):
                await lane.in_use.acquire()
        except TimeoutError:
            raise LaneUnavailableError(f"lane {name} was not free within {deadline:g} s") from None
        try:
            await self._make_ready(lane)
            lane.move(LaneState.BUSY)
            lane.counts["leases"] += 1
            yield lane
        finally:
            if lane.state in {LaneState.BUSY, LaneState.RECOVERING}:
                lane.move(LaneState.READY)
            lane.in_use.release()

    async def stop(self) -> None:
        """End every lane, then the bridge. Never raises."""
        await asyncio.gather(*(lane.stop() for lane in self._lanes.values()), return_exceptions=True)
        self._lanes.clear()
        with contextlib.suppress(OSError):
            await self._bridge.stop()
        if self._scratch is not None:
            await self._scratch.remove(deadline=2.0)

    def statistics(self) -> list[dict[str, Any]]:
        """Return a snapshot of every lane that was ever asked for."""
        return [lane.statistics() for lane in self._lanes.values()]

    # -- inside ------------------------------------------------------------------------------

    def _lane(self, name: Lane) -> LiveLane:
        lane = self._lanes.get(name)
        if lane is None:
            probe = self._table.get(name)
            if probe is None or not probe.works:
                there = ", ".join(map(str, self.lanes)) or "none"
                reason = f"{probe.reason} {probe.remedy}" if probe else f"it is not among this run's lanes ({there})."
                raise LaneUnavailableError(f"lane {name} is not to be had: {reason}")
            lane = self._lanes[name] = LiveLane(probe, lambda: self._station(probe), spares=self._spares)
        return lane

    def _station(self, probe: ProbeResult) -> Station:
        assert self._ort_copy is not None
        return Station(probe.lane, self._make_driver(probe), self._bridge, self._ort_copy, self._placements)

    async def _make_ready(self, lane: LiveLane) -> None:
        if self._ort_copy is None:
            folder, version = self._ort()
            if self._bridge.port == 0:
                self._bridge.folder = self.folder
                await self._bridge.start()
            self._ort_copy = OrtCopy(folder, version, self._bridge.share(f"ort-{version}", folder))
        if lane.station is None or lane.state is LaneState.FAILED:
            await lane.start()
            self._on_start(lane)
        elif not await lane.station.healthy() and not await lane.settle():
            raise LaneUnavailableError(f"lane {lane.name} broke between two tests and could not be started again")
        lane.keep_spare()
