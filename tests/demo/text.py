"""A picture with text in, letters out: what the PP-OCR models need around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["as_feed", "decode", "direction", "letters_of", "picture_of"]

#: Height in pixels that both models want.
HEIGHT = 48


def picture_of(text: str, width: int, size: int = 30) -> Image.Image:
    """Return ``text`` in black on white, centred, ``width`` x 48 pixels, letters ``size`` pixels high.

    Raises ValueError when the text is wider than that.
    """
    font = ImageFont.load_default(size=size)
    left, top, right, bottom = font.getbbox(text)
    if right - left > width:
        raise ValueError(f"{text!r} is {right - left:.0f} pixels wide at size {size}, which does not fit into {width}")
    picture = Image.new("RGB", (width, HEIGHT), "white")
    place = ((width - (right - left)) / 2 - left, (HEIGHT - (bottom - top)) / 2 - top)
    ImageDraw.Draw(picture).text(place, text, fill="black", font=font)
    return picture


def as_feed(picture: Image.Image, width: int) -> NDArray[np.float32]:
    """Return ``picture`` (48 pixels high) as f32[1, 3, 48, width]: -1 black, 1 white, right of it zeros."""
    pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) / np.float32(255)
    feed = np.zeros((1, 3, HEIGHT, width), np.float32)
    feed[0, :, :, : pixels.shape[2]] = (pixels - np.float32(0.5)) / np.float32(0.5)
    return feed


def direction(scores: NDArray[Any]) -> int:
    """Return 0 for upright or 180 for upside down from the classifier's scores, f32[1, 2]."""
    return (0, 180)[int(scores[0].argmax())]


def letters_of(model: Path) -> Sequence[str]:
    """Return what each class of the reader stands for: the blank, the letters in its metadata, the space."""
    metadata = {entry.key: entry.value for entry in onnx.load(str(model), load_external_data=False).metadata_props}
    return ["", *metadata["character"].splitlines(), " "]


def decode(scores: NDArray[Any], letters: Sequence[str]) -> str:
    """Return the text in the reader's scores, f32[1, steps, classes].

    Greedy CTC: the best class of each step, repeats taken once, blanks (class 0) dropped. A letter
    that stands twice has a blank between.
    """
    best = scores[0].argmax(axis=-1)
    new = np.diff(best, prepend=-1) != 0
    return "".join(letters[index] for index in best[new & (best != 0)])
