"""A live lane: its state, the station that serves it, its spares, and what it must hold.

It is what the recovery engine repairs (:class:`~pytest_webaccel.recovery.conductor.Repairable`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from typing import TYPE_CHECKING, Any, Protocol

from pytest_webaccel.errors import LaneUnavailableError, WebAccelError
from pytest_webaccel.pool.holdings import Holdings
from pytest_webaccel.pool.spares import Spares
from pytest_webaccel.pool.undoing import load_again
from pytest_webaccel.recovery.breaker import Backoff, Breakers
from pytest_webaccel.recovery.engine import Survey
from pytest_webaccel.terms import Damage, Lane, LaneState, OrtBuild, ProbeResult

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    import numpy as np

    from pytest_webaccel.browsers.driver import Driver
    from pytest_webaccel.engines.models import ModelInfo
    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.pool.station import Station
    from pytest_webaccel.recovery.journal import TransactionScope

__all__ = ["MOVES", "LiveLane", "Neighbourhood"]

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
#: Starts tried in one rung, with pauses between them.
_STARTS = 3


class Neighbourhood(Protocol):
    """What a lane knows of the other lanes of its pool."""

    breakers: Breakers

    def stand_in(self, name: Lane) -> Lane | None:
        """Return the free lane of another browser, on the same backend, that could answer for ``name``."""
        ...

    async def borrow(self, name: Lane, *, deadline: float) -> LiveLane:
        """Return a lane, started and kept for the caller until :meth:`give_back`."""
        ...

    def give_back(self, lane: LiveLane) -> None:
        """End what :meth:`borrow` began."""
        ...

    def running(self) -> Sequence[Driver]:
        """Return the driver of every browser that runs in this pool."""
        ...

    def transaction(self, kind: str, name: Lane) -> TransactionScope:
        """Return the scope of a change of a lane that is no test's own: a repair, or a spare made ready."""
        ...


