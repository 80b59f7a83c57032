from __future__ import annotations

import asyncio
import threading

import pytest

from pytest_webaccel.errors import WebAccelError
from pytest_webaccel.pool import runtime
from pytest_webaccel.pool.runtime import LoopThread


@pytest.fixture
def thread():
    loop = LoopThread()
    yield loop
    loop.stop()


def test_work_runs_in_the_loop_and_its_result_comes_back(thread):
    async def work():
        return threading.current_thread().name

    assert thread.call(work(), deadline=5) == "webaccel-loop"


@pytest.mark.parametrize("error", [ValueError("inside"), TimeoutError("inside")])
def test_an_error_of_the_work_comes_out_as_it_is(thread, error):
    async def work():
        raise error

    with pytest.raises(type(error), match="inside"):
        thread.call(work(), deadline=5)


def test_work_that_ignores_its_deadline_is_ended_by_the_outer_one(thread, monkeypatch):
    monkeypatch.setattr(runtime, "GRACE_S", 0.05)
    ended = threading.Event()

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(WebAccelError, match="report this as a defect"):
        thread.call(work(), deadline=0.0)
    assert ended.wait(5)


def test_an_interrupt_while_waiting_cancels_the_work_and_awaits_its_clean_up(thread, monkeypatch):
    begun, cleaned = threading.Event(), threading.Event()

    async def work():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    ordinary = asyncio.run_coroutine_threadsafe

    calls = []

    def interrupted(coroutine, loop):
        calls.append(coroutine)
        future = ordinary(coroutine, loop)
        if len(calls) == 1:

            def result(timeout=None):
                assert begun.wait(5)
                raise KeyboardInterrupt

            monkeypatch.setattr(future, "result", result)
        return future

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        thread.call(work(), deadline=30)
    assert cleaned.is_set(), "the call returned before the clean-up was done"


def test_stopping_cancels_what_still_runs_and_may_be_asked_twice():
    loop = LoopThread()
    cleaned = threading.Event()

    async def forever():
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    async def begin():
        tasks.append(asyncio.ensure_future(forever()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    loop.call(begin(), deadline=5)
    loop.stop()
    loop.stop()
    assert cleaned.is_set()
    assert tasks[0].cancelled()
    assert not loop._thread.is_alive()
