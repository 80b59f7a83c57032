"""What attention loses by a low-bit cache of keys and values on a device, and how much longer a context it holds.

Queries, keys and values are those of the six layers of all-MiniLM-L6-v2 over a text of 480 tokens. They are appended
to a cache on a lane's device, quantised and attended to there, and held against float64 over what was not quantised.
``scheme`` says what a key's scale belongs to (values have theirs by token), how many codes share one, and how many
recent tokens are kept whole, in float16.

``tokens`` is the longest context of one layer in 8 MiB, really allocated: ``bytes`` are what the page then says that
its device keeps, and ``effective_bits`` what each number takes of them, scales, zeros and room for recent tokens
counted. Where there is a ``full_cosine``, that context was filled, with the 480 tokens of the first layer over and
over, and attended to, and refused one token more. ``most_tokens`` is the longest context that the device took at all,
and ``refused_by`` what refused a longer one.
"""

from __future__ import annotations

import itertools
import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels import Computation
from pytest_webaccel.engines.kernels.bert import Bert
from pytest_webaccel.engines.kernels.cache import CacheLayout, DeviceCache
from pytest_webaccel.engines.packing.cache import CacheForm, KeyScales, attention
from pytest_webaccel.errors import ConfigurationError, FeedError, ModelError
from pytest_webaccel.pool.kernels import run_kernels, timings
from pytest_webaccel.report.statistics import bootstrap_median
from pytest_webaccel.terms import Backend
from tests.bench.common import arguments, chromium_table, finish, start_worker
from tests.bench.pretrained import fetched
from tests.bench.sentences import PAIRS
from tests.engines.bert import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.pool.kernels import Timings
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

    Layer = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]

_TOKENS = 480
_BUDGET = 8 << 20
_DEADLINE_S = 300.0
_WHOLE = 1 << 40  # a window that nothing leaves
#: Queries over a context that was filled.
_FULL_QUERIES = 4


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


def forms(heads: int, dim: int, *, quick: bool) -> Iterator[tuple[str, str, CacheForm, bool]]:
    """Return bits, scheme and form of each cache, and whether its context is filled."""
    for name, kept in (("32", np.float32), ("16", np.float16)):
        yield name, "whole", CacheForm(heads, dim, window=_WHOLE, recent=kept), not quick
    for bits, keys, group, window in itertools.product((8, 4, 3, 2), KeyScales, (32, 64, 128), (0, 64)):
        if quick and (group, window) != (64, 64):
            continue
        scheme = f"keys by {keys}, groups of {group}, {window} recent"
        fills = keys is KeyScales.CHANNEL and group != 64 and not window
        yield str(bits), scheme, CacheForm(heads, dim, bits, group, window, keys), fills


def longest(form: CacheForm, most: int) -> int:
    """Return the longest context whose layout takes ``most`` bytes."""
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if CacheLayout(form, middle).nbytes <= most:
            low = middle
        else:
            high = middle - 1
    return low


class Bench:
    """A leased lane, on which caches are computed with."""

    def __init__(self, worker: Worker, lease: Lease, drawn: Sequence[Layer]) -> None:
        self._worker = worker
        self._lease = lease
        self._drawn = drawn

    def free(self) -> None:
        work = self._lease.lane.here.free_constants(deadline=_DEADLINE_S)
        self._worker.call(work, deadline=_DEADLINE_S)

    def attended(self, cache: DeviceCache, query: NDArray[Any]) -> tuple[NDArray[Any], Timings]:
        work = run_kernels(self._lease, Computation({"y": cache.attention(query)}), deadline=_DEADLINE_S)
        reply = self._worker.call(work, deadline=2 * _DEADLINE_S)
        return reply.tensors["y"].astype(np.float64), timings(reply, 0)

    def quality(self, form: CacheForm, asked: int) -> dict[str, Any]:
        """Return how far attention over such a cache is from what it was, over ``asked`` queries of each layer."""
        cosines: list[float] = []
        errors = powers = 0.0
        for q, k, v in self._drawn:
            cache = DeviceCache(CacheLayout(form, len(k))).append(k, v)
            for query in q[:: len(q) // asked][:asked]:
                right = attention(query, k, v)
                got, _ = self.attended(cache, query)
                cosines += list(cosine(got, right))
                errors += float(np.square(got - right).sum())
                powers += float(np.square(right).sum())
        self.free()
        interval = bootstrap_median(cosines)
        return {
            "n": len(cosines),
            "cosine": float(np.mean(cosines)),
            "cosine_least": min(cosines),
            "cosine_median_low": interval.low,
            "cosine_median_high": interval.high,
            "nmse": f"{errors / powers:.1e}",
        }

    def context(self, form: CacheForm, *, fills: bool) -> dict[str, Any]:
        """Return the longest context in the budget, allocated, and what it is worth where it is filled."""
        q, k, v = self._drawn[0]
        tokens = longest(form, _BUDGET)
        layout = CacheLayout(form, tokens)
        cache = DeviceCache(layout)
        found: dict[str, Any] = {"tokens": tokens}
        for first in range(0, tokens if fills else 1, len(k)):
            part = np.s_[: min(len(k), tokens - first)] if fills else np.s_[:1]
            cache = cache.append(k[part], v[part])
            _, told = self.attended(cache, q[0])
        if fills:
            turns = -(-tokens // len(k))
            keys, values = (np.tile(one, (turns, 1, 1))[:tokens] for one in (k, v))
            queries = q[:: len(q) // _FULL_QUERIES][:_FULL_QUERIES]
            found["full_cosine"] = float(
                np.mean([cosine(self.attended(cache, query)[0], attention(query, keys, values)) for query in queries])
            )
            try:
                cache.append(k[:1], v[:1])
            except FeedError:
                pass
            else:
                raise RuntimeError(f"a full cache took one token more: {form}")
        found |= {"bytes": told.kept_bytes, "effective_bits": told.kept_bytes * 8 / (2 * tokens * form.width)}
        self.free()
        return found

    def most(self, form: CacheForm) -> dict[str, Any]:
        """Return the longest context that the device takes, and what refuses a longer one."""
        _, k, v = self._drawn[0]
        query = k[0]
        low, high, reason = 1, 2 << 40, ""
        tokens = longest(form, _BUDGET)
        while high - low > low // 100:
            try:
                self.attended(DeviceCache(CacheLayout(form, tokens)).append(k[:1], v[:1]), query)
            except (ConfigurationError, ModelError) as error:
                high, reason = tokens, str(error)
            else:
                low = tokens
            self.free()
            tokens = 2 * low if high > 2 << 39 else (low + high) // 2
        limit = re.search(r"\((max\w+)\)", reason)
        return {"most_tokens": low, "refused_by": limit[1] if limit else reason[:60]}


def cosine(got: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Return the cosine of each head."""
    found: NDArray[Any] = (got * right).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(right, axis=1)
    return found


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
            bench = Bench(worker, lease, drawn)
            for bits, scheme, form, fills in forms(heads, dim, quick=options.quick):
                row = {"bits": bits, "scheme": scheme, **bench.quality(form, asked), **bench.context(form, fills=fills)}
                halves = next((one["tokens"] for one in rows if one["bits"] == "16"), None)
                row["of_float16"] = row["tokens"] / halves if halves else None
                if fills:
                    row |= bench.most(form)
                rows.append({**row, "lane": str(probe.lane), "evidence": str(probe.evidence)})
                print(f"{bits} bits, {scheme}: cosine {row['cosine']:.4f}, {row['tokens']} tokens", flush=True)
    finally:
        worker.stop()
    finish("kv_cache", rows, [probe], options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
