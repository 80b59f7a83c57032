"""A small decoder with drawn weights, and what it computes in NumPy, written apart from the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import erf

from pytest_webaccel.engines.packing.cache import KVCache, attention

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.packing.cache import CacheForm

__all__ = ["decoded", "drawn"]


def drawn(layers: int, *, width: int = 48, inner: int = 80, words: int = 30) -> dict[str, NDArray[np.float32]]:
    """Return weights of ``layers`` layers, by the names of ``Decoder``."""
    chance = np.random.default_rng(layers)
    made: dict[str, NDArray[np.float32]] = {}

    def matrix(name: str, rows: int, columns: int, size: float = 1.0) -> None:
        made[f"{name}.weight"] = (chance.standard_normal((rows, columns)) * size / columns**0.5).astype(np.float32)

    def norm(name: str) -> None:
        made[f"{name}.weight"] = (1 + 0.1 * chance.standard_normal(width)).astype(np.float32)
        made[f"{name}.bias"] = (0.1 * chance.standard_normal(width)).astype(np.float32)

    matrix("embed", words, width, width**0.5)
    matrix("head", words, width)
    norm("norm")
    for layer in range(layers):
        at = f"layers.{layer}."
        norm(f"{at}attention.norm")
        norm(f"{at}mlp.norm")
        for name in ("query", "key"):
            matrix(f"{at}attention.{name}", width, width, 2.0)  # so that attention looks at some tokens more
        for name in ("value", "output"):
            matrix(f"{at}attention.{name}", width, width)
        matrix(f"{at}mlp.up", inner, width)
        matrix(f"{at}mlp.down", width, inner)
    return made


def decoded(
    weight: Callable[[str], NDArray[Any]], tokens: Sequence[int], form: CacheForm, *, layers: int
) -> NDArray[np.float64]:
    """Return the logits after each token, in float64 but for the keys and values, which are kept as ``form`` says."""
    caches = [KVCache(form) for _ in range(layers)]
    found = []
    for position, token in enumerate(tokens):
        hidden = weight("embed.weight")[token].astype(np.float64)
        for layer, cache in enumerate(caches):
            at = f"layers.{layer}."
            x = _normal(hidden, weight, f"{at}attention.norm")
            q, k, v = (
                (weight(f"{at}attention.{name}.weight").astype(np.float64) @ x).reshape(form.heads, form.dim)
                for name in ("query", "key", "value")
            )
            cache.append(_turned(k, position)[None].astype(np.float32), v[None].astype(np.float32))
            seen = attention(_turned(q, position), cache.keys(), cache.values()).reshape(-1)
            hidden = hidden + weight(f"{at}attention.output.weight").astype(np.float64) @ seen
            inner = weight(f"{at}mlp.up.weight").astype(np.float64) @ _normal(hidden, weight, f"{at}mlp.norm")
            inner = inner / 2 * (1 + erf(inner / 2**0.5))
            hidden = hidden + weight(f"{at}mlp.down.weight").astype(np.float64) @ inner
        found.append(weight("head.weight").astype(np.float64) @ _normal(hidden, weight, "norm"))
    return np.array(found)


def _normal(x: NDArray[np.float64], weight: Callable[[str], NDArray[Any]], name: str) -> NDArray[np.float64]:
    centred = x - x.mean()
    scaled: NDArray[np.float64] = centred / np.sqrt(np.square(centred).mean() + 1e-5)
    return np.asarray(scaled * weight(f"{name}.weight") + weight(f"{name}.bias"))


def _turned(x: NDArray[np.float64], position: int) -> NDArray[np.float64]:
    pairs = x.shape[1] // 2
    turns = np.exp(1j * position * 10_000.0 ** (-np.arange(pairs) / pairs))
    turned = (x[:, :pairs] + 1j * x[:, pairs:]) * turns
    return np.concatenate([turned.real, turned.imag], axis=1)
