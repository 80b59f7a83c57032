"""What kernels compute, in NumPy and float64: the oracle that a tuner holds candidates against."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels.rounded import Activations, rounded
from pytest_webaccel.engines.kernels.weights import Resident
from pytest_webaccel.engines.packing import Packed
from pytest_webaccel.engines.packing import cache as caches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.weights import Weights
    from pytest_webaccel.engines.packing.cache import KVCache

    Doubles = NDArray[np.float64]

__all__ = ["nmse", "reference"]


def reference(kernel: str, inputs: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the right ``y`` of a kernel for inputs that it takes, arrays and weights."""
    given = {name: one.value if isinstance(one, Resident) else one for name, one in inputs.items()}
    return np.asarray(_OF[kernel](**given), np.float64)


def nmse(got: NDArray[Any], right: NDArray[np.float64]) -> float:
    """Return the mean squared error of ``got`` over the mean square of ``right``; infinite for another shape."""
    if got.shape != right.shape:
        return math.inf
    error = float(np.square(got.astype(np.float64) - right).sum())
    power = float(np.square(right).sum())
    return 0.0 if error == 0.0 else error / power if power else math.inf


def _plain(weights: Weights) -> NDArray[Any]:
    return weights.dequantised() if isinstance(weights, Packed) else weights


def _matmul_nbits(x: NDArray[Any], weights: Weights, *, activations: str = Activations.FLOAT32) -> Doubles:
    kind = Activations(activations)
    wide = x.astype(np.float64) if kind is Activations.FLOAT32 else rounded(x, kind)
    product: Doubles = wide @ _plain(weights).astype(np.float64).T
    return product


def _embedding(ids: Sequence[int], table: Weights) -> Doubles:
    rows: Doubles = _plain(table)[np.asarray(ids)].astype(np.float64)
    return rows


def _add(a: NDArray[Any], b: NDArray[Any]) -> Doubles:
    total: Doubles = a.astype(np.float64) + b
    return total


def _mean_pool(x: NDArray[Any], *, normalise: bool = False) -> Doubles:
    mean: Doubles = x.astype(np.float64).mean(0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12) if normalise else mean


def _self_attention(
    q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], *, scale: float | None = None, causal: bool = False
) -> Doubles:
    scores = np.einsum("rhd,thd->hrt", q.astype(np.float64), k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
    return np.asarray(np.einsum("hrt,thd->rhd", _softmax(scores), v))


def _layer_norm(x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any], *, epsilon: float = 1e-5) -> Doubles:
    wide = x.astype(np.float64)
    normal = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + epsilon)
    scaled: Doubles = normal * weight + bias
    return scaled


def _softmax(x: NDArray[Any]) -> Doubles:
    wide = x.astype(np.float64)
    powers = np.exp(wide - wide.max(-1, keepdims=True))
    shares: Doubles = powers / powers.sum(-1, keepdims=True)
    return shares


def _gelu(x: NDArray[Any], *, tanh: bool = False) -> Doubles:
    from scipy.special import erf

    wide = x.astype(np.float64)
    inner = np.tanh((2 / np.pi) ** 0.5 * (wide + 0.044715 * wide**3)) if tanh else erf(wide / 2**0.5)
    unit: Doubles = wide / 2 * (1 + inner)
    return unit


def _silu(x: NDArray[Any]) -> Doubles:
    wide = x.astype(np.float64)
    unit: Doubles = wide / (1 + np.exp(-wide))
    return unit


def _rope(x: NDArray[Any], positions: Sequence[int], *, base: float = 10_000.0, interleaved: bool = False) -> Doubles:
    pairs = x.shape[-1] // 2
    turns = np.exp(1j * np.asarray(positions)[:, None] * base ** (-np.arange(pairs) / pairs))[:, None]
    places = (np.s_[..., 0::2], np.s_[..., 1::2]) if interleaved else (np.s_[..., :pairs], np.s_[..., pairs:])
    turned = (x[places[0]] + 1j * x[places[1]]) * turns
    right = np.empty(x.shape)
    right[places[0]], right[places[1]] = turned.real, turned.imag
    return right


def _attention(query: NDArray[Any], cache: KVCache, *, scale: float | None = None) -> Doubles:
    factor = 1.0 if scale is None else scale * query.shape[-1] ** 0.5
    return np.asarray(caches.attention(query * np.float32(factor), cache.keys(), cache.values()), np.float64)


_OF: Mapping[str, Callable[..., Doubles]] = {
    "add": _add,
    "attention": _attention,
    "embedding": _embedding,
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "matmul_nbits": _matmul_nbits,
    "mean_pool": _mean_pool,
    "rope": _rope,
    "self_attention": _self_attention,
    "silu": _silu,
    "softmax": _softmax,
}
