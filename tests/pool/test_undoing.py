"""Roll-back really undoes: what failed half-way leaves nothing in the page; what cannot be undone costs the page."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from pytest_webaccel.bridge.channel import LARGE_BYTES
from pytest_webaccel.errors import ModelError
from pytest_webaccel.pool.undoing import undo_holding, undo_load
from pytest_webaccel.terms import Symptom
from tests import models
from tests.pool.conftest import live

PAGE_EMPTY = {"models": [], "held": {"count": 0, "bytes": 0}}


async def contents(lease):
    found = await lease.lane.here.holding(deadline=5)
    return {name: found[name] for name in PAGE_EMPTY}


async def until_loading(lease):
    async with asyncio.timeout(30):
        while not (await contents(lease))["models"]:  # noqa: ASYNC110 - the page says so only when it is asked
            await asyncio.sleep(0.001)


class FailedError(Exception):
    pass


async def failing(lease, kind, prepare, *work):
    """Begin a change, do ``work``, and fail."""
    async with lease.transaction(kind) as change:
        prepare(change)
        for coroutine in work:
            await coroutine
        raise FailedError


def test_a_load_cut_short_leaves_no_model_behind():
    async def body(home):
        async with home.lease() as lease:
            load = asyncio.ensure_future(lease.load(models.scaled_sum(), None, deadline=30))
            await until_loading(lease)
            load.cancel()
            with pytest.raises(asyncio.CancelledError):
                await load
            await asyncio.sleep(5)  # virtual: time for the load to come to its end all the same
            assert await contents(lease) == PAGE_EMPTY
            assert home.transactions == [("load", "started"), ("load", "rolled_back")]
            assert home.journal.statistics().undone == 1

    live(body)


def test_a_tensor_that_travels_as_a_file_is_held_like_any_other():
    async def body(home):
        large = np.ones(LARGE_BYTES // 8 + 1)
        async with home.lease() as lease:
            await lease.load(models.scaled_sum(), None, deadline=30)
            await lease.lane.here.hold("large", large, deadline=30)
            assert (await contents(lease))["held"] == {"count": 1, "bytes": large.nbytes}

    live(body)


def test_a_model_that_the_engine_refuses_leaves_nothing_behind():
    async def body(home):
        async with home.lease() as lease:
            with pytest.raises(ModelError):
                await lease.load(models.unknown_operator(), None, deadline=30)
            assert await contents(lease) == PAGE_EMPTY

    live(body)


def test_a_model_that_was_there_before_stays():
    async def body(home):
        async with home.lease() as lease:
            first = await lease.load(models.scaled_sum(), None, deadline=30)
            with pytest.raises(FailedError):
                await failing(lease, "load", lambda change: undo_load(change, lease.lane, first.info, first.build))
            assert (await contents(lease))["models"] == [first.key]

    live(body)


def test_tensors_are_held_fed_and_freed():
    async def body(home):
        async with home.lease() as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            here = lease.lane.here
            await here.hold("mine", np.array([1, 2], np.float32), deadline=5)
            assert (await contents(lease))["held"] == {"count": 1, "bytes": 8}
            fed = {"y": np.array([3, 4], np.float32)}
            held, keep = {"x": "mine"}, {"s": "sum"}
            request = here.engine.send_run(model, fed, ["z"], deadline=5, held=held, keep=keep)
            reply = await here.engine.answer(model, request)
            assert {name: array.tolist() for name, array in reply.tensors.items()} == {"z": [8.0, 12.0]}
            request = here.engine.send_run(model, {}, ["z"], deadline=5, held={"x": "sum", "y": "sum"})
            assert (await here.engine.answer(model, request)).tensors["z"].tolist() == [16.0, 24.0]
            await here.free(["mine", "sum", "never was"], deadline=5)
            assert (await contents(lease))["held"] == PAGE_EMPTY["held"]

    live(body)


def test_tensors_of_a_change_that_fails_are_freed():
    async def body(home):
        async with home.lease() as lease:
            hold = lease.lane.here.hold("mine", np.ones(4), deadline=5)
            with pytest.raises(FailedError):
                await failing(lease, "tensor", lambda change: undo_holding(change, lease.lane, ["mine"]), hold)
            assert await contents(lease) == PAGE_EMPTY

    live(body)


def test_what_cannot_be_undone_is_told_and_costs_the_page():
    async def body(home):
        async with home.lease() as lease:
            await lease.lane.here.hold("left behind", np.ones(4), deadline=5)
            instances = lease.lane.here.channel.session.instances
            with pytest.raises(FailedError) as told:
                await failing(lease, "tensor", lambda change: change.undo("it", lambda: asyncio.sleep(60), deadline=1))
            assert ["could not be undone" in note for note in told.value.__notes__] == [True]
            assert home.journal.statistics().not_undone == 1
            assert await lease.end()
            assert lease.lane.here.channel.session.instances == instances + 1
            assert await contents(lease) == PAGE_EMPTY

    live(body)


def test_a_page_that_is_gone_needs_no_undoing():
    async def body(home):
        async with home.lease() as lease:
            await lease.lane.here.hold("mine", np.ones(4), deadline=5)
            lease.lane.here.driver.kill()
            await lease.lane.here.damage({Symptom.BROWSER_EXITED}, deadline=5)
            with pytest.raises(FailedError):
                await failing(lease, "tensor", lambda change: undo_holding(change, lease.lane, ["mine"]))
            assert home.journal.statistics().not_undone == 0

    live(body)
