"""One load or run on a lane, which may have to be asked for again on another page or browser."""

from __future__ import annotations

import abc
import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from pytest_webaccel.errors import (
    ConfigurationError,
    DamagedLaneError,
    LaneUnavailableError,
    ModelError,
    RemoteError,
)
from pytest_webaccel.pool.kept import kernel_answer, restore, send_kernel
from pytest_webaccel.terms import Damage, Symptom

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import numpy as np

    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.engines.kernels import Computation, Plan
    from pytest_webaccel.engines.models import ModelInfo
    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.station import Station
    from pytest_webaccel.terms import OrtBuild

__all__ = ["Arrays", "KernelRun", "Load", "Ping", "Redo", "Request", "Run"]

T = TypeVar("T")

Arrays = dict[str, "np.ndarray[Any, Any]"]

#: Does again, on a page, the steps that a run builds on, and returns what to feed it; the number is a deadline in s.
Redo: TypeAlias = "Callable[[Station, float], Awaitable[Arrays]]"


class Request(abc.ABC, Generic[T]):
    """What is asked of a lane's page, once or, after damage, again.

    ``deadline`` is its own, in seconds. ``check`` raises for an answer that must not be delivered; it is asked of
    answers that were asked for again. ``suspect`` has an operator's failure count as damage to the lane.
    """

    def __init__(self, lane: LiveLane, deadline: float) -> None:
        self._lane = lane
        self.deadline = deadline
        self.check: Callable[[T], None] = lambda answer: None
        self.suspect = False
        self._station: Station = lane.here
        self._id = 0

    @property
    @abc.abstractmethod
    def model_name(self) -> str:
        """Name of the model that it is about."""

    @abc.abstractmethod
    def _send(self, station: Station, deadline: float, *, hold: bool) -> int:
        """Send it to ``station`` and return its id there."""

    @abc.abstractmethod
    async def _answer(self, station: Station, request_id: int) -> T:
        """Wait for its answer there."""

    async def _prepare(self, station: Station, deadline: float) -> None:
        """Bring what it needs to a page that it was not sent to before."""

    @abc.abstractmethod
    def twin(self) -> Request[T]:
        """Return the same request, not sent yet: a race sends it to several browsers."""

    async def ready(self) -> None:
        """Bring what it needs to the station in service, before it is sent there for the first time."""

    def send(self, *, hold: bool = False) -> None:
        """Send it to the station in service."""
        self._station = self._lane.here
        self._id = self._send(self._station, self.deadline, hold=hold)

    async def started(self, *, deadline: float) -> None:
        """Wait until the page has taken it up."""
        await self._station.unless_fatal(self._station.channel.started(self._id, deadline=deadline))

    def release(self) -> None:
        """Let it go on from where it is held."""
        self._station.channel.release(self._id)

    async def answer(self) -> T:
        """Wait for its answer."""
        return await self._station.unless_fatal(self._answer(self._station, self._id))

    def close(self) -> None:
        """Stop waiting for it, if it is still owed."""
        self._station.channel.abandon(self._id)

    async def again(self, deadline: float) -> T:
        """Return its answer from the station in service; see :meth:`again_on`."""
        return await self.again_on(self._lane.here, deadline)

    async def again_on(self, station: Station, deadline: float) -> T:
        """Return its answer: the one still owed by the page it was sent to, else of one more sending."""
        if self._station is station and station.channel.is_pending(self._id):
            station.channel.again(self._id)
            return await self._checked()
        self._station.channel.abandon(self._id)
        await self._prepare(station, deadline)
        self._station = station
        self._id = self._send(station, deadline, hold=False)
        return await self._checked()

    def _blame_lane(self, error: ModelError, station: Station, *, known: bool) -> None:
        """Raise DamagedLaneError in place of ``error`` where the page, not the model, is to blame.

        ``known`` says that the page has done the same before.
        """
        if (self.suspect or known) and isinstance(error.__cause__, RemoteError):
            damage = Damage(Symptom.OPERATION_FAILED, str(error)[:300], asyncio.get_running_loop().time())
            raise DamagedLaneError(damage, str(station.lane)) from error

    async def _checked(self) -> T:
        answer = await self.answer()
        self.check(answer)
        return answer


class Run(Request["Reply"]):
    """One run of a model. ``redo`` is asked for its feeds before it is sent to a page once more."""

    def __init__(
        self,
        lane: LiveLane,
        model: LoadedModel,
        arrays: Arrays,
        outputs: Sequence[str] | None,
        deadline: float,
        *,
        redo: Redo | None = None,
    ) -> None:
        super().__init__(lane, deadline)
        self.model = model
        self._arrays = arrays
        self._outputs = outputs
        self._redo = redo

    @property
    def model_name(self) -> str:
        """Name of the model that runs."""
        return self.model.info.name

    def twin(self) -> Run:
        """Return the same run, not sent yet."""
        twin = Run(self._lane, self.model, self._arrays, self._outputs, self.deadline, redo=self._redo)
        twin.check = self.check
        return twin

    def _send(self, station: Station, deadline: float, *, hold: bool) -> int:
        model = station.find(self.model) or self.model
        return station.engine.send_run(model, self._arrays, self._outputs, deadline=deadline, hold=hold)

    async def _answer(self, station: Station, request_id: int) -> Reply:
        model = station.find(self.model) or self.model
        try:
            reply = await station.engine.answer(model, request_id)
        except ModelError as error:
            # A model that has run in this page fails in it for another reason than what it is fed.
            self._blame_lane(error, station, known=model.key in station.ran)
            raise
        station.ran.add(model.key)
        return reply

    async def _prepare(self, station: Station, deadline: float) -> None:
        if station.find(self.model) is None:
            self._lane.want(await station.load(self.model.info, self.model.build, deadline=deadline))
        if self._redo is not None:
            self._arrays = await self._redo(station, deadline)


