from __future__ import annotations

import asyncio
import dataclasses
import random
import subprocess
import sys
from typing import Any

import pytest

from pytest_webaccel.errors import DamagedLaneError, FaultError, LaneUnavailableError, RemoteError
from pytest_webaccel.faults import INJECTORS, ComponentTimeout, Hang, Memory, OutOfMemory, Part, PartialResult
from pytest_webaccel.faults.connection_stalled import ConnectionStalled
from pytest_webaccel.faults.device_lost import WEBGPU_OUTLIVES_GPU_PROCESS, WEBNN_LOST_WITH_GPU_PROCESS
from pytest_webaccel.faults.network import NetworkBandwidth, NetworkJitter, NetworkLatency
from pytest_webaccel.terms import Backend, Browser, Fault, FaultPoint, Lane, Symptom
from pytest_webaccel.testing import VirtualLoop
from tests.faults.doubles import DoubleTarget, broken_driver, damage, probe


def run(work: Any) -> Any:
    """Run ``work`` on a virtual clock: waits cost nothing."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


#: Faults whose injector dies with its own process, or is measured rather than noted.
BLOWS = [fault for fault in Fault if fault is not Fault.WORKER_CRASH and not fault.startswith("network_")]

DONE = {
    Fault.CONNECTION_LOST: ["abort"],
    Fault.CONNECTION_STALLED: ["link.stall"],
    Fault.PAGE_CRASH: ["crash_page"],
    Fault.PAGE_RELOAD: ["reload"],
    Fault.BROWSER_CRASH: ["kill"],
    Fault.DEVICE_LOST: ["crash_gpu"],
    Fault.DEVICE_DESTROYED: ["harm device_destroyed"],
    Fault.COMPONENT_TIMEOUT: ["stop_page"],
    Fault.COMPONENT_ERROR: ["harm component_error"],
    Fault.OUT_OF_MEMORY: ["harm heap"],
    Fault.PARTIAL_RESULT: ["link.corrupt"],
    Fault.MULTI_BROWSER: ["kill", "kill spare", "kill other"],
    Fault.CASCADE: ["crash_gpu", "crash_page", "kill"],
    Fault.STAGGERED: ["abort"],
}

#: What must be taken away again.
UNDONE = {
    Fault.CONNECTION_STALLED: ["link.clear"],
    Fault.PARTIAL_RESULT: ["link.clear"],
    Fault.COMPONENT_TIMEOUT: ["resume_page"],
}

SEEN = {
    Fault.CONNECTION_LOST: Symptom.SOCKET_CLOSED,
    Fault.CONNECTION_STALLED: Symptom.HEARTBEAT_MISSED,
    Fault.PAGE_CRASH: Symptom.PAGE_CRASHED,
    Fault.PAGE_RELOAD: Symptom.PAGE_REPLACED,
    Fault.BROWSER_CRASH: Symptom.BROWSER_EXITED,
    Fault.DEVICE_LOST: Symptom.DEVICE_LOST,
    Fault.DEVICE_DESTROYED: Symptom.DEVICE_LOST,
    Fault.COMPONENT_TIMEOUT: Symptom.DEADLINE_PASSED,
    Fault.OUT_OF_MEMORY: Symptom.PAGE_CRASHED,
    Fault.MULTI_BROWSER: Symptom.BROWSER_EXITED,
    Fault.CASCADE: Symptom.BROWSER_EXITED,
    Fault.STAGGERED: Symptom.SOCKET_CLOSED,
}


def target_of(fault: Fault, **more: Any) -> DoubleTarget:
    browser = Browser.FAKE if fault is Fault.OUT_OF_MEMORY else Browser.CHROMIUM  # no process whose memory is limited
    return DoubleTarget(probe(browser=browser), trips=[1.0], **more)


def test_every_fault_has_an_injector_under_its_own_name():
    assert {fault: injector.fault for fault, injector in INJECTORS.items()} == {fault: fault for fault in Fault}


@pytest.mark.parametrize("fault", BLOWS)
def test_cause_does_the_one_thing_that_the_fault_is(fault):
    target = target_of(fault, seen=[damage(symptom) for symptom in Symptom])

    async def scenario():
        await INJECTORS[fault].cause(target, deadline=3.0)
        await target.roll_back_later()

    run(scenario())
    assert target.done == DONE[fault]


@pytest.mark.parametrize("fault", Fault)
def test_roll_back_takes_away_what_was_left_and_does_no_harm(fault):
    target = target_of(fault)
    run(INJECTORS[fault].roll_back(target, deadline=3.0))
    assert target.done == UNDONE.get(fault, [])


@pytest.mark.parametrize("fault", UNDONE)
def test_roll_back_of_what_went_with_its_browser_is_no_error(fault, monkeypatch):
    target = target_of(fault)

    def gone(self: object) -> None:
        raise LaneUnavailableError("lane chromium:webgpu is not started")

    for name in ("link", "driver"):
        monkeypatch.setattr(DoubleTarget, name, property(gone))
    run(INJECTORS[fault].roll_back(target, deadline=3.0))


@pytest.mark.parametrize(("fault", "symptom"), SEEN.items())
def test_observe_returns_the_damage_that_the_fault_must_do(fault, symptom):
    real = damage(symptom)
    target = target_of(fault, seen=[damage(Symptom.RESULT_DAMAGED), real])
    assert run(INJECTORS[fault].observe(target, deadline=3.0)) is real


@pytest.mark.parametrize("fault", SEEN)
def test_a_fault_that_did_no_harm_is_an_error(fault):
    with pytest.raises(FaultError, match=r"fault \w+ was caused but did no harm"):
        run(INJECTORS[fault].observe(target_of(fault), deadline=3.0))


def test_a_killed_browser_is_not_observed_by_its_closed_socket_alone():
    target = DoubleTarget(seen=[damage(Symptom.SOCKET_CLOSED)])
    with pytest.raises(FaultError, match="no browser_exited was seen"):
        run(INJECTORS[Fault.BROWSER_CRASH].observe(target, deadline=3.0))


NOWHERE = "has no meaning"


@pytest.mark.parametrize(
    ("injector", "lane", "reason"),
    [
        (INJECTORS[Fault.DEVICE_LOST], probe(Backend.WEBGPU), None),
        (INJECTORS[Fault.DEVICE_LOST], probe(Backend.CPU), "no GPU device"),
        (INJECTORS[Fault.DEVICE_LOST], probe(Backend.WEBNN), "outside the GPU process in this build (chromium 153.0)"),
        (INJECTORS[Fault.DEVICE_LOST], probe(Backend.WEBNN, features=("x", WEBNN_LOST_WITH_GPU_PROCESS)), None),
        (INJECTORS[Fault.DEVICE_LOST], probe(features=(WEBGPU_OUTLIVES_GPU_PROCESS,)), "no GPU process serves"),
        (INJECTORS[Fault.DEVICE_DESTROYED], probe(Backend.CPU), "no device"),
        (INJECTORS[Fault.DEVICE_DESTROYED], probe(Backend.WEBNN), None),
        (ComponentTimeout(Hang.GPU_LOOP), probe(Backend.WEBNN), "the backend webnn runs none"),
        (
            ComponentTimeout(Hang.GPU_LOOP),
            dataclasses.replace(probe(Backend.WEBGPU), lane=Lane(Browser.DENO, Backend.WEBGPU)),
            "a page that hangs",
        ),
        (ComponentTimeout(Hang.PAGE_LOOP), probe(Backend.CPU), None),
        (OutOfMemory(Memory.GPU), probe(Backend.CPU), "takes no GPU memory"),
        (OutOfMemory(Memory.GPU), probe(features=(WEBGPU_OUTLIVES_GPU_PROCESS,)), "the whole browser would die"),
        *(
            (INJECTORS[fault], probe(backend), None)
            for fault in Fault
            if fault not in {Fault.DEVICE_LOST, Fault.DEVICE_DESTROYED, Fault.WORKER_CRASH, Fault.OUT_OF_MEMORY}
            for backend in Backend
        ),
    ],
)
def test_meaning_depends_on_the_lane(injector, lane, reason):
    found = injector.meaning(lane)
    assert (found is None) == (reason is None)
    assert (reason or "") in (found or "")


def test_memory_is_never_exhausted_where_it_cannot_be_limited(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert "only Linux" in (OutOfMemory().meaning(probe()) or "")
    assert OutOfMemory().meaning(probe(browser=Browser.FAKE)) is None


@pytest.mark.parametrize("worker", ["gw0", ""])
def test_a_worker_crash_means_something_only_where_the_worker_is_replaced(worker, monkeypatch):
    monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
    reason = INJECTORS[Fault.WORKER_CRASH].meaning(probe())
    assert (reason is None) == bool(worker)


def test_a_fault_without_meaning_is_refused_before_anything_breaks():
    target = DoubleTarget(probe=probe(Backend.CPU))
    with pytest.raises(FaultError, match="chromium:cpu: fault device_lost has no meaning here"):
        run(INJECTORS[Fault.DEVICE_LOST].cause(target, deadline=1.0))
    assert target.done == []


def without_process() -> DoubleTarget:
    target = DoubleTarget()
    target.double.pid = None
    return target


@pytest.mark.parametrize(
    ("fault", "target", "why"),
    [
        (Fault.CONNECTION_LOST, DoubleTarget(connected=False), "no page is connected"),
        (Fault.BROWSER_CRASH, without_process(), "the browser is not running"),
        (Fault.MULTI_BROWSER, without_process(), "the lane's browser is not running"),
        (Fault.DEVICE_LOST, broken_driver(DoubleTarget(), "no GPU process"), "no GPU process"),
        (Fault.PAGE_CRASH, broken_driver(DoubleTarget(), "shows no page"), "shows no page"),
        (Fault.OUT_OF_MEMORY, DoubleTarget(), "no process for its page"),
        (
            Fault.COMPONENT_ERROR,
            DoubleTarget(harm_errors={"component_error": RemoteError("usage", "no model is loaded")}),
            "no model is loaded",
        ),
        (Fault.DEVICE_DESTROYED, DoubleTarget(harm_errors={"device_destroyed": TimeoutError()}), "more than 1 s"),
        (
            Fault.DEVICE_DESTROYED,
            DoubleTarget(harm_errors={"device_destroyed": DamagedLaneError(damage(Symptom.PAGE_CRASHED))}),
            "page_crashed",
        ),
    ],
)
def test_a_fault_that_cannot_be_caused_says_why(fault, target, why):
    with pytest.raises(FaultError, match=f"{fault} cannot be caused: .*{why}"):
        run(INJECTORS[fault].cause(target, deadline=1.0))
    assert target.done == []


def test_damage_that_overtakes_the_word_that_it_is_done_is_what_was_wanted():
    lost = DamagedLaneError(damage(Symptom.DEVICE_LOST))
    run(INJECTORS[Fault.DEVICE_DESTROYED].cause(DoubleTarget(harm_errors={"device_destroyed": lost}), deadline=1.0))


# -- silence ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "injector", [ConnectionStalled(), ComponentTimeout(Hang.STOPPED), ComponentTimeout(Hang.PAGE_LOOP)]
)
def test_a_page_that_leaves_a_word_unanswered_is_seen(injector):
    seen = run(injector.observe(DoubleTarget(trips=[1.0, 1.0, None]), deadline=15.0))
    assert seen.symptom is Symptom.HEARTBEAT_MISSED
    assert "unanswered for 1 s" in seen.detail


def test_a_gpu_that_hangs_is_seen_though_the_page_answers():
    hung = RemoteError("device", "the GPU left its work undone for 1000 ms")
    target = DoubleTarget(trips=[1.0], harm_errors={"await_device": hung})
    seen = run(ComponentTimeout(Hang.GPU_LOOP).observe(target, deadline=15.0))
    assert (seen.symptom, seen.detail) == (Symptom.DEADLINE_PASSED, str(hung))


def test_a_gpu_that_answers_was_not_harmed():
    with pytest.raises(FaultError, match="did no harm"):
        run(ComponentTimeout(Hang.GPU_LOOP).observe(DoubleTarget(trips=[1.0]), deadline=15.0))


# -- slow networks -----------------------------------------------------------------------------


@pytest.mark.parametrize("injector", [NetworkLatency(), NetworkJitter(), NetworkBandwidth()])
def test_a_slow_network_is_seen_by_measuring_it_and_its_toxics_are_taken_away(injector):
    target = DoubleTarget(trips=[3.0, 1.0, 450.0])

    async def scenario():
        await injector.cause(target, deadline=5.0)
        assert {str(toxic.stream) for toxic in target.wire.toxics} == {"upstream", "downstream"}
        seen = await injector.observe(target, deadline=5.0)
        await injector.roll_back(target, deadline=5.0)
        return seen

    seen = run(scenario())
    assert seen.symptom is Symptom.CONNECTION_SLOW
    assert "takes 450 ms" in seen.detail
    assert target.wire.toxics == []
    assert injector.degrades


def test_a_network_that_is_not_slow_was_not_harmed():
    with pytest.raises(FaultError, match="no connection_slow was seen"):
        run(NetworkLatency().observe(DoubleTarget(trips=[2.0]), deadline=5.0))


# -- what is drawn -----------------------------------------------------------------------------


def test_what_is_left_open_is_drawn_from_what_means_something_on_the_lane():
    def kinds(injector: Any, lane: Any, of: str) -> set[Any]:
        return {getattr(injector.drawn(random.Random(seed), lane), of) for seed in range(40)}

    gpu, cpu = probe(Backend.WEBGPU), probe(Backend.CPU)
    assert kinds(ComponentTimeout(), gpu, "kind") == set(Hang)
    assert kinds(ComponentTimeout(), cpu, "kind") == {Hang.STOPPED, Hang.PAGE_LOOP}
    assert kinds(OutOfMemory(), gpu, "memory") == set(Memory)
    assert kinds(OutOfMemory(), cpu, "memory") == {Memory.HEAP}
    assert kinds(PartialResult(), cpu, "part") == set(Part)


def test_what_was_named_is_not_drawn():
    chance = random.Random(0)
    for kind in Hang:
        assert ComponentTimeout(kind).drawn(chance, probe()).kind is kind  # type: ignore[attr-defined]
    for memory in Memory:
        assert OutOfMemory(memory).drawn(chance, probe()).memory is memory  # type: ignore[attr-defined]
    for part in Part:
        assert PartialResult(part).drawn(chance, probe()).part is part  # type: ignore[attr-defined]


@pytest.mark.parametrize(("part", "done"), [(Part.CORRUPTED, "link.corrupt"), (Part.TRUNCATED, "link.truncate")])
def test_an_answer_is_corrupted_or_cut_short(part, done):
    target = DoubleTarget()
    run(PartialResult(part).cause(target, deadline=1.0))
    assert target.done == [done]


@pytest.mark.parametrize(
    ("kind", "done"),
    [(Hang.STOPPED, "stop_page"), (Hang.PAGE_LOOP, "post page_loop"), (Hang.GPU_LOOP, "harm gpu_loop")],
)
def test_each_kind_of_hang_is_caused_as_its_name_says(kind, done):
    target = DoubleTarget()
    run(ComponentTimeout(kind).cause(target, deadline=1.0))
    assert target.done == [done]


# -- memory --------------------------------------------------------------------------------------


def test_memory_that_is_refused_is_the_damage_and_is_given_back():
    refused = RemoteError("memory", "GPUOutOfMemoryError after 64 MiB")
    target = DoubleTarget(probe(browser=Browser.FAKE), harm_errors={"gpu_memory": refused})
    one = OutOfMemory(Memory.GPU)

    async def scenario():
        await one.cause(target, deadline=1.0)
        seen = await one.observe(target, deadline=1.0)
        await one.roll_back(target, deadline=1.0)
        return seen

    assert run(scenario()).symptom is Symptom.MEMORY_EXHAUSTED
    assert target.done == ["harm free"]
    assert one.degrades
    assert not OutOfMemory(Memory.HEAP).degrades


def test_an_error_that_is_not_of_memory_is_no_full_memory():
    target = DoubleTarget(probe(browser=Browser.FAKE), harm_errors={"heap": RemoteError("usage", "no harm heap")})
    with pytest.raises(FaultError, match="out_of_memory cannot be caused: no harm heap"):
        run(OutOfMemory(Memory.HEAP).cause(target, deadline=1.0))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits another process's memory")
def test_memory_is_limited_only_until_the_damage_is_seen(monkeypatch):
    import resource

    limits = []
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        before = resource.prlimit(child.pid, resource.RLIMIT_DATA)
        target = DoubleTarget(seen=[damage(Symptom.PAGE_CRASHED)])

        async def page_processes(*, deadline: float) -> list[int]:
            return [child.pid]

        async def harm(kind: str, arguments: Any = None, *, deadline: float) -> None:
            limits.append(resource.prlimit(child.pid, resource.RLIMIT_DATA))
            raise DamagedLaneError(damage(Symptom.SOCKET_CLOSED))

        monkeypatch.setattr(target.double, "page_processes", page_processes)
        monkeypatch.setattr(target, "harm", harm)

        async def scenario():
            one = OutOfMemory(Memory.HEAP, spare_bytes=64 << 20)
            await one.cause(target, deadline=5.0)
            return await one.observe(target, deadline=5.0)

        assert run(scenario()).symptom is Symptom.PAGE_CRASHED
        assert 64 << 20 <= limits[0][0] < 64 << 24
        assert limits[0][1] == before[1]
        assert resource.prlimit(child.pid, resource.RLIMIT_DATA) == before
        child.communicate(b"\n", timeout=10)


# -- points ----------------------------------------------------------------------------------------


def test_every_fault_can_strike_before_and_during_a_request():
    for injector in INJECTORS.values():
        assert injector.misfit(FaultPoint.BEFORE) is None
        assert injector.misfit(FaultPoint.MID_REQUEST) is None


@pytest.mark.parametrize(
    ("fault", "point", "reason"),
    [
        (Fault.PARTIAL_RESULT, FaultPoint.AFTER, "arrived whole"),
        (Fault.COMPONENT_ERROR, FaultPoint.MID_LOAD, "no session"),
        (Fault.NETWORK_JITTER, FaultPoint.DURING_RECOVERY, "breaks nothing"),
        (Fault.WORKER_CRASH, FaultPoint.DURING_RECOVERY, "ends the worker"),
    ],
)
def test_a_point_at_which_a_fault_meets_no_request_has_its_reason(fault, point, reason):
    assert reason in (INJECTORS[fault].misfit(point) or "")


@pytest.mark.parametrize("fault", [Fault.PAGE_CRASH, Fault.PAGE_RELOAD, Fault.OUT_OF_MEMORY])
def test_what_strikes_a_page_alone_has_no_meaning_on_deno(fault):
    reason = INJECTORS[fault].meaning(probe(browser=Browser.DENO))
    assert reason is not None
    assert "Deno" in reason
    drawn = INJECTORS[Fault.CASCADE].drawn(random.Random(0), probe(browser=Browser.DENO))
    assert drawn.meaning(probe(browser=Browser.DENO)) is None
