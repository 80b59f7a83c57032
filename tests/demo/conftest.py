"""What the demo's tests share: models, the recording, and onnxruntime on the CPU as the reference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime
import pytest
from numpy.typing import NDArray

from . import filetypes, models, speech, text

if TYPE_CHECKING:
    import numpy as np

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