class LiveLane:
    """One lane of a worker's pool.

    ``make_station`` makes a station, not started, for it; ``spares`` is how many warm spares it keeps.
    """

    def __init__(
        self,
        probe: ProbeResult,
        make_station: Callable[[], Station],
        around: Neighbourhood,
        *,
        spares: int = 0,
        chance: random.Random | None = None,
    ) -> None:
        self.probe = probe
        self.name: Lane = probe.lane
        self.state = LaneState.INITIALIZING
        self.station: Station | None = None
        self.guest: LiveLane | None = None
        self.holdings = Holdings()
        self.around = around
        begin = functools.partial(around.transaction, "spare", self.name)
        self.spares = Spares(self.name, self.holdings, self.open_station, begin, count=spares)
        self.counts = {
            **dict.fromkeys(("leases", "requests", "recoveries", "starts", "damages"), 0),
            **dict.fromkeys(("duplicated", "lost"), 0),  # what must never be: requests done twice, committed work gone
        }
        self.in_use = asyncio.Lock()
        self._sparing = False
        self._distrusted = False
        self._make_station = make_station
        self._chance = chance or random.Random()
        # Of starts of this lane's browser; the lane itself has another, by its name alone, in the pool.
        self._starts = around.breakers.of(f"{probe.lane.browser} for {probe.lane}")
        self._backoff = Backoff(first_s=0.1, cap_s=2.0)
        self._retired: list[Station] = []
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
        """The station in service, which may be another lane's; raises LaneUnavailableError where there is none."""
        if self.guest is not None:
            return self.guest.here
        if self.station is None:
            raise LaneUnavailableError(f"lane {self.name} is not started")
        return self.station

    @property
    def served(self) -> bool:
        """Whether a station is in service; a repair that Ctrl-C or a deadline interrupted may have left none."""
        return self.guest is not None or self.station is not None

    def find(self, model: LoadedModel) -> LoadedModel | None:
        """Return the model as the page in service has it, None where that has it not or there is none."""
        return self.here.find(model) if self.served else None

    async def start(self, *, deadline: float = _START_S) -> None:
        """Start cold, whatever there was before."""
        if self.state is LaneState.FAILED:
            self.move(LaneState.INITIALIZING)
        try:
            self.station = await self.open_station(deadline)
        except BaseException:
            self.move(LaneState.FAILED)
            raise
        self.move(LaneState.READY)

    async def stop(self) -> None:
        """End every station and every repair under way. Never raises."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        own = [self.station] if self.station is not None else []
        stations = [*own, *self.spares.stations, *self._retired]
        self.station = None
        self.spares.stations.clear()
        self._retired.clear()
        await asyncio.gather(*(station.stop() for station in stations), return_exceptions=True)

    async def load(self, info: ModelInfo, build: OrtBuild | None, *, deadline: float) -> LoadedModel:
        """Load a model here; from now on the lane must hold it, also after a repair."""
        station = self.here
        loaded = await station.load(info, station.engine.choose(build), deadline=deadline)
        self.want(loaded)
        return loaded

    def want(self, model: LoadedModel) -> None:
        """Hold ``model`` from now on, the spares too."""
        self.holdings.want(model)
        self.keep_spares()

    def remember(
        self, model: LoadedModel, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None
    ) -> None:
        """Keep what a model was fed, to warm spares with."""
        if self.spares.count and self.holdings.remember(model, feeds, outputs):
            self.keep_spares()

    def keep_spares(self) -> None:
        """Have the spares made ready in the background, where the lane keeps any and they are not."""
        if not self.spares.full and not self._sparing:
            self._sparing = True
            self.behind(self._warm_spares())

    def distrust(self, why: str) -> None:
        """Note that the page holds what it should not, for a change could not be undone: it is replaced before long."""
        _log.warning("lane %s: %s", self.name, why)
        self._distrusted = True

    async def _fresh_page(self, deadline: float) -> None:
        self._distrusted = False
        try:
            await self.here.new_page(deadline=deadline)
        except (WebAccelError, TimeoutError) as error:  # the look at the lane that follows restarts its browser
            _log.warning("lane %s: its page could not be replaced: %s", self.name, error)

    async def settle(self, *, deadline: float = 30.0) -> bool:
        """Wait for repairs under way, then mend what is still broken; return whether the lane is whole."""
        self.repair_in_background()
        if self._background:  # what takes longer goes on
            await asyncio.wait(self._background, timeout=deadline)
        self._dismiss_guest()
        if self._distrusted and self.station is not None:
            await self._fresh_page(deadline)
        if self.station is not None and await self.station.healthy():
            return True
        if self.state in {LaneState.READY, LaneState.BUSY}:
            self.move(LaneState.DEGRADED)
        self.move(LaneState.RECOVERING)
        breaker = self._starts
        try:
            if not breaker.allows:  # nothing is urgent now, so its pause is waited for
                await asyncio.sleep(min(breaker.wait_s, deadline))
            await self.restart_browser(deadline=deadline)
        except (WebAccelError, TimeoutError) as error:
            _log.warning("lane %s could not be mended: %s", self.name, error)
            self.move(LaneState.FAILED)
            return False
        try:
            await self.load_models(deadline=deadline)
        except (WebAccelError, TimeoutError) as error:  # the lane is whole; its row says what it lacks
            _log.warning("lane %s was mended, and does not hold its models: %s", self.name, error)
        self.repair_in_background()
        self.move(LaneState.READY)
        return True

    # -- what recovery asks (Repairable) -------------------------------------------------------

    def survey(self) -> Survey:
        """Return what could be had now to mend this lane with."""
        return Survey(
            spares=self.spares.ready if self.guest is None else 0,
            models=len(self.holdings.models),
            startable=self._starts.allows,
            elsewhere=self.guest is None and self.around.stand_in(self.name) is not None,
        )

    async def resend(self, *, deadline: float) -> None:
        """Have the page send again what arrived damaged; the request that waits for it asks."""
        await self.here.reconnect(deadline=deadline)

    async def reconnect(self, *, deadline: float) -> None:
        """Wait until the page has resumed its session."""
        await self.here.reconnect(deadline=deadline)

    async def reload_models(self, *, deadline: float) -> None:
        """Load the models again in the same page."""
        await self.here.reload(self.holdings, deadline=deadline)

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
        """Start another station, cold, in place of the one there was, which ends meanwhile."""
        self._dismiss_guest()
        if self.station is not None:
            old, self.station = self.station, None
            old.driver.kill()
            self.behind(old.stop())
        self.station = await self.open_station(deadline)

    async def use_spare(self, *, deadline: float) -> None:
        """Put a spare into service; the old station is ended by :meth:`repair_in_background`."""
        self.adopt(await self.spares.take(deadline=deadline))

    async def fail_over(self, *, deadline: float) -> None:
        """Have another browser's lane answer from now on, until this one is whole again."""
        guest = await self.borrow_stand_in(deadline=deadline)
        self._dismiss_guest()
        self.guest = guest

    async def load_models(self, *, deadline: float) -> None:
        """Load what the lane must hold."""
        begin = functools.partial(self.around.transaction, "repair", self.name)
        await load_again(begin, self.holdings, self.here, deadline=deadline)

    def repair_in_background(self) -> None:
        """End what was replaced, start what is missing: another spare, or the browser that another stands in for."""
        while self._retired:
            self.behind(self._retired.pop().stop())
        if self.guest is not None:
            self.behind(self._repair_own())
        self.keep_spares()

    # -- what contenders need ------------------------------------------------------------------

    async def borrow_stand_in(self, *, deadline: float) -> LiveLane:
        """Return another browser's lane that holds this one's models; raises LaneUnavailableError for want of one."""
        name = self.around.stand_in(self.name)
        if name is None:
            raise LaneUnavailableError(f"lane {self.name}: no lane of another browser is free to stand in")
        guest = await self.around.borrow(name, deadline=deadline)
        try:
            for key, (info, _) in list(self.holdings.models.items()):
                loaded = await guest.here.load(info, guest.here.engine.choose(None), deadline=deadline)
                guest.here.stand_ins[key] = loaded
        except BaseException:
            self.around.give_back(guest)
            raise
        return guest

    async def open_station(self, deadline: float) -> Station:
        """Return another station, started: tried a few times with pauses, unless the browser's breaker is open."""
        breaker = self._starts
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline
        for failures in range(1, _STARTS + 1):
            if not breaker.begin():
                raise LaneUnavailableError(
                    f"lane {self.name}: {self.name.browser} failed to start {breaker.failures} times in a row, so its "
                    f"circuit breaker is open; it is tried again in {breaker.wait_s:.0f} s. "
                    "`python -m pytest_webaccel doctor` shows what works here."
                )
            try:
                station = await self._start_one(until - loop.time())
            except LaneUnavailableError:
                breaker.failed()
                pause = self._backoff.pause(failures, self._chance)
                if failures == _STARTS or loop.time() + pause >= until or not breaker.allows:
                    raise
                await asyncio.sleep(pause)
            except BaseException:
                breaker.gave_up()
                raise
            else:
                breaker.succeeded()
                return station
        raise AssertionError("the last try returns or raises")

    def adopt(self, station: Station) -> None:
        """Put ``station`` into service; the one there was ends with the next :meth:`repair_in_background`."""
        if self.station is not None and self.station is not station:
            self._retired.append(self.station)
        self.station = station

    def behind(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work`` in the background; the lane is not whole until it ended."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._done)

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot: state, counts, models held, spare, circuit breakers of the lane and of its starts."""
        return {
            "lane": str(self.name),
            "state": str(self.state),
            **self.counts,
            "models": sorted(self.holdings.models),
            "spare_ready": self.spares.full and self.spares.count > 0,
            "breaker": str(self.around.breakers.of(str(self.name)).state),
            "start_breaker": str(self._starts.state),
            "resumes": self.station.channel.session.resumes if self.station else 0,
            "duplicates_dropped": self.station.channel.session.duplicates if self.station else 0,
        }

    # -- inside ------------------------------------------------------------------------------

    async def _start_one(self, deadline: float) -> Station:
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

    async def _warm_spares(self) -> None:
        try:
            await self.spares.warm()
        finally:
            self._sparing = False

    async def _repair_own(self) -> None:
        if self.station is None or not await self.station.healthy():
            old, self.station = self.station, None
            if old is not None:
                await old.stop()
            self.station = await self.open_station(_START_S)

    def _dismiss_guest(self) -> None:
        guest, self.guest = self.guest, None
        if guest is not None:
            self.around.give_back(guest)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("lane %s: a repair in the background failed: %s", self.name, error)

    def _count_damage(self, damage: Damage) -> None:
        del damage
        self.counts["damages"] += 1
