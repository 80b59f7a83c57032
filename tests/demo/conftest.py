"""What the demo's tests share: models, the recording, and onnxruntime on the CPU as the reference."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from . import filetypes, models, speech, text

Feeds = Mapping[str, NDArray[Any]]
Reference = Callable[[Path, Feeds], dict[str, NDArray[Any]]]


@pytest.fixture(scope="session")
def silero_vad() -> Path:
    """Voice detector: is this chunk of sound speech?"""
    return models.fetch("silero_vad_16k.onnx")


@pytest.fixture(scope="session")
def recording() -> NDArray[np.float32]:
    """Thirty seconds of a telephone call between two people, 16 kHz."""
    return speech.read_wav(models.fetch("telephone_call.wav"))


@pytest.fixture(scope="session")
def turns() -> Sequence[tuple[float, float]]:
    """When somebody speaks in ``recording``, as a person marked it: (from, to) in seconds."""
    return speech.read_turns(models.fetch("telephone_call.rttm"))


@pytest.fixture(scope="session")
def pp_ocr_direction() -> Path:
    """Text direction: does this line of text stand on its head?"""
    return models.fetch("pp_ocr_direction.onnx")


@pytest.fixture(scope="session")
def pp_ocr_reader() -> Path:
    """Text recogniser: what does this line of text say?"""
    return models.fetch("pp_ocr_reader.onnx")


@pytest.fixture(scope="session")
def letters(pp_ocr_reader: Path) -> Sequence[str]:
    """What each class of ``pp_ocr_reader`` stands for."""
    return text.letters_of(pp_ocr_reader)


@pytest.fixture(scope="session")
def magika() -> Path:
    """File classifier: of what type are these bytes?"""
    return models.fetch("magika.onnx")


@pytest.fixture(scope="session")
def magika_config() -> Mapping[str, Any]:
    """Types, thresholds and feature sizes of ``magika``."""
    return filetypes.read_config(models.fetch("magika.json"))


@pytest.fixture(scope="session")
def reference() -> Reference:
    """Run a model with onnxruntime on the CPU: ``reference(path, feeds)`` returns outputs by name."""

    @functools.cache
    def session(path: Path) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the cores belong to the browsers
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(path: Path, feeds: Feeds) -> dict[str, NDArray[Any]]:
        names = [output.name for output in session(path).get_outputs()]
        return dict(zip(names, session(path).run(names, dict(feeds)), strict=True))

    return run


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A listener in mid-sentence, the chunks that come next (f32[3, 512]), the reference's answers to them."""

    listener: speech.Listener
    chunks: NDArray[np.float32]
    expected: NDArray[np.float64]


@pytest.fixture
def sentence(silero_vad: Path, recording: NDArray[np.float32], reference: Reference) -> Sentence:
    """A sentence of which the reference has heard the first seven chunks; all of it is speech.

    What the voice detector says next depends on the state that it is fed, so an answer to another
    request, or to none, cannot pass for the right one.
    """
    run = functools.partial(reference, silero_vad)
    chunks = speech.chunks(recording[round(speech.TURN[0] * speech.RATE) :])[:10]
    ahead, listener = speech.Listener(run), speech.Listener(run)
    for chunk in chunks[:7]:
        ahead.hear(chunk)
    listener.state, listener.tail = ahead.state, ahead.tail
    return Sentence(listener, chunks[7:], np.array([ahead.hear(chunk) for chunk in chunks[7:]]))
