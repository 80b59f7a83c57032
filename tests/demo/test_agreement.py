"""All lanes and the CPU reference say the same, asked in one call."""

from __future__ import annotations

import functools

import pytest

from . import speech


# Once is enough: whichever lane asks, all are compared.
@pytest.mark.webaccel(family="audio", backend="webgpu")
def test_lanes_agree_on_a_word(webaccel, silero_vad, recording, reference):
    listener = speech.Listener(functools.partial(reference, silero_vad))
    *before, last = speech.chunks(recording[round(speech.TURN[0] * speech.RATE) :])[:9]
    for chunk in before:
        listener.hear(chunk)

    webaccel.check(webaccel.load(silero_vad), listener.feeds(last))
