"""What attention loses by a low-bit cache of keys and values, and how much longer a context the same bytes hold.

Queries, keys and values are those of the six layers of all-MiniLM-L6-v2 over a text of 480 tokens. The cache is
quantised in NumPy; attention over it is computed by the project's kernel on a lane, and held against float64 over
what was not quantised. ``scheme`` says what a key's scale belongs to (values have theirs by token), how many codes
share one, and how many recent tokens are kept whole, in float16. ``tokens`` is the longest context of one layer in 64
MiB, and ``effective_bits`` what each number takes then, with scales, zeros and recent tokens counted.
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels import Computation, program
from pytest_webaccel.engines.kernels.bert import Bert
from pytest_webaccel.engines.packing.cache import CacheForm, KeyScales, KVCache, attention
from pytest_webaccel.pool.kernels import run_kernels
from pytest_webaccel.report.statistics import bootstrap_median
from pytest_webaccel.terms import Backend
from tests.bench.common import arguments, chromium_table, finish, start_worker
from tests.bench.pretrained import fetched
from tests.bench.sentences import PAIRS
from tests.engines.bert import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

    Layer = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]

_TOKENS = 480
_BUDGET = 64 << 20
_DEADLINE_S = 60.0
_WHOLE = 1 << 30  # a window that nothing leaves


def layers(tokens: int) -> list[Layer]:
    """Return queries, keys and values of each layer, float32 of shape (tokens, heads, dim)."""
    model = fetched()
    text = " ".join(itertools.chain.from_iterable(PAIRS))
    ids = model.ids(text)[:tokens]
    encoder = Bert(model.weights, heads=model.heads, epsilon=model.epsilon)
    found: list[Layer] = []

    def tap(*three: NDArray[Any]) -> None:
        q, k, v = (np.ascontiguousarray(one.swapaxes(0, 1)).astype(np.float32) for one in three)
        found.append((q, k, v))

    embedded(encoder.weight, ids, layers=encoder.layers, heads=model.heads, tap=tap)
    return found


def forms(heads: int, dim: int, *, quick: bool) -> Iterator[tuple[str, str, CacheForm]]:
    """Return bits, scheme and form of each cache."""
    for name, kept in (("32", np.float32), ("16", np.float16)):
        yield name, "whole", CacheForm(heads, dim, window=_WHOLE, recent=kept)
    for bits, keys, group, window in itertools.product((8, 4, 3, 2), KeyScales, (32, 64, 128), (0, 64)):
        if quick and (group, window) != (64, 64):
            continue
        scheme = f"keys by {keys}, groups of {group}, {window} recent"
        yield str(bits), scheme, CacheForm(heads, dim, bits, group, window, keys)


def longest(form: CacheForm) -> int:
    """Return how many tokens fit into the budget: recent ones first, then whole blocks."""
    each = 2 * form.width * np.dtype(form.recent).itemsize
    recent = min(form.window + form.group - 1, _BUDGET // each) if form.window < _WHOLE else _BUDGET // each
    left = _BUDGET - recent * each
    block = KVCache(CacheForm(form.heads, form.dim, form.bits, form.group, 0, form.keys))
    zeros = np.zeros((form.group, form.heads, form.dim), np.float32)
    block.append(zeros, zeros)
    return int(recent + left // block.nbytes * form.group)


def measure(worker: Worker, lease: Lease, form: CacheForm, drawn: Sequence[Layer], asked: int) -> dict[str, Any]:
    """Return how far attention over such a cache is from what it was, over ``asked`` queries of each layer."""
    cosines: list[float] = []
    errors = powers = 0.0
    for q, k, v in drawn:
        cache = KVCache(form)
        cache.append(k, v)
        for query in q[:: len(q) // asked][:asked]:
            right = attention(query, k, v)
            made = program("attention", {"query": query, "cache": cache})
            work = run_kernels(lease, Computation(made.all_outputs()), deadline=_DEADLINE_S)
            got = worker.call(work, deadline=_DEADLINE_S).tensors["y"].astype(np.float64)
            cosines += list((got * right).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(right, axis=1))
            errors += float(np.square(got - right).sum())
            powers += float(np.square(right).sum())
    interval = bootstrap_median(cosines)
    return {
        "n": len(cosines),
        "cosine": float(np.mean(cosines)),
        "cosine_least": min(cosines),
        "cosine_median_low": interval.low,
        "cosine_median_high": interval.high,
        "nmse": f"{errors / powers:.1e}",
    }


def main(given: Sequence[str] | None = None) -> int:
    options = arguments("kv_cache", given)
    drawn = layers(160 if options.quick else _TOKENS)
    asked = 2 if options.quick else 8
    heads, dim = drawn[0][0].shape[1:]
    [probe] = [probe for probe in chromium_table() if probe.lane.backend is Backend.WEBGPU]
    worker = start_worker([probe])
    rows: list[dict[str, Any]] = []
    try:
        with worker.lease(probe.lane, "bench") as lease:
            for bits, scheme, form in forms(heads, dim, quick=options.quick):
                found = measure(worker, lease, form, drawn, asked)
                tokens = longest(form)
                halves = next((row["tokens"] for row in rows if row["bits"] == "16"), None)
                context: dict[str, Any] = {
                    "effective_bits": _BUDGET * 8 / (2 * tokens * form.width),
                    "bytes": _BUDGET,
                    "tokens": tokens,
                    "of_float16": tokens / halves if halves else None,
                }
                about = {"lane": str(probe.lane), "evidence": str(probe.evidence)}
                rows.append({"bits": bits, "scheme": scheme, **found, **context, **about})
                print(f"{bits} bits, {scheme}: cosine {found['cosine']:.4f}, {tokens} tokens", flush=True)
    finally:
        worker.stop()
    finish("kv_cache", rows, [probe], options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
