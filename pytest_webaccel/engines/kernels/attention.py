"""Attention over a low-bit cache, ``kernels/attention``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels.dispatch import Dispatch
from pytest_webaccel.engines.kernels.manifest import manifest
from pytest_webaccel.engines.kernels.program import Output, Program, require
from pytest_webaccel.engines.kernels.weights import by_rows
from pytest_webaccel.engines.packing.cache import KeyScales, KVCache
from pytest_webaccel.errors import ConfigurationError, FeedError
from pytest_webaccel.terms import Backend

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.dispatch import Target

__all__ = ["attention"]

#: Channels of one head that an invocation keeps.
_CHANNELS = 8


def attention(
    query: NDArray[Any], cache: KVCache, *, scale: float | None = None, constants: Mapping[str, int] | None = None
) -> Program:
    """Return the program of the attention of ``query``, float32 of shape (heads, dim), over a cache, as ``y``.

    ``scale`` is that of the scores, ``1 / sqrt(dim)`` by default. Raises FeedError for a query that does not fit, or a
    cache without a token; heads that are too wide for the chosen workgroup are refused where it is lowered.
    """
    require(np.ndarray, query=query)
    require(KVCache, cache=cache)
    form = cache.form
    if query.dtype != np.float32 or query.shape != (form.heads, form.dim):
        raise FeedError(
            f"query is float32 of shape [{form.heads}, {form.dim}], as the cache's tokens; got {query.dtype} of shape "
            f"{list(query.shape)}"
        )
    if not len(cache):
        raise FeedError("the cache holds no token: append one before it is looked into")
    keys, values, places = np.zeros(1, np.uint32), np.zeros(0, np.uint32), (0,) * 5
    if cache.key_blocks:
        old, also = by_rows(*cache.key_blocks), by_rows(*cache.value_blocks)
        keys, values = old.data, also.data
        places = (old.scales, old.zeros, len(keys), len(keys) + also.scales, len(keys) + also.zeros)
    recent = np.stack([cache.recent_keys, cache.recent_values]).astype(np.float32)
    factor = np.float32(form.dim**-0.5 if scale is None else scale)
    fixed = {"BITS": form.bits, "GROUP": form.group, "KEYS_BY_CHANNEL": int(form.keys is KeyScales.CHANNEL)}
    inputs = {
        "q": query,
        "packed": np.concatenate([keys, values]),
        "recent": recent if recent.size else np.zeros(1, np.float32),
    }
    tokens = (len(cache.key_blocks), len(cache.recent_keys))
    outputs = {"y": Output("float32", query.shape)}

    def webgpu(target: Target, given: Mapping[str, int]) -> Dispatch:
        made = manifest("attention")
        chosen = made.constants(given or made.untuned(target.features))
        workgroup = chosen["WORKGROUP"]
        if form.dim > _CHANNELS * workgroup:
            raise ConfigurationError(
                f"kernel attention: heads of {form.dim} channels are more than {_CHANNELS} x WORKGROUP={workgroup}"
            )
        return Dispatch(
            kernel=made.name,
            source=made.digest,
            code=made.code,
            entry=made.entry,
            constants={**fixed, **chosen},
            chosen=chosen,
            form=fixed,
            bindings=("q", "packed", "recent", "y", "uniform"),
            inputs=inputs,
            outputs=outputs,
            uniform=(form.heads, form.dim, *tokens, *places, int(factor.view(np.uint32))),
            workgroups=(form.heads, 1, 1),
        )

    return Program("attention", inputs, outputs, {Backend.WEBGPU: webgpu}, constants or {})
