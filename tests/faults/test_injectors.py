from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from pytest_webaccel.errors import BridgeError, BrowserError, FaultError
from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.faults.device_lost import WEBNN_LOST_WITH_GPU_PROCESS
from pytest_webaccel.terms import Backend, Browser, Damage, Evidence, Fault, Lane, ProbeResult, Symptom

if TYPE_CHECKING:
    from pytest_webaccel.browsers.driver import Driver


def probe(backend: Backend = Backend.WEBGPU, *, features: tuple[str, ...] = ()) -> ProbeResult:
    lane = Lane(Browser.CHROMIUM, backend)
    return ProbeResult(lane, works=True, evidence=Evidence.SOFTWARE, version="153.0", features=features)


@dataclass
class FakeDriver:
    pid: int | None = 7
    done: list[str] = field(default_factory=list)
    gpu_error: BrowserError | None = None

    def kill(self) -> None:
        self.done.append("kill")

    async def crash_gpu(self, *, deadline: float) -> None:
        if self.gpu_error:
            raise self.gpu_error
        self.done.append(f"crash_gpu within {deadline:g}")


@dataclass
class FakeTarget:
    probe: ProbeResult = field(default_factory=probe)
    fake: FakeDriver = field(default_factory=FakeDriver)
    connected: bool = True
    seen: list[Damage] = field(default_factory=list)

    @property
    def driver(self) -> Driver:
        return cast("Driver", self.fake)

    def abort_connection(self) -> None:
        if not self.connected:
            raise BridgeError("no page is connected")
        self.fake.done.append("abort")

    async def damage(self, symptoms: frozenset[Symptom], *, deadline: float) -> Damage:
        for one in self.seen:
            if one.symptom in symptoms:
                return one
        await asyncio.Event().wait()  # a target that forgets its deadline
        raise AssertionError


DONE = {
    Fault.CONNECTION_LOST: "abort",
    Fault.BROWSER_CRASH: "kill",
    Fault.DEVICE_LOST: "crash_gpu within 3",
}


def test_every_fault_has_an_injector_under_its_own_name():
    assert {fault: injector.fault for fault, injector in INJECTORS.items()} == {fault: fault for fault in Fault}


@pytest.mark.parametrize("fault", Fault)
def test_cause_does_the_one_thing_that_the_fault_is(fault):
    target = FakeTarget()
    asyncio.run(INJECTORS[fault].cause(target, deadline=3.0))
    assert target.fake.done == [DONE[fault]]


@pytest.mark.parametrize("fault", Fault)
def test_roll_back_does_no_further_harm(fault):
    target = FakeTarget()
    asyncio.run(INJECTORS[fault].roll_back(target, deadline=3.0))
    assert target.fake.done == []


@pytest.mark.parametrize(
    ("fault", "symptom"),
    [
        (Fault.CONNECTION_LOST, Symptom.SOCKET_CLOSED),
        (Fault.BROWSER_CRASH, Symptom.BROWSER_EXITED),
        (Fault.DEVICE_LOST, Symptom.DEVICE_LOST),
    ],
)
def test_observe_returns_the_damage_that_the_fault_must_do(fault, symptom):
    other = Damage(Symptom.HEARTBEAT_MISSED, "unrelated", 1.0)
    real = Damage(symptom, "real", 2.0)
    found = asyncio.run(INJECTORS[fault].observe(FakeTarget(seen=[other, real]), deadline=3.0))
    assert found is real


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_that_did_no_harm_is_an_error(fault):
    with pytest.raises(FaultError, match=rf"chromium:webgpu: fault {fault} was caused but did no harm"):
        asyncio.run(INJECTORS[fault].observe(FakeTarget(), deadline=0.01))


def test_a_killed_browser_is_not_observed_by_its_closed_socket_alone():
    target = FakeTarget(seen=[Damage(Symptom.SOCKET_CLOSED, "closed", 1.0)])
    with pytest.raises(FaultError, match="no browser_exited was seen"):
        asyncio.run(INJECTORS[Fault.BROWSER_CRASH].observe(target, deadline=0.01))


@pytest.mark.parametrize(
    ("fault", "lane", "reason"),
    [
        (Fault.DEVICE_LOST, probe(Backend.WEBGPU), None),
        (Fault.DEVICE_LOST, probe(Backend.CPU), "no GPU device"),
        (Fault.DEVICE_LOST, probe(Backend.WEBNN), "outside the GPU process in this build (chromium 153.0)"),
        (Fault.DEVICE_LOST, probe(Backend.WEBNN, features=("x", WEBNN_LOST_WITH_GPU_PROCESS)), None),
        *(
            (fault, probe(backend), None)
            for fault in (Fault.CONNECTION_LOST, Fault.BROWSER_CRASH)
            for backend in Backend
        ),
    ],
)
def test_meaning_depends_on_the_lane(fault, lane, reason):
    found = INJECTORS[fault].meaning(lane)
    assert (found is None) == (reason is None)
    assert (reason or "") in (found or "")


def test_a_fault_without_meaning_is_refused_before_anything_breaks():
    target = FakeTarget(probe=probe(Backend.CPU))
    with pytest.raises(FaultError, match="chromium:cpu: fault device_lost has no meaning here"):
        asyncio.run(INJECTORS[Fault.DEVICE_LOST].cause(target, deadline=1.0))
    assert target.fake.done == []


@pytest.mark.parametrize(
    ("fault", "target", "why"),
    [
        (Fault.CONNECTION_LOST, FakeTarget(connected=False), "no page is connected"),
        (Fault.BROWSER_CRASH, FakeTarget(fake=FakeDriver(pid=None)), "the browser is not running"),
        (Fault.DEVICE_LOST, FakeTarget(fake=FakeDriver(gpu_error=BrowserError("no GPU process"))), "no GPU process"),
    ],
)
def test_a_fault_that_cannot_be_caused_says_why(fault, target, why):
    with pytest.raises(FaultError, match=f"{fault} cannot be caused: .*{why}"):
        asyncio.run(INJECTORS[fault].cause(target, deadline=1.0))
    assert target.fake.done == []
