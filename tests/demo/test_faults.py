"""The right answer arrives although something dies under the request.

A voice detector is in the middle of a sentence when the fault strikes. Its answer depends on what it
heard before, so an answer from a lane that came back without the request's own state would be wrong.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from . import speech

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.webaccel(family="audio")

STRATEGIES = ("simple", "coordinated")
#: Chunks of the sentence that were heard before the test, and those that the lane is to judge.
HEARD, TO_JUDGE = 7, 3


def suffering(*faults: str) -> list[Any]:
    """Return one parameter for each fault and strategy; the next request suffers the fault."""
    return [
        pytest.param(id=f"{fault}-{strategy}", marks=pytest.mark.fault(fault, recovery=strategy, at="mid_request"))
        for fault in faults
        for strategy in STRATEGIES
    ]


@pytest.fixture
def sentence(silero_vad, recording, reference):
    """A listener in mid-sentence, the chunks that come next, and the reference's answers to them."""
    chunks = speech.chunks(recording[round(speech.TURN[0] * speech.RATE) :])[: HEARD + TO_JUDGE]
    answering = speech.Listener(functools.partial(reference, silero_vad))
    for chunk in chunks[:HEARD]:
        answering.hear(chunk)
    listener = speech.Listener(answering.run)
    listener.state, listener.tail = answering.state, answering.tail
    return listener, chunks[HEARD:], [answering.hear(chunk) for chunk in chunks[HEARD:]]


def judge_undisturbed(webaccel: Any, silero_vad: Path, sentence: Any) -> None:
    """Judge the rest of the sentence on the lane; the answers must be the reference's, and speech."""
    listener, chunks, expected = sentence
    listener.run = functools.partial(webaccel.run, webaccel.load(silero_vad))
    heard = [listener.hear(chunk) for chunk in chunks]
    np.testing.assert_allclose(heard, expected, rtol=0, atol=1e-4)
    assert min(heard) > 0.9


@pytest.mark.parametrize((), suffering("connection_lost", "browser_crash"))
def test_sentence_is_heard_through(webaccel, silero_vad, sentence):
    judge_undisturbed(webaccel, silero_vad, sentence)


@pytest.mark.webaccel(backend="webgpu")
@pytest.mark.parametrize((), suffering("device_lost"))
def test_sentence_is_heard_through_the_loss_of_the_gpu(webaccel, silero_vad, sentence):
    judge_undisturbed(webaccel, silero_vad, sentence)


@pytest.mark.webaccel(backend="webnn", features="webnn-lost-with-gpu-process")
@pytest.mark.parametrize((), suffering("device_lost"))
def test_sentence_is_heard_through_the_loss_of_the_webnn_context(webaccel, silero_vad, sentence):
    judge_undisturbed(webaccel, silero_vad, sentence)
