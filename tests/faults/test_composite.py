from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.errors import FaultError
from pytest_webaccel.faults import Pair
from pytest_webaccel.faults.browser_crash import BrowserCrash
from pytest_webaccel.faults.component_timeout import ComponentTimeout, Hang
from pytest_webaccel.faults.composite import Cascade, MultiBrowser, Staggered
from pytest_webaccel.faults.connection_lost import ConnectionLost
from pytest_webaccel.faults.connection_stalled import ConnectionStalled
from pytest_webaccel.faults.device_lost import DeviceLost
from pytest_webaccel.faults.network import NetworkLatency
from pytest_webaccel.faults.page_crash import PageCrash
from pytest_webaccel.faults.page_reload import PageReload
from pytest_webaccel.terms import Backend, Fault, FaultPoint, Symptom
from pytest_webaccel.testing import VirtualLoop
from tests.faults.doubles import DoubleTarget, broken_driver, damage, probe


def run(work):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


# -- cascade -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "first"), [(Backend.CPU, "abort"), (Backend.WEBGPU, "crash_gpu")])
def test_a_cascade_begins_with_the_device_where_there_is_one(backend, first):
    target = DoubleTarget(probe(backend), seen=[damage(symptom) for symptom in Symptom])
    injector = Cascade().drawn(random.Random(0), target.probe)
    run(injector.cause(target, deadline=3.0))
    assert target.done == [first, "crash_page", "kill"]
    assert run(injector.observe(target, deadline=3.0)).symptom is Symptom.BROWSER_EXITED


def test_a_cascade_stops_where_the_damage_of_one_part_is_not_seen():
    target = DoubleTarget(probe(Backend.CPU), seen=[damage(Symptom.SOCKET_CLOSED)])
    with pytest.raises(FaultError, match="cascade cannot be caused: it took more than 3 s"):
        run(Cascade().cause(target, deadline=3.0))
    assert target.done == ["abort", "crash_page"]


# -- several browsers ----------------------------------------------------------------------------


def test_every_browser_of_the_process_is_killed_at_once():
    target = DoubleTarget(seen=[damage(Symptom.BROWSER_EXITED)])
    run(MultiBrowser().cause(target, deadline=3.0))
    assert target.done == ["kill", "kill spare", "kill other"]


# -- staggered ------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 32), st.sampled_from(Backend))
def test_blows_and_their_moments_are_drawn_and_reproducible(seed, backend):
    lane = probe(backend)
    one, other = (Staggered().drawn(random.Random(seed), lane) for _ in range(2))
    assert isinstance(one, Staggered)
    assert isinstance(other, Staggered)
    assert [part.fault for part in one.parts] == [part.fault for part in other.parts]
    assert one.delays_ms == other.delays_ms
    assert len(one.parts) in {2, 3}
    assert all(20 <= delay <= 400 for delay in one.delays_ms)
    assert all(part.meaning(lane) is None for part in one.parts)


def test_later_blows_come_after_their_times_in_the_background():
    target = DoubleTarget(seen=[damage(Symptom.SOCKET_CLOSED)])
    injector = Staggered([ConnectionLost(), PageReload(), BrowserCrash()], [50.0, 200.0])

    async def scenario():
        clock = asyncio.get_running_loop().time
        begun = clock()
        await injector.cause(target, deadline=3.0)
        assert target.done == ["abort"]
        (work,) = target.background
        await work
        return clock() - begun

    assert run(scenario()) == pytest.approx(0.25, abs=0.05)
    assert target.done == ["abort", "reload", "kill"]


def test_a_later_blow_that_finds_nothing_to_hit_is_left_out_and_told():
    target = broken_driver(DoubleTarget(), "the browser is being replaced")
    injector = Staggered([ConnectionLost(), PageCrash(), ConnectionLost()], [20.0, 20.0])

    async def scenario():
        await injector.cause(target, deadline=3.0)
        await target.background[0]

    run(scenario())
    assert target.done == ["abort", "abort"]
    (told,) = injector.left_out
    assert "page_crash" in told
    assert "the browser is being replaced" in told


def test_blows_need_one_time_less_than_they_are():
    with pytest.raises(FaultError, match="3 blows have one delay less"):
        Staggered([ConnectionLost(), PageCrash(), BrowserCrash()], [20.0])


# -- pairs -----------------------------------------------------------------------------------------


def test_a_pair_is_caused_back_to_back_without_waiting():
    target = DoubleTarget(seen=[damage(Symptom.BROWSER_EXITED)])
    pair = Pair(PageCrash(), BrowserCrash())
    run(pair.cause(target, deadline=3.0))
    assert target.done == ["crash_page", "kill"]
    assert run(pair.observe(target, deadline=3.0)).symptom is Symptom.BROWSER_EXITED


def test_a_composite_means_something_where_all_its_parts_do():
    pair = Pair(ConnectionLost(), DeviceLost())
    assert pair.meaning(probe(Backend.WEBGPU)) is None
    assert "its part device_lost: WebAssembly" in (pair.meaning(probe(Backend.CPU)) or "")
    assert Pair(NetworkLatency(), ConnectionLost()).misfit(FaultPoint.AFTER)
    assert pair.misfit(FaultPoint.AFTER) is None


def test_parts_of_a_pair_are_drawn_too():
    pair = Pair(ComponentTimeout(), ConnectionLost(), Fault.STAGGERED)
    kinds = set()
    for seed in range(30):
        one = pair.drawn(random.Random(seed), probe(Backend.WEBGPU))
        assert isinstance(one, Pair)
        assert one.fault is Fault.STAGGERED
        assert isinstance(one.parts[0], ComponentTimeout)
        kinds.add(one.parts[0].kind)
    assert kinds == set(Hang)


def test_every_part_is_rolled_back_though_one_cannot_be(monkeypatch):
    target = DoubleTarget()

    async def failing(target: object, deadline: float) -> None:
        raise BrokenLinkError("the link broke")

    class BrokenLinkError(FaultError):
        pass

    first, second = ConnectionStalled(), ComponentTimeout(Hang.STOPPED)
    monkeypatch.setattr(second, "_undo", failing)
    with pytest.raises(BrokenLinkError):
        run(Pair(first, second).roll_back(target, deadline=1.0))
    assert target.done == ["link.clear"]
    monkeypatch.setattr(first, "_undo", failing)
    with pytest.raises(BrokenLinkError):
        run(Pair(first, BrowserCrash()).roll_back(target, deadline=1.0))
