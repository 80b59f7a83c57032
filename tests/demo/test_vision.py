"""Text in a picture: which way up it stands and what it says, on every lane."""

from __future__ import annotations

import time

import numpy as np
import pytest

from . import text

pytestmark = pytest.mark.webaccel(family="vision")

#: Width in pixels of the picture; the reader's first run compiles its shaders for it.
WIDTH = 160


def test_text_on_its_head_is_noticed(webaccel, pp_ocr_direction, reference):
    picture = text.picture_of("Hello GPU", WIDTH)
    model = webaccel.load(pp_ocr_direction)
    found = {}

    for turned in (0, 180):
        feeds = {"x": text.as_feed(picture.rotate(turned), 192)}
        (scores,) = webaccel.run(model, feeds).values()
        found[turned] = text.direction(scores)
        (expected,) = reference(pp_ocr_direction, feeds).values()
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)

    assert found == {0: 0, 180: 180}


def test_text_is_read(webaccel, pp_ocr_reader, letters, reference):
    feeds = {"x": text.as_feed(text.picture_of("Hello GPU", WIDTH), WIDTH)}
    model = webaccel.load(pp_ocr_reader)

    started = time.perf_counter()
    (scores,) = webaccel.run(model, feeds).values()
    webaccel.measure("first_picture", (time.perf_counter() - started) * 1e3, "ms", model=model)

    assert text.decode(scores, letters) == "Hello GPU"
    (expected,) = reference(pp_ocr_reader, feeds).values()
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-3)
