"""A live lane: its state, the station that serves it, its spare, and the models it must hold.

It is what the recovery engine repairs (:class:`~pytest_webaccel.recovery.conductor.Repairable`) and
what faults are aimed at (:class:`~pytest_webaccel.faults.injector.FaultTarget`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from pytest_webaccel.errors import LaneUnavailableError, WebAccelError
from pytest_webaccel.terms import Damage, Lane, LaneState, OrtBuild, ProbeResult, Symptom

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import numpy as np

    from pytest_webaccel.browsers.driver import Driver
    from pytest_webaccel.engines.models import ModelInfo
    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.pool.station import Station

__all__ = ["MOVES", "LiveLane"]

_log = logging.getLogger(__name__)

#: Legal moves of a lane's state.
MOVES: Mapping[LaneState, frozenset[LaneState]] = {
    LaneState.INITIALIZING: frozenset({LaneState.READY, LaneState.FAILED}),
    LaneState.READY: frozenset({LaneState.BUSY, LaneState.DEGRADED, LaneState.FAILED}),
    LaneState.BUSY: frozenset({LaneState.READY, LaneState.DEGRADED, LaneState.FAILED}),
    LaneState.DEGRADED: frozenset({LaneState.RECOVERING, LaneState.FAILED}),
    LaneState.RECOVERING: frozenset({LaneState.READY, LaneState.BUSY, LaneState.DEGRADED, LaneState.FAILED}),
    LaneState.FAILED: frozenset({LaneState.INITIALIZING, LaneState.RECOVERING}),
}

_START_S = 60.0
#: Bytes of feeds that a lane keeps for its spare at most.
_REMEMBERED_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class _Feeds:
    """What a model was last fed, and which outputs were asked for."""

    feeds: Mapping[str, np.ndarray[Any, Any]]
    outputs: Sequence[str] | None

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return sum(array.nbytes for array in self.feeds.values())


class LiveLane:
    """One lane of a worker's pool.

    ``make_station`` makes a station, not started, for it; ``spares`` is how many warm spares it keeps (0 or 1).
    """

    def __init__(self, probe: ProbeResult, make_station: Callable[[], Station], *, spares: int = 0) -> None:
        self.probe = probe
        self.name: Lane = probe.lane
        self.state = LaneState.INITIALIZING
        self.station: Station | None = None
        self.spare: Station | None = None
        self.wanted: dict[str, tuple[ModelInfo, OrtBuild]] = {}
        self.counts = {"leases": 0, "requests": 0, "recoveries": 0, "starts": 0, "damages": 0}
        self.in_use = asyncio.Lock()
        self.spares = spares
        self._asked: dict[str, _Feeds] = {}
        self._sparing = asyncio.Lock()
        self._spare_due = False
        self._make_station = make_station
        self._background: set[asyncio.Task[None]] = set()

    def move(self, state: LaneState) -> None:
        """Change the state; raises WebAccelError for a move the table does not have."""
        if state is self.state:
            return
        if state not in MOVES[self.state]:
            raise WebAccelError(f"lane {self.name} cannot go from {self.state} to {state}")
        self.state = state

    # -- life --------------------------------------------------------------------------------

    @property
    def here(self) -> Station:
        """The station in service; raises LaneUnavailableError where there is none."""
        if self.station is None:
            raise LaneUnavailableError(f"lane {self.name} is not started")
        return self.station

    async def start(self, *, deadline: float = _START_S) -> None:
        """Start cold, whatever there was before."""
        if self.state is LaneState.FAILED:
            self.move(LaneState.INITIALIZING)
        try:
            self.station = await self._new_station(deadline)
        except BaseException:
            self.move(LaneState.FAILED)
            raise
        self.move(LaneState.READY)

    async def stop(self) -> None:
        """End every station and every repair under way. Never raises."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        stations = [station for station in (self.station, self.spare) if station is not None]
        self.station = self.spare = None
        await asyncio.gather(*(station.stop() for station in stations), return_exceptions=True)

    async def load(self, info: ModelInfo, build: OrtBuild | None, *, deadline: float) -> LoadedModel:
        """Load a model here; from now on the lane must hold it, also after a repair."""
        station = self.here
        chosen = station.engine.choose(build)
        loaded = await station.load(info, chosen, deadline=deadline)
        self.wanted[loaded.key] = (info, chosen)
        self.keep_spare()
        return loaded

    def remember(
        self, model: LoadedModel, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None
    ) -> None:
        """Keep what a model was fed, to warm a spare with; not when a lane's feeds come to more than 64 MiB."""
        if not self.spares:
            return
        others = sum(one.nbytes for key, one in self._asked.items() if key != model.key)
        feeding = _Feeds(feeds, outputs)
        if others + feeding.nbytes <= _REMEMBERED_BYTES:
            self._asked[model.key] = feeding
            self.keep_spare()

    def forget(self) -> None:
        """Need no model any more: the lease is over. Pages keep those that they have."""
        self.wanted.clear()
        self._asked.clear()

    async def prepare_spare(self, *, deadline: float = _START_S) -> None:
        """Start a spare, load the lane's models into it, and run each once with what it was last fed."""
        async with self._sparing:
            self._spare_due = False
            if self.spare is not None and not await self.spare.healthy():
                broken, self.spare = self.spare, None
                await broken.stop()
            if self.spare is None:
                spare = await self._new_station(deadline)
                self.spare = spare
            spare = self.spare
            await self._fill(spare, deadline)
            for key, asked in list(self._asked.items()):
                if key in spare.loaded:
                    await spare.warm(spare.loaded[key], asked.feeds, asked.outputs, deadline)

    def keep_spare(self) -> None:
        """Have the spare made ready in the background, where the lane keeps one and it is not."""
        if self.spares and not self.spare_ready and not self._spare_due:
            self._spare_due = True
            self._spawn(self.warm_spare())

    async def warm_spare(self) -> None:
        """Wait until the spare is ready, where the lane keeps one; a spare that cannot be had is done without."""
        if self.spares and not self.spare_ready:
            try:
                await self.prepare_spare()
            except (WebAccelError, TimeoutError) as error:
                _log.warning("lane %s: no spare could be made ready: %s", self.name, error)

    async def settle(self, *, deadline: float = 30.0) -> bool:
        """Wait for repairs under way, then mend what is still broken; return whether the lane is whole."""
        if self._background:  # what takes longer goes on
            await asyncio.wait(self._background, timeout=deadline)
        if self.station is not None and await self.station.healthy():
            return True
        if self.state in {LaneState.READY, LaneState.BUSY}:
            self.move(LaneState.DEGRADED)
        self.move(LaneState.RECOVERING)
        try:
            await self.restart_browser(deadline=deadline)
        except (WebAccelError, TimeoutError) as error:
            _log.warning("lane %s could not be mended: %s", self.name, error)
            self.move(LaneState.FAILED)
            return False
        self.move(LaneState.READY)
        return True

    # -- what recovery asks (Repairable) -------------------------------------------------------

    @property
    def spare_ready(self) -> bool:
        """Whether a spare is up, holds every model the lane must hold, and has run those that the lane has run."""
        spare = self.spare
        if spare is None or spare.driver.pid is None or not spare.channel.connected:
            return False
        if not set(self.wanted) <= set(spare.loaded):
            return False
        return set(self._asked) & set(self.wanted) <= spare.ran

    @property
    def models(self) -> int:
        """How many models the lane must hold."""
        return len(self.wanted)

    async def reconnect(self, *, deadline: float) -> None:
        """Wait until the page has resumed its session."""
        await self.here.reconnect(deadline=deadline)

    async def new_device(self, *, deadline: float) -> None:
        """Take a new device in the same page."""
        await self.here.new_device(deadline=deadline)

    async def new_page(self, *, deadline: float) -> None:
        """Replace the page in the same browser."""
        await self.here.new_page(deadline=deadline)

    async def restart_browser(self, *, deadline: float) -> None:
        """End the station and start another, cold."""
        old, self.station = self.station, None
        if old is not None:
            await old.stop()
        self.station = await self._new_station(deadline)

    async def use_spare(self, *, deadline: float) -> None:
        """Put the spare into service; the old station is ended by :meth:`repair_in_background`."""
        if self.spare is None or not await self.spare.healthy(deadline=min(deadline, 2.0)):
            raise LaneUnavailableError(f"lane {self.name} has no spare that answers")
        old, self.station, self.spare = self.station, self.spare, None
        if old is not None:
            self._spawn(old.stop())

    async def load_models(self, *, deadline: float) -> None:
        """Load what the lane must hold."""
        await self._fill(self.here, deadline)

    def repair_in_background(self) -> None:
        """Start another spare in place of the one that took over."""
        self._spawn(self.prepare_spare())

    # -- what faults ask (FaultTarget) ---------------------------------------------------------

    @property
    def driver(self) -> Driver:
        """Driver of the browser in service."""
        return self.here.driver

    def abort_connection(self) -> None:
        """Reset the page's socket in mid-message."""
        self.here.channel.abort()

    async def damage(self, symptoms: Collection[Symptom], *, deadline: float) -> Damage:
        """Return the damage seen since the last repair."""
        return await self.here.damage(symptoms, deadline=deadline)

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot: state, counts, models held, spare."""
        return {
            "lane": str(self.name),
            "state": str(self.state),
            **self.counts,
            "models": sorted(self.wanted),
            "spare_ready": self.spare_ready,
            "resumes": self.station.channel.session.resumes if self.station else 0,
            "duplicates_dropped": self.station.channel.session.duplicates if self.station else 0,
        }

    # -- inside ------------------------------------------------------------------------------

    async def _new_station(self, deadline: float) -> Station:
        station = self._make_station()
        station.on_damage = self._count_damage
        self.counts["starts"] += 1
        try:
            async with asyncio.timeout(deadline):
                await station.start(deadline=deadline)
        except TimeoutError:
            await station.stop()
            raise LaneUnavailableError(
                f"lane {self.name} did not start within {deadline:g} s. `python -m pytest_webaccel doctor` shows what "
                "works here."
            ) from None
        except BaseException:
            await station.stop()
            raise
        return station

    async def _fill(self, station: Station, deadline: float) -> None:
        for info, build in list(self.wanted.values()):
            await station.load(info, build, deadline=deadline)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("lane %s: a repair in the background failed: %s", self.name, error)

    def _count_damage(self, damage: Damage) -> None:
        del damage
        self.counts["damages"] += 1
