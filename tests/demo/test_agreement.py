"""All lanes and the CPU reference say the same, asked in one call."""

from __future__ import annotations

import pytest


# Once is enough: whichever lane asks, all are compared.
@pytest.mark.webaccel(family="audio", backend="webgpu")
def test_lanes_agree_on_a_word(webaccel, silero_vad, sentence):
    webaccel.check(webaccel.load(silero_vad), sentence.listener.feeds(sentence.chunks[0]))