class KernelRun(Request["Reply"]):
    """One run of the project's own kernels.

    All that it needs is sent with it, but for constants that the page keeps already: so any page of the lane can
    answer. ``repeats`` times more it is run with the clock beside it. Raises ConfigurationError for what the lane
    cannot run.
    """

    def __init__(self, lane: LiveLane, computation: Computation, deadline: float, *, repeats: int = 0) -> None:
        super().__init__(lane, deadline)
        self._computation = computation
        self._plan = computation.plan(lane.probe)
        self._repeats = repeats

    @property
    def model_name(self) -> str:
        """Name of the kernel, or of the kernels."""
        return self._plan.kernel

    def twin(self) -> KernelRun:
        """Return the same, not sent yet."""
        twin = KernelRun(self._lane, self._computation, self.deadline, repeats=self._repeats)
        twin.check = self.check
        return twin

    def _fitting(self, station: Station, computation: Computation | None = None) -> Plan:
        """Return the plan that the browser of ``station`` can run; raises LaneUnavailableError where there is none."""
        try:
            return (computation or self._computation).plan(station.probe or self._lane.probe)
        except ConfigurationError as error:
            raise LaneUnavailableError(f"{station.lane} cannot stand in: {error}") from error

    def _send(self, station: Station, deadline: float, *, hold: bool) -> int:
        state = self._computation.state
        if state is not None and station.kept.versions.get(state.key, 0) != state.version:
            raise LaneUnavailableError(f"{station.lane} has not been brought the state that kernels go on from")
        written = state if self._computation.writes else None
        plan = self._fitting(station)
        return send_kernel(station, plan, self._repeats, written=written, deadline=deadline, hold=hold)

    async def ready(self) -> None:
        """Bring the state that it goes on from to the station in service."""
        await self._prepare(self._lane.here, self.deadline)

    async def _prepare(self, station: Station, deadline: float) -> None:
        if (state := self._computation.state) is not None:
            await restore(state, station, lambda work: self._fitting(station, work), deadline)

    async def _answer(self, station: Station, request_id: int) -> Reply:
        reply = await kernel_answer(station, self._fitting(station), request_id)
        if (state := self._computation.state) is not None:
            station.kept.versions[state.key] = state.version + self._computation.writes
        for name, output in self._plan.wanted.items():
            got = reply.tensors.get(name)
            if got is None or got.dtype.name != output.dtype or got.shape != output.shape:
                raise ModelError(f"kernel {self._plan.kernel} on {station.lane}: the page sent no {name} of its form")
        return reply


class Ping(Request["Reply"]):
    """No work: that the lane answers it is all."""

    @property
    def model_name(self) -> str:
        """No model."""
        return ""

    def twin(self) -> Ping:
        """Return the same, not sent yet."""
        return Ping(self._lane, self.deadline)

    def _send(self, station: Station, deadline: float, *, hold: bool) -> int:
        return station.channel.send("ping", deadline=deadline, hold=hold)

    async def _answer(self, station: Station, request_id: int) -> Reply:
        return await station.channel.answer(request_id)


class Load(Request["LoadedModel"]):
    """One load of a model; from then on the lane must hold it."""

    def __init__(self, lane: LiveLane, info: ModelInfo, build: OrtBuild, deadline: float) -> None:
        super().__init__(lane, deadline)
        self._info = info
        self._build = build

    @property
    def model_name(self) -> str:
        """Name of the model that is loaded."""
        return self._info.name

    def twin(self) -> Load:
        """Return the same load, not sent yet."""
        return Load(self._lane, self._info, self._build, self.deadline)

    def present(self) -> LoadedModel | None:
        """Return the model where the page in service holds it already."""
        return self._lane.here.find_info(self._info, self._build)

    def _send(self, station: Station, deadline: float, *, hold: bool) -> int:
        return station.send_load(self._info, self._build, deadline=deadline, hold=hold)

    async def _answer(self, station: Station, request_id: int) -> LoadedModel:
        try:
            loaded = await station.answer_load(self._info, self._build, request_id)
        except ModelError as error:
            # A model that this page has loaded before fails to load in it for another reason than what it is.
            self._blame_lane(error, station, known=station.key(self._info, self._build) in station.once)
            raise
        self._lane.want(loaded)
        return loaded

    async def again_on(self, station: Station, deadline: float) -> LoadedModel:
        """Return the model; where this page has it by now, at once."""
        if (here := station.loaded.get(station.key(self._info, self._build))) is not None:
            self._lane.want(here)
            return here
        return await super().again_on(station, deadline)
