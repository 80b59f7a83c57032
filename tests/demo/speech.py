"""Speech in, probabilities out: what silero VAD needs around the model."""

from __future__ import annotations

import wave
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CHUNK_S", "RATE", "TURN", "Listener", "chunks", "not_speech", "read_turns", "read_wav", "spans"]

Run = Callable[[dict[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]

#: Samples a second, the only rate of the 16k model.
RATE = 16_000
#: Samples that the model judges at once, and how many of the samples before them it wants to see too.
CHUNK, CONTEXT = 512, 64
#: Seconds that one chunk lasts.
CHUNK_S = CHUNK / RATE
#: Where in the recording, in seconds, one speaker ends and, after a pause, the other begins. On whole chunks.
TURN = (656 * CHUNK_S, 688 * CHUNK_S)


class Listener:
    """A stream through silero VAD: keeps the model's state and the tail of the last chunk.

    ``run`` takes the model's feeds (``input`` f32[1, 576], ``state`` f32[2, 1, 128], ``sr`` i64[])
    and returns its outputs (``output`` f32[1, 1], ``stateN`` like ``state``).
    """

    def __init__(self, run: Run) -> None:
        """Start in silence."""
        self.run = run
        self.state: NDArray[np.float32] = np.zeros((2, 1, 128), np.float32)
        self.tail: NDArray[np.float32] = np.zeros(CONTEXT, np.float32)

    def feeds(self, chunk: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return the feeds that judge ``chunk`` (f32[512]) after all that was heard so far."""
        heard = np.concatenate([self.tail, chunk])[np.newaxis]
        return {"input": heard, "state": self.state, "sr": np.array(RATE, np.int64)}

    def hear(self, chunk: NDArray[np.float32]) -> float:
        """Return the probability, 0 to 1, that ``chunk`` (f32[512]) is speech."""
        outputs = self.run(self.feeds(chunk))
        self.state, self.tail = outputs["stateN"], chunk[-CONTEXT:]
        return float(outputs["output"].item())

    def hear_all(self, samples: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return one probability for each whole chunk of ``samples``."""
        return np.array([self.hear(chunk) for chunk in chunks(samples)])


def chunks(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the whole chunks of ``samples`` as f32[n, 512]; what is left over is dropped."""
    whole = len(samples) // CHUNK
    return samples[: whole * CHUNK].reshape(whole, CHUNK)


def spans(probabilities: NDArray[np.float64], start: float = 0.0) -> list[tuple[float, float]]:
    """Return the stretches of speech (probability above 0.5) as (from, to) in seconds.

    ``start`` is when the first chunk begins.
    """
    edges = np.flatnonzero(np.diff(probabilities > 0.5, prepend=False, append=False))
    return [(start + float(on) * CHUNK_S, start + float(off) * CHUNK_S) for on, off in edges.reshape(-1, 2)]


def read_wav(path: Path) -> NDArray[np.float32]:
    """Return the samples, -1 to 1, of a mono 16-bit WAV file at 16 kHz; ValueError for any other kind."""
    with wave.open(str(path), "rb") as file:
        kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        if kind != (1, 2, RATE):
            raise ValueError(f"{path.name}: channels, bytes a sample and rate are {kind}, not {(1, 2, RATE)}")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / np.float32(32768)


def read_turns(path: Path) -> Sequence[tuple[float, float]]:
    """Return who-spoke-when of an RTTM file as (from, to) in seconds, overlapping turns joined."""
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("SPEAKER")]
    joined: list[tuple[float, float]] = []
    for begin, end in sorted((float(row[3]), float(row[3]) + float(row[4])) for row in rows):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def not_speech(kind: str, seconds: float) -> NDArray[np.float32]:
    """Return samples that a voice detector must not take for a voice: ``nothing``, ``noise`` or ``chord``."""
    count = round(seconds * RATE)
    if kind == "nothing":
        return np.zeros(count, np.float32)
    if kind == "noise":
        return np.random.default_rng(7).normal(0, 0.1, count).astype(np.float32)
    if kind == "chord":
        at = np.arange(count) / RATE
        tones = [np.sin(2 * np.pi * hertz * at) for hertz in (440, 554, 659)]
        chord: NDArray[np.float32] = np.sum(tones, axis=0, dtype=np.float32)
        return chord * np.float32(0.1)
    raise ValueError(f"kind {kind!r} is not one of nothing, noise, chord")
