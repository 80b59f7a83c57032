"""A small decoder goes through a text token by token, its keys and values kept on the device at different bits.

Two layers of width 128 with drawn weights at 4 bits, and a text of 320 drawn tokens. The logits of the last 128 are
held against those in float64 where all keys and values are whole: ``cosine`` is their mean, ``same_token`` how often
the likeliest token is the same. ``bytes`` are those of the cache on the device. Milliseconds are a token's, told by the
page from what it was sent to the logits, with weights and cache on the device.
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels import Computation
from pytest_webaccel.engines.kernels.decoder import Decoder
from pytest_webaccel.engines.packing.cache import CacheForm
from pytest_webaccel.pool.kernels import run_kernels, timings
from pytest_webaccel.report.statistics import bootstrap_median, summarise
from pytest_webaccel.terms import Backend
from tests.bench.common import arguments, chromium_table, finish, start_worker
from tests.engines.decoder import decoded, drawn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

_LAYERS, _HEADS, _WIDTH, _WORDS = 2, 4, 128, 256
_TOKENS, _LOOKED_AT = 320, 128
_DEADLINE_S = 60.0


def forms(*, quick: bool) -> Iterator[tuple[str, str, CacheForm]]:
    """Return bits, scheme and form of each cache."""
    dim = _WIDTH // _HEADS
    for name, kept in (("32", np.float32), ("16", np.float16)):
        yield name, "whole", CacheForm(_HEADS, dim, window=_TOKENS, recent=kept)
    for bits, window in itertools.product((4,) if quick else (8, 4, 3, 2), (0, 64)):
        yield str(bits), f"groups of 32, {window} recent", CacheForm(_HEADS, dim, bits, window=window)


def measure(
    worker: Worker, lease: Lease, decoder: Decoder, form: CacheForm, tokens: Sequence[int], right: NDArray[Any]
) -> dict[str, Any]:
    text = decoder.begin(form, capacity=len(tokens), checkpoint=len(tokens))
    found, times = [], []
    for token in tokens:
        work = run_kernels(lease, Computation({"logits": text.step(token)}), deadline=_DEADLINE_S)
        reply = worker.call(work, deadline=_DEADLINE_S)
        found.append(reply.tensors["logits"])
        times.append(timings(reply, 0).first_ms)
    worker.call(lease.lane.here.free_constants(deadline=_DEADLINE_S), deadline=_DEADLINE_S)
    got = np.array(found[-len(right) :], np.float64)
    cosines = (got * right).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(right, axis=1)
    interval = bootstrap_median(cosines.tolist())
    summary = summarise(times[-len(right) :])
    milliseconds = summary.median_interval
    return {
        "n": len(right),
        "cosine": float(cosines.mean()),
        "cosine_least": float(cosines.min()),
        "cosine_median_low": interval.low,
        "cosine_median_high": interval.high,
        "nmse": f"{np.square(got - right).sum() / np.square(right).sum():.1e}",
        "same_token": float((got.argmax(1) == right.argmax(1)).mean()),
        "bytes": text.nbytes,
        "median_ms": summary.median,
        "median_low_ms": milliseconds.low if milliseconds else None,
        "median_high_ms": milliseconds.high if milliseconds else None,
        "p95_ms": summary.p95,
    }


def main(given: Sequence[str] | None = None) -> int:
    options = arguments("decoding", given)
    chance = np.random.default_rng(0)
    tokens = chance.integers(0, _WORDS, 96 if options.quick else _TOKENS).tolist()
    weights = drawn(_LAYERS, width=_WIDTH, inner=2 * _WIDTH, words=_WORDS)
    decoder = Decoder(weights, heads=_HEADS, bits=4)
    exact = CacheForm(_HEADS, _WIDTH // _HEADS, window=_TOKENS, recent=np.float32)
    right = decoded(decoder.weight, tokens, exact, layers=_LAYERS)[-min(_LOOKED_AT, len(tokens) // 2) :]
    [probe] = [probe for probe in chromium_table() if probe.lane.backend is Backend.WEBGPU]
    worker = start_worker([probe])
    rows: list[dict[str, Any]] = []
    try:
        with worker.lease(probe.lane, "bench") as lease:
            for bits, scheme, form in forms(quick=options.quick):
                found = measure(worker, lease, decoder, form, tokens, right)
                about = {"lane": str(probe.lane), "evidence": str(probe.evidence)}
                rows.append({"bits": bits, "scheme": scheme, **found, **about})
                print(f"{bits} bits, {scheme}: cosine {found['cosine']:.4f}, {found['median_ms']:.1f} ms", flush=True)
    finally:
        worker.stop()
    finish("decoding", rows, [probe], options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
