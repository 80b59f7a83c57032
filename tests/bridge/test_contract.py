"""What every page must do, whichever browser it is in: each test runs on the fake and on Chromium."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from pytest_webaccel.bridge.channel import LARGE_BYTES
from pytest_webaccel.bridge.frames import DTYPES, unseal
from pytest_webaccel.engines.models import inspect_model
from pytest_webaccel.engines.onnx import OnnxEngine
from pytest_webaccel.errors import BridgeError, DamagedLaneError, ModelError, RemoteError
from pytest_webaccel.terms import Backend, OrtBuild, Symptom
from tests import models
from tests.bridge.conftest import seen
from tests.bridge.strategies import same

EXTREMES: dict[str, list[Any]] = {
    **{
        name: [np.iinfo(name).min, np.iinfo(name).max, 0, 1]
        for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    },
    **{
        name: [np.finfo(name).max, np.finfo(name).smallest_subnormal, -0.0, np.inf, -np.inf, np.nan]
        for name in ("float16", "float32", "float64")
    },
    "bool": [True, False, True, True],
}


#: How a request hears of a lost connection: as such, or as an answer that was cut short.
CUT_OFF = {Symptom.SOCKET_CLOSED, Symptom.RESULT_DAMAGED}


# -- tensors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_values_of_each_dtype_come_back_bit_by_bit(stage, dtype):
    async def body():
        async with stage.page() as channel:
            sent = {
                "row": np.array(EXTREMES[dtype], dtype),
                "zero_d": np.array(EXTREMES[dtype][0], dtype),
                "empty": np.zeros((0, 3), dtype),
                "matrix": np.array(EXTREMES[dtype][:4], dtype).reshape(2, 2),
                "foreign": np.array(EXTREMES[dtype], np.dtype(dtype).newbyteorder(">")),
            }
            reply = await channel.request("echo", tensors=sent, deadline=10)
            assert list(reply.tensors) == list(sent)
            for name, array in sent.items():
                assert same(array, reply.tensors[name]), name

    stage.run(body())


def test_strings_come_back_in_every_script(stage):
    async def body():
        async with stage.page() as channel:
            sent = {
                "words": np.array([["", "plain"], ["žluťoučký 機械 🦊", 'quote " \\ \n \0']], dtype=object),
                "one": np.array("alone", dtype=object),
                "none": np.zeros((0,), dtype=object),
            }
            reply = await channel.request("echo", tensors=sent, deadline=10)
            for name, array in sent.items():
                assert same(array, reply.tensors[name]), name

    stage.run(body())


def test_json_values_come_back(stage):
    value = {"text": "é🦊\u2028", "list": [1, 2.5, None, True], "deep": {"a": {"b": []}}}

    async def body():
        async with stage.page() as channel:
            assert (await channel.request("echo", {"value": value}, deadline=10)).value == value

    stage.run(body())


@pytest.mark.parametrize("offer", [True, False], ids=["by file handle", "by http"])
def test_large_tensors_go_in_as_files(stage, offer):
    async def body():
        async with stage.page(offer=offer) as channel:
            large = np.zeros(LARGE_BYTES // 4 + 1, np.float32)
            for _ in range(2):
                reply = await channel.request("sink", tensors={"a": large, "b": large}, deadline=30)
                assert reply.value == {"bytes": 2 * large.nbytes}
            assert channel.file("anything") is None
            assert not list(channel.handover.folder.iterdir()), "files of answered requests are removed"

    stage.run(body())


def test_large_tensors_come_out_in_chunks(stage):
    async def body():
        async with stage.page() as channel:
            size = 3 * (1 << 20) + 5
            reply = await channel.request("source", {"bytes": size}, deadline=30)
            assert reply.tensors["data"].shape == (size,)
            assert (reply.tensors["data"] == 7).all()

    stage.run(body())


def test_many_requests_at_once_are_each_answered_with_their_own(stage):
    async def body():
        async with stage.page() as channel:
            replies = await asyncio.gather(
                *(channel.request("echo", {"value": number}, deadline=20) for number in range(40))
            )
            assert [reply.value for reply in replies] == list(range(40))
            assert channel.session.pending == {}

    stage.run(body())


def test_what_cannot_cross_is_refused_before_anything_is_sent(stage):
    async def body():
        async with stage.page() as channel:
            before = dict(channel.statistics)
            with pytest.raises(BridgeError, match="complex64"):
                channel.send("echo", tensors={"x": np.zeros(1, np.complex64)}, deadline=5)
            for value in (float("nan"), object()):
                with pytest.raises(BridgeError, match="not JSON"):
                    channel.send("echo", {"value": value}, deadline=5)
            assert channel.statistics == before
            assert channel.session.pending == {}
            assert (await channel.request("echo", {"value": 1}, deadline=5)).value == 1

    stage.run(body())


# -- the connection -------------------------------------------------------------------------------


def test_a_held_request_waits_for_its_release(stage):
    async def body():
        async with stage.page() as channel:
            held = channel.send("echo", {"value": "held"}, deadline=20, hold=True)
            await channel.started(held, deadline=10)
            assert (await channel.request("echo", {"value": "other"}, deadline=10)).value == "other"
            assert channel.is_pending(held)
            channel.release(held)
            reply = await channel.answer(held)
            assert (reply.value, reply.executions) == ("held", 1)

    stage.run(body())


def test_a_connection_that_is_reset_comes_back_and_the_request_runs_once(stage):
    async def body():
        async with stage.page() as channel:
            held = channel.send("echo", {"value": 5}, tensors={"x": np.arange(9.0)}, deadline=30, hold=True)
            await channel.started(held, deadline=10)
            channel.abort()
            with pytest.raises(DamagedLaneError) as caught:
                await channel.answer(held)
            assert caught.value.damage.symptom is Symptom.SOCKET_CLOSED
            channel.release(held)
            await channel.wait_connected(deadline=10)
            reply = await channel.answer(held)
            assert (reply.value, reply.executions) == (5, 1)
            assert reply.tensors["x"].tolist() == list(range(9))
            assert (channel.session.resumes, channel.session.instances) == (1, 1)

    stage.run(body())


def test_a_request_that_was_done_while_nobody_listened_is_answered_and_not_run_again(stage):
    async def body():
        async with stage.page() as channel:
            for number in range(8):
                request = channel.send("source", {"bytes": 3 << 20}, deadline=30)
                waiting = asyncio.ensure_future(channel.answer(request))
                await asyncio.sleep(0.002 * number)
                channel.abort()
                try:
                    reply = await waiting
                except DamagedLaneError as error:
                    assert error.damage.symptom in CUT_OFF  # noqa: PT017 - it may also not be raised
                    await channel.wait_connected(deadline=10)
                    reply = await channel.answer(request)
                assert reply.executions == 1
                assert reply.tensors["data"].shape == (3 << 20,)
                while channel.session.resumes <= number:  # noqa: ASYNC110 - the state has no event
                    await asyncio.sleep(0.01)
            assert channel.session.pending == {}

    stage.run(body())


def test_a_cancelled_wait_abandons_the_request(stage):
    async def body():
        async with stage.page() as channel:
            held = channel.send("echo", {"value": 1}, deadline=20, hold=True)
            await channel.started(held, deadline=10)
            waiting = asyncio.ensure_future(channel.answer(held))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not channel.is_pending(held)
            channel.release(held)
            with pytest.raises(BridgeError, match="not pending"):
                await channel.answer(held)
            assert (await channel.request("echo", {"value": 2}, deadline=10)).value == 2

    stage.run(body())


def test_a_page_that_is_replaced_takes_its_pending_requests_with_it(stage):
    async def body():
        async with stage.page() as channel:
            held = channel.send("echo", deadline=60, hold=True)
            await channel.started(held, deadline=10)
            waiting = asyncio.ensure_future(channel.answer(held))
            await stage.driver.open(channel.url, deadline=20)
            with pytest.raises(DamagedLaneError) as first:
                await waiting
            assert first.value.damage.symptom is Symptom.SOCKET_CLOSED
            with pytest.raises(DamagedLaneError) as second:
                await channel.answer(held)
            assert second.value.damage.symptom is Symptom.PAGE_REPLACED
            assert not channel.is_pending(held)
            await channel.wait_connected(deadline=10, new_instance_since=1)
            assert channel.session.instances == 2
            assert (await channel.request("echo", {"value": 3}, deadline=10)).value == 3

    stage.run(body())


def test_a_page_that_falls_silent_is_noticed(stage, small_limits):
    async def body():
        async with stage.page(limits=small_limits) as channel:
            async with stage.stalled():
                await seen(channel, Symptom.HEARTBEAT_MISSED)
            assert channel.connected, "a stalled page closes nothing"
            assert (await channel.request("echo", {"value": 4}, deadline=30)).value == 4

    stage.run(body())


def test_a_page_that_lives_is_not_taken_for_silent(stage, small_limits):
    async def body():
        async with stage.page(limits=small_limits) as channel:
            beats = 0
            ordinary = channel.session.text

            def count(text, now):
                nonlocal beats
                beats += json.loads(unseal(text))["t"] == "beat"
                return ordinary(text, now)

            channel.session.text = count
            while beats < 5:  # noqa: ASYNC110 - the state has no event
                await asyncio.sleep(0.05)
            assert channel.damages == []

    stage.run(body())


# -- operations -----------------------------------------------------------------------------------


def test_an_unknown_operation_is_the_pages_error_and_harms_nothing(stage):
    async def body():
        async with stage.page() as channel:
            for op in ("nonsense", "toString", "__proto__"):
                with pytest.raises(RemoteError, match=op) as caught:
                    await channel.request(op, deadline=10)
                assert caught.value.kind == "usage"
            assert channel.damages == []

    stage.run(body())


def test_each_renewal_takes_a_new_device(stage):
    async def body():
        async with stage.page() as channel:
            before = (await channel.request("ping", deadline=10)).value
            after = (await channel.request("renew", deadline=30)).value
            assert after["generation"] == before["generation"] + 1
            assert before["lost"] is False

    stage.run(body())


def test_a_lost_device_is_reported_and_renewed(stage):
    async def body():
        async with stage.page(Backend.WEBGPU) as channel:
            held = channel.send("echo", {"value": 6}, deadline=60, hold=True)
            await channel.started(held, deadline=10)
            waiting = asyncio.ensure_future(channel.answer(held))
            await stage.driver.crash_gpu(deadline=20)
            with pytest.raises(DamagedLaneError) as caught:
                await waiting
            assert caught.value.damage.symptom is Symptom.DEVICE_LOST
            assert (await channel.request("ping", deadline=10)).value["lost"] is True
            await channel.request("renew", deadline=30)
            assert (await channel.request("ping", deadline=10)).value["lost"] is False
            channel.release(held)
            assert (await channel.answer(held)).value == 6, "the page itself lived on"
            assert [damage.symptom for damage in channel.damages].count(Symptom.DEVICE_LOST) == 1

    stage.run(body())


async def load(engine, info, build, *, deadline, known=None):
    request = engine.send_load(info, build, deadline=deadline, known=known)
    return await engine.answer_load(info, build, request, known=known)


# -- models ---------------------------------------------------------------------------------------


def test_a_model_is_loaded_run_and_unloaded(stage, tmp_path):
    async def body():
        async with stage.page() as channel:
            engine = OnnxEngine(channel, Backend.CPU, stage.ort(channel.bridge))
            info = inspect_model(models.scaled_sum(), tmp_path)
            loaded = await load(engine, info, OrtBuild.WASM, deadline=60)
            assert sum(loaded.placement.nodes.values()) >= 1
            feeds = {"x": np.array([1, 2], np.float32), "y": np.array([3, 4], np.float32)}
            reply = await engine.answer(loaded, engine.send_run(loaded, feeds, None, deadline=30))
            assert {name: array.tolist() for name, array in reply.tensors.items()} == {"z": [8, 12], "s": [4, 6]}
            reply = await engine.answer(loaded, engine.send_run(loaded, feeds, ["s"], deadline=30))
            assert list(reply.tensors) == ["s"]
            await engine.unload(loaded, deadline=10)
            with pytest.raises(DamagedLaneError, match="lost model"):
                await engine.answer(loaded, engine.send_run(loaded, feeds, None, deadline=30))

    stage.run(body())


def test_a_large_input_reaches_the_model_beside_a_small_one(stage, tmp_path):
    async def body():
        async with stage.page() as channel:
            engine = OnnxEngine(channel, Backend.CPU, stage.ort(channel.bridge))
            info = inspect_model(models.scaled_sum(shape=("n", "m")), tmp_path)
            loaded = await load(engine, info, OrtBuild.WASM, deadline=60)
            x = np.arange(LARGE_BYTES // 4, dtype=np.float32).reshape(2, -1)
            y = np.ones((2, 1), np.float32)
            reply = await engine.answer(loaded, engine.send_run(loaded, {"y": y, "x": x}, ["z"], deadline=60))
            assert np.array_equal(reply.tensors["z"], (x + 1) * 2)

    stage.run(body())


def test_a_model_that_the_engine_refuses_is_named_with_lane_and_version(stage, tmp_path):
    async def body():
        async with stage.page() as channel:
            engine = OnnxEngine(channel, Backend.CPU, stage.ort(channel.bridge))
            info = inspect_model(models.unknown_operator(), tmp_path)
            with pytest.raises(ModelError, match=r"could not be loaded on \w+:cpu \(onnxruntime-web .*NoSuchOperator"):
                await load(engine, info, OrtBuild.WASM, deadline=60)
            assert channel.damages == []

    stage.run(body())


def test_an_operator_that_fails_at_run_time_harms_neither_model_nor_lane(stage, tmp_path):
    async def body():
        async with stage.page() as channel:
            engine = OnnxEngine(channel, Backend.CPU, stage.ort(channel.bridge))
            loaded = await load(engine, inspect_model(models.failing_reshape(), tmp_path), OrtBuild.WASM, deadline=60)
            x = np.arange(4, dtype=np.float32)
            with pytest.raises(ModelError, match="failed on"):
                await engine.answer(loaded, engine.send_run(loaded, {"x": x, "to": np.array([3])}, None, deadline=30))
            reply = await engine.answer(
                loaded, engine.send_run(loaded, {"x": x, "to": np.array([4])}, None, deadline=30)
            )
            assert reply.tensors["z"].tolist() == [0, 1, 2, 3]

    stage.run(body())


def test_a_device_lost_under_a_run_fails_it_as_lost(stage, tmp_path):
    async def body():
        async with stage.page(Backend.WEBGPU) as channel:
            engine = OnnxEngine(channel, Backend.WEBGPU, stage.ort(channel.bridge))
            info = inspect_model(models.scaled_sum(), tmp_path)
            loaded = await load(engine, info, OrtBuild.JSEP, deadline=60)
            x = np.ones(2, np.float32)
            await stage.driver.crash_gpu(deadline=20)
            await seen(channel, Symptom.DEVICE_LOST)
            with pytest.raises(DamagedLaneError) as caught:
                await engine.answer(loaded, engine.send_run(loaded, {"x": x, "y": x}, None, deadline=30))
            assert caught.value.damage.symptom is Symptom.DEVICE_LOST
            await channel.request("renew", deadline=30)
            again = await load(engine, info, OrtBuild.JSEP, deadline=60, known=loaded.placement)
            reply = await engine.answer(again, engine.send_run(again, {"x": x, "y": x}, ["s"], deadline=30))
            assert reply.tensors["s"].tolist() == [2, 2]

    stage.run(body())


def test_files_that_the_browser_will_not_take_are_damage_and_not_silence(stage):
    async def body():
        async with stage.page() as channel:

            async def refuse(paths, deadline):
                from pytest_webaccel.errors import BrowserError

                raise BrowserError("no hands free")

            ordinary, channel.offer = channel.offer, refuse
            large = np.zeros(LARGE_BYTES, np.uint8)
            with pytest.raises(DamagedLaneError, match="no hands free"):
                await channel.request("sink", tensors={"a": large}, deadline=20)
            channel.offer = ordinary
            reply = await channel.request("sink", tensors={"a": large}, deadline=20)
            assert reply.value == {"bytes": LARGE_BYTES}

    stage.run(body())


def test_closing_the_channel_tells_those_who_wait(stage):
    async def body():
        async with stage.page() as channel:
            held = channel.send("echo", deadline=60, hold=True)
            await channel.started(held, deadline=10)
            waiting = asyncio.ensure_future(channel.answer(held))
            await asyncio.sleep(0)
            await channel.bridge.close(channel)
            with pytest.raises(DamagedLaneError):
                await waiting
            assert channel.session.pending == {}

    stage.run(body())
