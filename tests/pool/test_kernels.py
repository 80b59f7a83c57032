"""What is sent of a run of kernels to which browser, and what a page tells of it, which may be anything."""

from __future__ import annotations

import asyncio
import types
from typing import Any

import numpy as np
import pytest

from pytest_webaccel.bridge.messages import Reply
from pytest_webaccel.engines.kernels import Computation, program
from pytest_webaccel.engines.packing import quantise
from pytest_webaccel.errors import DamagedLaneError, LaneUnavailableError, ModelError, RemoteError
from pytest_webaccel.pool.kept import Kept
from pytest_webaccel.pool.kernels import timings
from pytest_webaccel.pool.request import KernelRun
from pytest_webaccel.terms import Evidence, Lane, ProbeResult, Symptom

TOLD = {"first_ms": 2.5, "times_ms": [3.0, 4], "kept_bytes": 8, "passing_bytes": 16}


def reply(value: object) -> Reply:
    return Reply(value, {}, 1.0, 1)


def test_times_are_taken_as_they_are_told():
    told = timings(reply(TOLD), 2)
    assert (told.first_ms, told.times_ms, told.kept_bytes, told.passing_bytes) == (2.5, [3.0, 4.0], 8, 16)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        TOLD | {"times_ms": [1.0]},
        TOLD | {"times_ms": "ab"},
        TOLD | {"times_ms": [1.0, float("nan")]},
        TOLD | {"first_ms": -1},
        TOLD | {"kept_bytes": "8"},
        {name: one for name, one in TOLD.items() if name != "first_ms"},
    ],
)
def test_anything_else_is_refused(value):
    with pytest.raises(ModelError, match="the page told no times of 2 runs"):
        timings(reply(value), 2)


INPUTS = {"x": np.ones((2, 64), np.float32), "weights": quantise(np.ones((6, 64), np.float32), 4)}
UNTUNED = Computation(program("matmul_nbits", INPUTS).all_outputs())
#: Asked for with what not every device has.
PARTICULAR = Computation(program("matmul_nbits", INPUTS, {"QUADS": 1}).all_outputs())


class Page:
    """A station that takes down what is sent to it, and answers as it is told."""

    def __init__(self, features: tuple[str, ...] = (), limits: dict[str, int] | None = None) -> None:
        self.lane = Lane.parse("firefox:webgpu")
        self.probe = ProbeResult(
            self.lane, works=True, evidence=Evidence.SOFTWARE, features=features, limits=limits or {}
        )
        self.kept = Kept()
        self.sent: list[dict[str, Any]] = []
        self.answer: Reply | Exception = Reply({}, {"y": np.zeros((2, 6), np.float32)}, 1.0, 1)
        self.channel = types.SimpleNamespace(send=self._send, answer=self._answered)

    def _send(self, op: str, args: dict[str, Any], **_: Any) -> int:
        assert op == "kernel"
        self.sent.append(args)
        return len(self.sent)

    async def _answered(self, request_id: int) -> Reply:
        del request_id
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def unless_fatal(self, work: Any) -> Any:
        return await work


def sent(page: Page, work: Computation = UNTUNED) -> str:
    lane: Any = types.SimpleNamespace(here=page, probe=Page(("subgroups",)).probe)
    KernelRun(lane, work, 1.0).send()
    code: str = page.sent[0]["codes"][0]
    return code


def test_a_browser_with_the_feature_is_sent_what_needs_it_and_another_what_needs_nothing():
    assert "enable subgroups;" in sent(Page(("subgroups",)))
    assert "enable subgroups;" not in sent(Page())


def test_a_browser_that_cannot_run_it_cannot_stand_in():
    with pytest.raises(
        LaneUnavailableError,
        match=r"cannot stand in: kernel .* needs subgroups, which firefox:webgpu has not",
    ):
        sent(Page(), PARTICULAR)
    with pytest.raises(LaneUnavailableError, match=r"cannot stand in: kernel matmul_nbits: .* binds at most 8"):
        sent(Page(limits={"maxStorageBufferBindingSize": 8}))


def test_a_page_that_lost_what_it_kept_is_damaged_and_a_kernel_that_fails_is_not():
    page = Page(("subgroups",))
    lane: Any = types.SimpleNamespace(here=page, probe=page.probe)
    run = KernelRun(lane, UNTUNED, 1.0)
    run.send()
    page.answer = RemoteError("not_held", "nothing is kept as a-b")
    with pytest.raises(DamagedLaneError) as damaged:
        asyncio.run(run.answer())
    assert damaged.value.damage.symptom is Symptom.PAGE_REPLACED
    page.answer = RemoteError("kernel", "it does not compile")
    with pytest.raises(ModelError, match="kernel matmul_nbits failed on firefox:webgpu"):
        asyncio.run(run.answer())
    page.answer = Reply({}, {"y": np.zeros((2, 7), np.float32)}, 1.0, 1)
    with pytest.raises(ModelError, match="the page sent no y of its form"):
        asyncio.run(run.answer())
    page.answer = Reply({}, {"y": np.zeros((2, 6), np.float32)}, 1.0, 1)
    assert asyncio.run(run.answer()).tensors["y"].shape == (2, 6)
