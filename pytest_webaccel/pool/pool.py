"""The pool: owns a worker's lanes, starts them when first asked for, hands them out, ends them all."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path  # noqa: TC003 - in the type of an argument that is kept
from typing import Any

from pytest_webaccel.bridge.server import Bridge
from pytest_webaccel.browsers.driver import Driver
from pytest_webaccel.browsers.profiles import Profile
from pytest_webaccel.browsers.usage import Usage, tree_usage
from pytest_webaccel.engines.onnx import OrtCopy, Placement
from pytest_webaccel.errors import LaneUnavailableError
from pytest_webaccel.faults.device_lost import DeviceLost
from pytest_webaccel.pool.lane import LiveLane
from pytest_webaccel.pool.station import Station
from pytest_webaccel.recovery.breaker import Breakers
from pytest_webaccel.recovery.journal import Journal, TransactionScope
from pytest_webaccel.terms import ON_REQUEST, Evidence, Lane, LaneState, ProbeResult

__all__ = ["DriverMaker", "Pool"]

#: Makes the driver, not started, of a lane that the probe saw.
DriverMaker = Callable[[ProbeResult], Driver]

_LEASE_S = 120.0


class Pool:
    """Lanes of one worker.

    ``table`` is what the probe saw, ``ort`` the folder of onnxruntime-web and its version, ``spares``
    how many warm spares each lane keeps. ``on_spare`` is told what a lane's spare costs, once the first is
    ready and again where one holds more models. ``journal`` is told of repairs and of spares made
    ready, ``seed`` is of the jitter of pauses and breakers,
    ``clock`` their monotonic time in seconds.
    """

    def __init__(
        self,
        table: Sequence[ProbeResult],
        make_driver: DriverMaker,
        ort: Callable[[], tuple[Path, str]],
        *,
        spares: int = 0,
        on_start: Callable[[LiveLane], None] = lambda lane: None,
        on_spare: Callable[[LiveLane, Usage], None] = lambda lane, usage: None,
        journal: Journal | None = None,
        seed: int | str = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.journal = journal or Journal(lambda row: None, "", Evidence.FAKE)
        self._table = {probe.lane: probe for probe in table}
        self._make_driver = make_driver
        self._ort = ort
        self._spares = spares
        self._on_start = on_start
        self._on_spare = on_spare
        self._weighed: dict[Lane, int] = {}
        self._chance = random.Random(f"pool\0{seed}")
        self.breakers = Breakers(clock, self._chance)
        self._bridge = Bridge(chance=random.Random(f"bridge\0{seed}"))
        self._lanes: dict[Lane, LiveLane] = {}
        self._stations: weakref.WeakSet[Station] = weakref.WeakSet()
        self._placements: dict[tuple[Lane, str], Placement] = {}
        self._ort_copy: OrtCopy | None = None
        self._scratch: Profile | None = None

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """Lanes that work on this machine, started or not."""
        return tuple(lane for lane, probe in self._table.items() if probe.works)

    @property
    def probes(self) -> tuple[ProbeResult, ...]:
        """What the probe saw of every lane, working or not."""
        return tuple(self._table.values())

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
        await self._take(lane, deadline)
        try:
            lane.counts["leases"] += 1
            yield lane
        finally:
            self.give_back(lane)

    # -- what lanes know of each other (Neighbourhood) -----------------------------------------

    def stand_in(self, name: Lane) -> Lane | None:
        """Return the free lane of another browser, on the same backend, that could answer for ``name``."""
        for other, probe in self._table.items():
            alike = other.backend is name.backend and other.browser is not name.browser
            fitting = ON_REQUEST.isdisjoint({other.browser, name.browser})  # a browser for a browser
            if alike and fitting and probe.works and self._free(other) and self.breakers.of(str(other)).allows:
                return other
        return None

    async def borrow(self, name: Lane, *, deadline: float) -> LiveLane:
        """Return a lane, started and kept for the caller until :meth:`give_back`."""
        lane = self._lane(name)
        await self._take(lane, deadline)
        return lane

    def give_back(self, lane: LiveLane) -> None:
        """Let a lane be leased by others again."""
        if lane.state in {LaneState.BUSY, LaneState.RECOVERING}:
            lane.move(LaneState.READY)
        lane.in_use.release()

    def transaction(self, kind: str, name: Lane) -> TransactionScope:
        """Return the scope of a change of a lane that is no test's own: a repair, or a spare made ready."""
        return self.journal.transaction(kind, name)

    def running(self) -> list[Driver]:
        """Return the driver of every browser that runs in this pool."""
        return [station.driver for station in self._stations if station.driver.pid is not None]

    async def stop(self) -> None:
        """End every lane, then the bridge. Never raises."""
        await asyncio.gather(*(lane.stop() for lane in self._lanes.values()), return_exceptions=True)
        self._lanes.clear()
        # Also those that belong to no lane any more: a race's loser whose ending was cut short, for one.
        await asyncio.gather(*(station.stop() for station in list(self._stations)), return_exceptions=True)
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
            lane = self._lanes[name] = LiveLane(
                probe, lambda: self._station(probe), self, spares=self._spares, chance=self._chance
            )
            lane.spares.on_ready = functools.partial(self._spare_ready, lane)
        return lane

    def _station(self, probe: ProbeResult) -> Station:
        assert self._ort_copy is not None
        station = Station(
            probe.lane,
            self._make_driver(probe),
            self._bridge,
            self._ort_copy,
            self._placements,
            device_in_gpu_process=DeviceLost().meaning(probe) is None,
            probe=probe,
        )
        self._stations.add(station)
        return station

    def _spare_ready(self, lane: LiveLane, spare: Station) -> None:
        if len(spare.loaded) > self._weighed.get(lane.name, -1):  # only one that holds more than any before
            self._weighed[lane.name] = len(spare.loaded)
            lane.behind(self._weigh(lane, spare))

    async def _weigh(self, lane: LiveLane, spare: Station) -> None:
        # In a thread: the kernel walks the memory of a whole process tree for it.
        self._on_spare(lane, await asyncio.to_thread(tree_usage, spare.driver.pid))

    def _free(self, name: Lane) -> bool:
        lane = self._lanes.get(name)
        return lane is None or not lane.in_use.locked()

    async def _take(self, lane: LiveLane, deadline: float) -> None:
        """Wait until ``lane`` is free, and make it ready."""
        breaker = self.breakers.of(str(lane.name))
        if not breaker.begin():
            raise LaneUnavailableError(
                f"lane {lane.name} failed {breaker.failures} times in a row, so its circuit breaker is open: it is "
                f"tried again in {breaker.wait_s:.0f} s. `python -m pytest_webaccel doctor` shows what works here."
            )
        try:
            async with asyncio.timeout(deadline):
                await lane.in_use.acquire()
        except TimeoutError:
            breaker.gave_up()
            raise LaneUnavailableError(f"lane {lane.name} was not free within {deadline:g} s") from None
        try:
            await self._make_ready(lane)
            lane.move(LaneState.BUSY)
        except LaneUnavailableError:
            breaker.failed()
            lane.in_use.release()
            raise
        except BaseException:
            breaker.gave_up()
            lane.in_use.release()
            raise
        breaker.succeeded()

    async def _make_ready(self, lane: LiveLane) -> None:
        if self._ort_copy is None:
            folder, version = self._ort()
            if self._bridge.port == 0:
                self._bridge.folder = self.folder
                await self._bridge.start()
            self._ort_copy = OrtCopy(folder, version, self._bridge.share(f"ort-{version.replace('+', '-')}", folder))
        if lane.station is None or lane.state is LaneState.FAILED:
            await lane.start()
            self._on_start(lane)
        elif not await lane.station.healthy() and not await lane.settle():
            raise LaneUnavailableError(f"lane {lane.name} broke between two tests and could not be started again")
        lane.keep_spares()
