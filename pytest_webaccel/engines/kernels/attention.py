"""Attention over a low-bit cache, ``kernels/attention``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels.manifest import manifest
from pytest_webaccel.engines.kernels.program import Output, Program, arrays, words_of
from pytest_webaccel.engines.packing.cache import KeyScales
from pytest_webaccel.errors import ConfigurationError, FeedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.packing import Packed
    from pytest_webaccel.engines.packing.cache import KVCache

__all__ = ["attention"]

#: Channels of one head that an invocation keeps.
_CHANNELS = 8


def attention(
    query: NDArray[Any], cache: KVCache, *, scale: float | None = None, constants: Mapping[str, int] | None = None
) -> Program:
    """Return the program of the attention of ``query``, float32 of shape (heads, dim), over a cache, as ``y``.

    ``scale`` is that of the scores, ``1 / sqrt(dim)`` by default. Raises FeedError for a query that does not fit, or a
    cache without a token, ConfigurationError for heads that are too wide for the chosen workgroup.
    """
    arrays(query=query)
    form = cache.form
    if query.dtype != np.float32 or query.shape != (form.heads, form.dim):
        raise FeedError(
            f"query is float32 of shape [{form.heads}, {form.dim}], as the cache's tokens; got {query.dtype} of shape "
            f"{list(query.shape)}"
        )
    if not len(cache):
        raise FeedError("the cache holds no token: append one before it is looked into")
    made = manifest("attention")
    chosen = made.constants(constants)
    workgroup = chosen["WORKGROUP"]
    if form.dim > _CHANNELS * workgroup:
        raise ConfigurationError(
            f"kernel attention: heads of {form.dim} channels are more than {_CHANNELS} x WORKGROUP={workgroup}"
        )
    keys, key_scales, key_zeros = _joined(cache.key_blocks)
    values, value_scales, value_zeros = _joined(cache.value_blocks)
    recent = np.stack([cache.recent_keys, cache.recent_values]).astype(np.float32)
    factor = np.float32(form.dim**-0.5 if scale is None else scale)
    return Program(
        kernel=made.name,
        code=made.code,
        entry=made.entry,
        constants={
            "BITS": form.bits,
            "GROUP": form.group,
            "KEYS_BY_CHANNEL": int(form.keys is KeyScales.CHANNEL),
            **chosen,
        },
        bindings=("q", "keys", "values", "recent", "y", "uniform"),
        inputs={
            "q": query,
            "keys": keys,
            "values": values,
            "recent": recent if recent.size else np.zeros(1, np.float32),
        },
        outputs={"y": Output("float32", query.shape)},
        uniform=(
            form.heads,
            form.dim,
            len(cache.key_blocks),
            len(cache.recent_keys),
            key_scales,
            key_zeros,
            value_scales,
            value_zeros,
            int(factor.view(np.uint32)),
        ),
        workgroups=(form.heads, 1, 1),
    )


def _joined(blocks: Sequence[Packed]) -> tuple[NDArray[np.uint32], int, int]:
    """Return codes, scales and zeros of all blocks one after the other, and where the latter two begin."""
    if not blocks:
        return np.zeros(1, np.uint32), 0, 0
    words = np.concatenate([block.words.reshape(-1) for block in blocks])
    scales = words_of(np.concatenate([block.scales.reshape(-1) for block in blocks]))
    zeros = words_of(np.concatenate([block.zeros.reshape(-1) for block in blocks if block.zeros is not None]))
    return np.concatenate([words, scales, zeros]), len(words), len(words) + len(scales)
