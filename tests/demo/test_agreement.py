"""All lanes and the CPU reference say the same, asked in one call."""

from __future__ import annotations

import numpy as np
import pytest

from . import filetypes, text


# Once is enough: whichever lane asks, all are compared.
@pytest.mark.webaccel(family="audio", backend="webgpu")
def test_lanes_agree_on_a_word(webaccel, silero_vad, sentence):
    webaccel.check(webaccel.load(silero_vad), sentence.listener.feeds(sentence.chunks[0]))


@pytest.mark.webaccel(family="vision", backend="webgpu")
def test_lanes_agree_on_a_picture(webaccel, pp_ocr_direction):
    webaccel.check(webaccel.load(pp_ocr_direction), {"x": text.as_feed(text.picture_of("Hello GPU", 160), 192)})


@pytest.mark.webaccel(backend="webgpu")
def test_lanes_agree_on_files(webaccel, magika, magika_config):
    feeds = {"bytes": filetypes.as_features(filetypes.samples()["pdf"], magika_config)[np.newaxis]}
    # The JSEP build, the usual one on WebGPU, cannot run this model: docs/findings shows why.
    webaccel.check(webaccel.load(magika, build="native"), feeds)


@pytest.mark.webaccel(family="vision", backend="webgpu")
def test_lanes_agree_on_what_is_read(webaccel, pp_ocr_reader):
    webaccel.check(webaccel.load(pp_ocr_reader), {"x": text.as_feed(text.picture_of("Hello GPU", 160), 160)})


def test_a_lane_agrees_with_itself(webaccel, pp_ocr_direction):
    picture = text.picture_of("Hello GPU", 160)
    feeds = {"x": np.concatenate([text.as_feed(picture.rotate(turned), 192) for turned in (0, 180)])}
    model = webaccel.load(pp_ocr_direction)
    webaccel.check_repeats(model, feeds, times=2, after=["coordinated"])
    webaccel.check_batch(model, feeds)
    webaccel.check_permutation(model, feeds)
