"""A station: one browser with one page, joined to the bridge, with the models that page holds."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.engines.onnx import LoadedModel, OnnxEngine, OrtCopy, Placement
from pytest_webaccel.errors import (
    BridgeError,
    BrowserError,
    DamagedLaneError,
    LaneUnavailableError,
    RemoteError,
    WebAccelError,
)
from pytest_webaccel.pool.kept import Kept
from pytest_webaccel.terms import Damage, Lane, OrtBuild, Symptom

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from pytest_webaccel.bridge.channel import Channel
    from pytest_webaccel.bridge.server import Bridge
    from pytest_webaccel.browsers.driver import Driver
    from pytest_webaccel.engines.models import ModelInfo
    from pytest_webaccel.pool.holdings import Holdings
    from pytest_webaccel.terms import ProbeResult

__all__ = ["Station"]

T = TypeVar("T")

#: Damage after which the present page or browser can answer nothing any more.
_FATAL = frozenset({Symptom.PAGE_CRASHED, Symptom.BROWSER_EXITED})

#: Seconds within which a page that lives tells that its device is lost, before or after the GPU process is gone.
_TELLS_S = 0.25

#: Seconds within which a page that lives answers a word, runs one for its driver, and comes back on a new connection.
_HEARS_S = 0.3
_RUNS_S = 0.2
_RECONNECT_S = 2.0
#: Seconds for which the driver's word on whether the page runs is believed.
_FRESH_S = 0.5

#: Seconds of a watch that ends with what it watches over, which has a deadline of its own.
_NEVER = 86_400.0


class Station:
    """One browser instance of a lane. Everything runs in the worker's loop.

    ``loaded`` are the models that its page holds, ``once`` those that it has held, ``ran`` those that ran there.
    ``probe`` is what was found of its browser; ``kept`` is what its device keeps for kernels.
    ``placements`` remembers where a model's nodes ran on each lane, so that only its first load pays for the log.
    ``device_in_gpu_process`` says that the lane's device dies with the browser's GPU process, whose end the driver
    tells; elsewhere that end means nothing.
    """

    def __init__(
        self,
        lane: Lane,
        driver: Driver,
        bridge: Bridge,
        ort: OrtCopy,
        placements: dict[tuple[Lane, str], Placement],
        *,
        device_in_gpu_process: bool = False,
        probe: ProbeResult | None = None,
    ) -> None:
        self.lane = lane
        self.probe = probe
        self.driver = driver
        self.loaded: dict[str, LoadedModel] = {}
        self.once: set[str] = set()
        self.ran: set[str] = set()
        self.stand_ins: dict[str, LoadedModel] = {}
        self.kept = Kept()
        self.damages: list[Damage] = []
        self.on_damage: Callable[[Damage], None] = lambda damage: None
        self._device_in_gpu_process = device_in_gpu_process
        self._untold: asyncio.TimerHandle | None = None
        self._asked: asyncio.Task[bool] | None = None
        self._asked_at, self._asked_of = float("-inf"), 0
        self._loss_at = self._renewed_at = float("-inf")
        self._bridge = bridge
        self._placements = placements
        self._ort = ort
        self._changed = asyncio.Event()
        self._life = 0
        self.channel: Channel = bridge.open(str(lane))
        if driver.takes_files:  # elsewhere the page fetches files over HTTP
            self.channel.offer = self._offer
        self.channel.on_damage = self._note
        self.channel.on_doubt = self._ask
        self.engine = OnnxEngine(self.channel, lane.backend, ort)
        driver.on_damage(self._driver_damage)

    async def start(self, *, deadline: float) -> None:
        """Start the browser, join its page, take a device; raises LaneUnavailableError when it cannot be."""
        try:
            await self.driver.start(deadline=deadline)
            await self.new_page(deadline=deadline)
        except (BrowserError, RemoteError, DamagedLaneError, TimeoutError) as error:
            await self.stop()
            why = str(error).strip().rstrip(".") or type(error).__name__
            raise LaneUnavailableError(
                f"lane {self.lane} did not start: {why}. `python -m pytest_webaccel doctor` shows what works here."
            ) from error

    async def new_page(self, *, deadline: float) -> None:
        """Replace the page in the same browser; what the old one held is gone."""
        instances = self.channel.session.instances
        self._forget_models()
        self.damages.clear()  # a crash of the page that goes must not count against the one that comes
        async with asyncio.timeout(deadline):
            await self.driver.open(self._bridge.page_url(self.channel, self.lane.backend), deadline=deadline)
            await self.unless_fatal(self.channel.wait_connected(deadline=deadline, new_instance_since=instances))
            self._life = self.channel.session.instances
            await self._renew(deadline)
        self.damages.clear()

    async def new_device(self, *, deadline: float) -> None:
        """Have the page drop its sessions and take a new device; its models are gone."""
        self._forget_models()
        self._abandon_all()
        await self._renew(deadline)
        self.damages.clear()

    async def reconnect(self, *, deadline: float) -> None:
        """Wait until the same page has resumed its session; raises DamagedLaneError where another one came.

        A connection that is open and silent is cut first: a page that lives comes back at once on another. Whether it
        lives the driver can tell, which does not need that connection and was asked while the page was only doubted;
        one that hangs is not waited for.
        """
        welcomes = 0
        if self.channel.connected and (self._silent or not await self._hears()):
            await self._require_running()
            welcomes = self.channel.welcomes
            with contextlib.suppress(BridgeError):
                self.channel.abort()
        left = min(deadline, _RECONNECT_S)
        await self.unless_fatal(self.channel.wait_connected(deadline=left, welcomes_since=welcomes))
        self._require_same_page()
        self.damages.clear()

    async def adopt_page(self, *, deadline: float) -> None:
        """Take the page that came by itself in place of the one that was: it holds nothing yet."""
        self._forget_models()
        self._abandon_all()
        async with asyncio.timeout(deadline):
            await self.unless_fatal(self.channel.wait_connected(deadline=deadline))
            self._life = self.channel.session.instances
            await self._renew(deadline)
        self.damages.clear()

    async def reload(self, holdings: Holdings, *, deadline: float) -> None:
        """Drop the models that are wanted and load them again, in the same page."""
        self._require_same_page()
        for model in [self.loaded[key] for key in holdings.models if key in self.loaded]:
            await self.drop(model, deadline=deadline)
        await holdings.fill(self, deadline=deadline)
        self.damages.clear()

    async def load(self, info: ModelInfo, build: OrtBuild, *, deadline: float) -> LoadedModel:
        """Load a model, or return it where this page has it already."""
        key = self.key(info, build)
        if key in self.loaded:
            self._require_same_page()
            return self.loaded[key]
        request_id = self.send_load(info, build, deadline=deadline)
        try:
            return await self.answer_load(info, build, request_id)
        finally:
            self.channel.abandon(request_id)

    def send_load(self, info: ModelInfo, build: OrtBuild, *, deadline: float, hold: bool = False) -> int:
        """Send a load and return its request id."""
        self._require_same_page()
        known = self._placements.get((self.lane, self.key(info, build)))
        return self.engine.send_load(info, build, deadline=deadline, known=known, hold=hold)

    async def answer_load(self, info: ModelInfo, build: OrtBuild, request_id: int) -> LoadedModel:
        """Wait for the answer of a load; from then on this page has the model."""
        key = self.key(info, build)
        known = self._placements.get((self.lane, key))
        loaded = await self.unless_fatal(self.engine.answer_load(info, build, request_id, known=known))
        self._placements[self.lane, key] = loaded.placement
        self.loaded[key] = loaded
        self.once.add(key)
        return loaded

    def find(self, model: LoadedModel) -> LoadedModel | None:
        """Return ``model`` as this page holds it, under its own build or the one that stands in for it."""
        return self.loaded.get(model.key) or self.stand_ins.get(model.key)

    def find_info(self, info: ModelInfo, build: OrtBuild) -> LoadedModel | None:
        """Return the model of ``info`` under ``build``, where this very page holds it."""
        present = self.channel.session.instances == self._life
        return self.loaded.get(self.key(info, build)) if present else None

    async def drop(self, model: LoadedModel, *, deadline: float) -> None:
        """Have the page free a model."""
        self.loaded.pop(model.key, None)
        self.stand_ins = {key: one for key, one in self.stand_ins.items() if one.key != model.key}
        self.ran.discard(model.key)
        await self.unless_fatal(self.channel.request("unload", {"model": model.key}, deadline=deadline))

    async def forget(self, info: ModelInfo, build: OrtBuild, *, deadline: float) -> None:
        """Have the page drop a model whose load did not come to its end, unless the page is gone with all it held."""
        key = self.key(info, build)
        self.loaded.pop(key, None)
        self.ran.discard(key)
        if self.answers:
            await self.unless_fatal(self.channel.request("unload", {"model": key}, deadline=deadline))

    async def hold(self, key: str, tensor: np.ndarray[Any, Any], *, deadline: float) -> None:
        """Have the page keep ``tensor`` under ``key``, to feed runs with; what was held there before is freed."""
        await self.unless_fatal(self.channel.request("hold", {"key": key}, tensors={key: tensor}, deadline=deadline))

    async def free(self, keys: Sequence[str], *, deadline: float) -> None:
        """Have the page free the tensors that it holds under ``keys``, unless it is gone with all that it held."""
        if self.answers:
            await self.unless_fatal(self.channel.request("free", {"keys": list(keys)}, deadline=deadline))

    async def free_constants(self, *, deadline: float) -> None:
        """Have the page's device free all that it keeps for kernels, also what a run that failed has left there."""
        if self.kept.asked and self.answers:
            args = {"keys": [], "constants": True}
            await self.unless_fatal(self.channel.request("free", args, deadline=deadline))
        self.kept.forget()

    async def holding(self, *, deadline: float) -> dict[str, Any]:
        """Return what the page itself says that it holds: ``models`` by name, ``held`` tensors (count, bytes)."""
        reply = await self.unless_fatal(self.channel.request("ping", deadline=deadline))
        return dict(reply.value) if isinstance(reply.value, dict) else {}

    @property
    def answers(self) -> bool:
        """Whether there is a browser with a connected page, the one that this station knows."""
        same = self.channel.session.instances == self._life
        return self.driver.pid is not None and self.channel.connected and same

    @staticmethod
    def key(info: ModelInfo, build: OrtBuild) -> str:
        """Return a model's name in the page."""
        return f"{info.sha256[:16]}-{build}"

    async def warm(
        self,
        model: LoadedModel,
        feeds: Mapping[str, np.ndarray[Any, Any]],
        outputs: Sequence[str] | None,
        deadline: float,
    ) -> None:
        """Run a model once, unless it has run here: a first run compiles, later ones do not."""
        if model.key in self.ran:
            return
        request = self.engine.send_run(model, feeds, outputs, deadline=deadline)
        await self.unless_fatal(self.engine.answer(model, request))
        self.ran.add(model.key)

    async def healthy(self, *, deadline: float = 2.0) -> bool:
        """Whether browser, page, socket and device answer now."""
        if self.driver.pid is None:
            return False
        try:
            self._require_same_page()
            await self.unless_fatal(self.channel.wait_connected(deadline=deadline))
            reply = await self.unless_fatal(self.channel.request("ping", deadline=deadline))
        except WebAccelError:
            return False
        return isinstance(reply.value, dict) and reply.value.get("lost") is False

    async def damage(self, symptoms: Collection[Symptom], *, deadline: float) -> Damage:
        """Return the first damage since the last repair with one of ``symptoms``; TimeoutError after ``deadline``."""
        async with asyncio.timeout(deadline):
            while True:
                for damage in self.damages:
                    if damage.symptom in symptoms:
                        return damage
                self._changed.clear()
                await self._changed.wait()

    async def unless_fatal(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of ``work``, unless page or browser is gone: then raise DamagedLaneError at once."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self.damage(_FATAL, deadline=_NEVER))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise DamagedLaneError(gone.result(), str(self.lane))
            return task.result()
        finally:
            for future in (task, gone):
                future.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    async def stop(self) -> None:
        """End browser, page and channel. Never raises."""
        if self._untold is not None:
            self._untold.cancel()
        self.channel.on_doubt = lambda: None
        await self.driver.stop(deadline=5.0)
        with contextlib.suppress(OSError):
            await self._bridge.close(self.channel)

    # -- inside ------------------------------------------------------------------------------

    def _require_same_page(self) -> None:
        """Raise DamagedLaneError where the page went away by itself, by a reload, and took its models along."""
        if self.channel.session.instances != self._life:
            self._forget_models()
            now = asyncio.get_running_loop().time()
            damage = Damage(Symptom.PAGE_REPLACED, "the page was replaced by another, which holds nothing", now)
            raise DamagedLaneError(damage, str(self.lane))

    @property
    def _silent(self) -> bool:
        """Whether the page was found silent since the last repair."""
        return any(damage.symptom is Symptom.HEARTBEAT_MISSED for damage in self.damages)

    async def _require_running(self) -> None:
        """Raise DamagedLaneError where the page's script does not answer its driver either."""
        runs = await asyncio.shield(self._ask())
        if not runs and self.channel.session.spoken_at > self._asked_at:  # it was only busy: it has spoken since
            self._asked = None
            runs = await asyncio.shield(self._ask())
        if not runs:
            detail = f"the page hangs: it does not answer its driver within {_RUNS_S:g} s either"
            damage = Damage(Symptom.HEARTBEAT_MISSED, detail, asyncio.get_running_loop().time())
            raise DamagedLaneError(damage, str(self.lane))

    def _ask(self) -> asyncio.Task[bool]:
        """Ask the driver whether the page runs, unless this very page was asked about a moment ago."""
        now, page = asyncio.get_running_loop().time(), self.channel.session.instances
        if self._asked is None or now > self._asked_at + _FRESH_S or page != self._asked_of:
            self._asked = asyncio.ensure_future(self.driver.page_runs(deadline=_RUNS_S))
            self._asked_at, self._asked_of = now, page
        return self._asked

    async def _hears(self) -> bool:
        """Whether the page's own JavaScript answers on the present connection."""
        try:
            await self.channel.round_trip(deadline=_HEARS_S)
        except (WebAccelError, TimeoutError):
            return False
        return True

    def _abandon_all(self) -> None:
        for request_id in list(self.channel.session.pending):
            self.channel.abandon(request_id)

    def _forget_models(self) -> None:
        self.loaded.clear()
        self.stand_ins.clear()
        self.ran.clear()
        self.once.clear()
        self.kept.forget()

    async def _offer(self, paths: Sequence[Path], deadline: float) -> None:
        await self.driver.offer_files(paths, deadline=deadline)

    def _driver_damage(self, damage: Damage) -> None:
        if damage.symptom is not Symptom.DEVICE_LOST:
            self.channel.damaged(damage)
        elif self._device_in_gpu_process:
            # The page mostly tells the same within milliseconds, and one loss told twice would strike the request for
            # a new device. So this is for the page that cannot tell.
            loop = asyncio.get_running_loop()
            self._untold = loop.call_later(_TELLS_S, self._device_gone, damage, self.channel.session.instances)

    def _device_gone(self, damage: Damage, instances: int) -> None:
        told = self._loss_at >= damage.at - _TELLS_S
        if not told and self._renewed_at < damage.at and instances == self.channel.session.instances:
            self.channel.damaged(damage)

    async def _renew(self, deadline: float) -> None:
        self._renewed_at = asyncio.get_running_loop().time()
        await self.unless_fatal(self.channel.request("renew", deadline=deadline))

    def _note(self, damage: Damage) -> None:
        if damage.symptom is Symptom.DEVICE_LOST:
            self._loss_at = damage.at
        self.damages.append(damage)
        self._changed.set()
        self.on_damage(damage)
