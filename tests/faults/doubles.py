"""A lane for injectors that breaks nothing and notes what was asked of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from pytest_webaccel.errors import BridgeError, BrowserError, WebAccelError
from pytest_webaccel.terms import Backend, Browser, Damage, Evidence, Lane, ProbeResult, Symptom

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from pytest_webaccel.bridge.toxics import Link, Toxic
    from pytest_webaccel.browsers.driver import Driver


def probe(
    backend: Backend = Backend.WEBGPU, *, features: tuple[str, ...] = (), browser: Browser = Browser.CHROMIUM
) -> ProbeResult:
    return ProbeResult(
        Lane(browser, backend), works=True, evidence=Evidence.SOFTWARE, version="153.0", features=features
    )


def damage(symptom: Symptom) -> Damage:
    return Damage(symptom, "seen", 1.0)


class DoubleDriver:
    def __init__(self, done: list[str], name: str = "", *, pid: int | None = 7) -> None:
        self.done, self.name, self.pid = done, name, pid
        self.error: WebAccelError | None = None

    def _note(self, what: str) -> None:
        if self.error is not None:
            raise self.error
        self.done.append(f"{what} {self.name}".strip())

    def kill(self) -> None:
        self._note("kill")

    def crash_page(self) -> None:
        self._note("crash_page")

    def resume_page(self) -> None:
        self._note("resume_page")

    async def stop_page(self, *, deadline: float) -> None:
        self._note("stop_page")

    async def reload(self, *, deadline: float) -> None:
        self._note("reload")

    async def crash_gpu(self, *, deadline: float) -> None:
        self._note("crash_gpu")

    async def page_processes(self, *, deadline: float) -> list[int]:
        return []

    async def gpu_process(self, *, deadline: float) -> int | None:
        return None


class DoubleLink:
    def __init__(self, done: list[str]) -> None:
        self.done = done
        self.toxics: list[Toxic] = []

    def add(self, toxic: Toxic) -> None:
        self.toxics.append(toxic)

    def remove(self, name: str) -> None:
        self.toxics = [toxic for toxic in self.toxics if toxic.name != name]

    def clear(self) -> None:
        self.done.append("link.clear")

    def stall(self) -> None:
        self.done.append("link.stall")

    def corrupt(self) -> None:
        self.done.append("link.corrupt")

    def truncate(self, *, after_bytes: int) -> None:
        self.done.append("link.truncate")


@dataclass
class DoubleTarget:
    """``seen`` is the damage that detection saw, ``trips`` the milliseconds of each word (None: silence)."""

    probe: ProbeResult = field(default_factory=probe)
    connected: bool = True
    seen: list[Damage] = field(default_factory=list)
    trips: list[float | None] = field(default_factory=list)
    harm_errors: dict[str, Exception] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    background: list[Coroutine[Any, Any, None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.double = DoubleDriver(self.done)
        self.neighbours = [DoubleDriver(self.done, "spare"), DoubleDriver(self.done, "other")]
        self.wire = DoubleLink(self.done)

    @property
    def driver(self) -> Driver:
        return cast("Driver", self.double)

    @property
    def link(self) -> Link:
        return cast("Link", self.wire)

    def abort_connection(self) -> None:
        if not self.connected:
            raise BridgeError("no page is connected")
        self.done.append("abort")

    async def harm(self, kind: str, arguments: Mapping[str, Any] | None = None, *, deadline: float) -> None:
        if kind in self.harm_errors:
            raise self.harm_errors[kind]
        if kind == "speak":
            await self.round_trip(deadline=deadline)
        else:
            self.done.append(f"harm {kind}")

    def post_harm(self, kind: str, arguments: Mapping[str, Any] | None = None) -> None:
        self.done.append(f"post {kind}")

    async def round_trip(self, *, deadline: float) -> float:
        taken = self.trips.pop(0) if len(self.trips) > 1 else self.trips[0]
        await asyncio.sleep(1e6 if taken is None else taken / 1000)
        return taken or 0.0

    def others(self) -> Sequence[Driver]:
        return [cast("Driver", driver) for driver in self.neighbours]

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        self.background.append(work)

    async def roll_back_later(self) -> None:
        for work in self.background:
            work.close()

    async def damage(self, symptoms: frozenset[Symptom], *, deadline: float) -> Damage:
        for one in self.seen:
            if one.symptom in symptoms:
                return one
        await asyncio.Event().wait()  # a target that forgets its deadline
        raise AssertionError


def broken_driver(target: DoubleTarget, words: str) -> DoubleTarget:
    target.double.error = BrowserError(words)
    return target
