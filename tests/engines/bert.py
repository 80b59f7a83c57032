"""A small encoder with drawn weights, and what it computes in NumPy, written apart from the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import erf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["WIDTH", "drawn", "embedded"]

WIDTH, INNER, WORDS, POSITIONS = 48, 80, 30, 24


def drawn(layers: int = 2) -> dict[str, NDArray[np.float32]]:
    """Return weights of ``layers`` layers, by Hugging Face's names."""
    chance = np.random.default_rng(layers)
    made: dict[str, NDArray[np.float32]] = {}

    def put(name: str, *shape: int, around: float = 0.0) -> None:
        made[name] = (around + chance.standard_normal(shape) * 0.3).astype(np.float32)

    def pair(name: str, *shape: int, around: float = 0.0) -> None:
        put(f"{name}.weight", *shape, around=around)
        put(f"{name}.bias", shape[0])

    for name, rows in (("word", WORDS), ("position", POSITIONS), ("token_type", 2)):
        put(f"embeddings.{name}_embeddings.weight", rows, WIDTH)
    pair("embeddings.LayerNorm", WIDTH, around=1.0)
    for layer in range(layers):
        at = f"encoder.layer.{layer}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            pair(f"{at}attention.{part}", WIDTH, WIDTH)
        pair(f"{at}attention.output.LayerNorm", WIDTH, around=1.0)
        pair(f"{at}intermediate.dense", INNER, WIDTH)
        pair(f"{at}output.dense", WIDTH, INNER)
        pair(f"{at}output.LayerNorm", WIDTH, around=1.0)
    return made


def embedded(
    weight: Callable[[str], NDArray[Any]],
    ids: Sequence[int],
    *,
    layers: int,
    heads: int,
    tap: Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], None] = lambda q, k, v: None,
    seen: Callable[[str, NDArray[Any]], None] = lambda name, x: None,
) -> NDArray[Any]:
    """Return the embedding of ``ids`` in float64; ``weight`` gives weights by name, positions with their type.

    ``tap`` is shown the queries, keys and values of each layer, of shape (heads, rows, dim); ``seen``
    is shown the name of each matrix that rows are multiplied with, and those rows.
    """

    def linear(x: NDArray[Any], name: str) -> NDArray[Any]:
        seen(f"{name}.weight", x)
        product: NDArray[Any] = x @ weight(f"{name}.weight").astype(np.float64, copy=False).T + weight(f"{name}.bias")
        return product

    def normal(x: NDArray[Any], name: str) -> NDArray[Any]:
        centred = x - x.mean(-1, keepdims=True)
        scaled: NDArray[Any] = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * weight(f"{name}.weight")
        scaled += weight(f"{name}.bias")
        return scaled

    rows = len(ids)
    words = weight("embeddings.word_embeddings.weight")[list(ids)].astype(np.float64)
    hidden = normal(words + weight("embeddings.position_embeddings.weight")[:rows], "embeddings.LayerNorm")
    for layer in range(layers):
        at = f"encoder.layer.{layer}."
        q, k, v = (
            linear(hidden, f"{at}attention.self.{part}").reshape(rows, heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        tap(q, k, v)
        powers = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]))
        mixed = (powers / powers.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(rows, -1)
        middle = normal(linear(mixed, f"{at}attention.output.dense") + hidden, f"{at}attention.output.LayerNorm")
        wide = linear(middle, f"{at}intermediate.dense")
        inner = linear(wide / 2 * (1 + erf(wide / np.sqrt(2))), f"{at}output.dense")
        hidden = normal(inner + middle, f"{at}output.LayerNorm")
    mean: NDArray[Any] = hidden.mean(0)
    unit: NDArray[Any] = mean / np.linalg.norm(mean)
    return unit
