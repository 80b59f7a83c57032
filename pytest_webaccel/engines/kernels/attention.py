"""Attention over a low-bit cache, ``kernels/attention``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels.cpu import on_cpu
from pytest_webaccel.engines.kernels.gpu import on_webgpu
from pytest_webaccel.engines.kernels.graph import Port, graph_dispatch, packed_ports
from pytest_webaccel.engines.kernels.program import Output, Program, Tensor, require
from pytest_webaccel.engines.kernels.weights import Form, by_rows
from pytest_webaccel.engines.packing.cache import CacheForm, KeyScales, KVCache
from pytest_webaccel.errors import ConfigurationError, FeedError
from pytest_webaccel.terms import Backend

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.dispatch import Dispatch, Operand, Target
    from pytest_webaccel.engines.kernels.program import Floats

__all__ = ["Lain", "attended", "attention", "fixed", "half"]

#: Channels of one head that an invocation keeps.
_CHANNELS = 8


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Lain:
    """Where the tokens of a cache lie: blocks in ``packed``, and recent ones in a ring of ``slots`` in ``recent``.

    ``slot`` is that of the oldest of the latter. ``places`` are where in ``packed`` the scales of the keys begin, their
    zeros, the codes of the values, their scales and their zeros.
    """

    packed: Operand
    recent: Operand
    blocks: int
    recent_tokens: int
    slot: int
    slots: int
    places: tuple[int, ...]


def attention(
    query: NDArray[Any], cache: KVCache, *, scale: float | None = None, constants: Mapping[str, int] | None = None
) -> Program:
    """Return the program of the attention of ``query``, float32 of shape (heads, dim), over a cache, as ``y``.

    The cache is sent along; one that stays on the device is
    :class:`~pytest_webaccel.engines.kernels.cache.DeviceCache`. ``scale`` is that of the scores, ``1 / sqrt(dim)`` by
    default. Raises FeedError for a query that does not fit, or a cache without a token; heads that are too wide for the
    chosen workgroup are refused where it is lowered.
    """
    require(KVCache, cache=cache)
    made = attended(query, cache.form, _sent(cache), scale=scale, constants=constants)
    return dataclasses.replace(made, ways={**made.ways, Backend.WEBNN: _webnn(query, cache, scale, made.outputs)})


def attended(
    query: Floats, form: CacheForm, lain: Lain, *, scale: float | None, constants: Mapping[str, int] | None
) -> Program:
    """Return the program of the attention of ``query`` over a cache of such a form that lies so, as ``y``."""
    require((np.ndarray, Tensor), query=query)
    if query.dtype != np.float32 or tuple(query.shape) != (form.heads, form.dim):
        raise FeedError(
            f"query is float32 of shape [{form.heads}, {form.dim}], as the cache's tokens; got {query.dtype} of shape "
            f"{list(query.shape)}"
        )
    if not lain.blocks + lain.recent_tokens:
        raise FeedError("the cache holds no token: append one before it is looked into")
    factor = np.float32(form.dim**-0.5 if scale is None else scale)
    constant = fixed(form)
    inputs = {"q": query, "packed": lain.packed, "recent": lain.recent}
    ring = (lain.blocks, lain.recent_tokens, lain.slot, lain.slots)
    uniform = (form.heads, form.dim, *ring, *lain.places, int(factor.view(np.uint32)))
    outputs = {"y": Output("float32", (form.heads, form.dim))}

    def webgpu(target: Target, given: Mapping[str, int]) -> Dispatch:
        made = on_webgpu("attention", target, inputs, outputs, uniform, constant, given, (form.heads, 1, 1))
        workgroup = made.chosen["WORKGROUP"]
        if form.dim > _CHANNELS * workgroup:
            raise ConfigurationError(
                f"kernel attention: heads of {form.dim} channels are more than {_CHANNELS} x WORKGROUP={workgroup}"
            )
        return made

    def cpu(target: Target, given: Mapping[str, int]) -> Dispatch:
        del target
        return on_cpu("attention", inputs, outputs, uniform, constant, given)

    ways = {Backend.WEBGPU: webgpu, Backend.CPU: cpu}
    return Program("attention", inputs, outputs, ways, constants or {})


def _webnn(
    query: NDArray[Any], cache: KVCache, scale: float | None, outputs: Mapping[str, Output]
) -> Callable[[Target, Mapping[str, int]], Dispatch]:
    """Return how WebNN computes it, of the tokens that the cache holds now."""
    form = cache.form
    attributes = {
        "bits": form.bits,
        "group": form.group,
        "keys_by_channel": int(form.keys is KeyScales.CHANNEL),
        "blocks": len(cache.key_blocks),
        "scale": float(np.float32(form.dim**-0.5 if scale is None else scale)),
    }

    operands: dict[str, Operand] = {"q": query}
    ports = {"q": Port("q", (form.heads, form.dim))}
    for kind, blocks, recent in (
        ("key", cache.key_blocks, cache.recent_keys),
        ("value", cache.value_blocks, cache.recent_values),
    ):
        if blocks:
            words = by_rows(*blocks)
            operands[kind] = words.data
            ports |= packed_ports(kind, Form.of(blocks[0]), words, len(blocks), f"{kind}_")
        if len(recent):
            operands[f"recent_{kind}s"] = recent.astype(np.float32)
            ports[f"recent_{kind}s"] = Port(f"recent_{kind}s", recent.shape)

    def webnn(target: Target, given: Mapping[str, int]) -> Dispatch:
        del target
        return graph_dispatch(
            "attention", operands, outputs, given, ports=ports, attributes=attributes, form=fixed(form)
        )

    return webnn


def fixed(form: CacheForm) -> dict[str, int]:
    """Return the constants that tell kernels of a cache's form."""
    by_channel = int(form.keys is KeyScales.CHANNEL)
    recent = 16 if half(form) else 32
    return {"BITS": form.bits, "GROUP": form.group, "KEYS_BY_CHANNEL": by_channel, "RECENT_BITS": recent}


def half(form: CacheForm) -> bool:
    """Whether recent tokens lie on the device as float16: two of them share a word."""
    return np.dtype(form.recent) == np.float16 and form.width % 2 == 0


def _sent(cache: KVCache) -> Lain:
    """Return a cache as it is sent along."""
    keys, values, places = np.zeros(1, np.uint32), np.zeros(0, np.uint32), (0,) * 5
    if cache.key_blocks:
        old, also = by_rows(*cache.key_blocks), by_rows(*cache.value_blocks)
        keys, values = old.data, also.data
        places = (old.scales, old.zeros, len(keys), len(keys) + also.scales, len(keys) + also.zeros)
    kind = np.float16 if half(cache.form) else np.float32
    recent = np.stack([cache.recent_keys, cache.recent_values]).astype(kind).reshape(-1).view(np.uint32)
    return Lain(
        packed=np.concatenate([keys, values]),
        recent=recent if recent.size else np.zeros(1, np.uint32),
        blocks=len(cache.key_blocks),
        recent_tokens=len(cache.recent_keys),
        slot=0,
        slots=max(len(cache.recent_keys), 1),
        places=places,
    )
