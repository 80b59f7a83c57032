"""A transformer decoder that is run wholly by the project's kernels, token by token, over a cache on the device.

Layers normalise before attention and before two matrices with a GELU between (Radford et al., 2019); positions are
rotary (Su et al., 2021, arXiv:2104.09864). Matrices have no biases.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels.cache import CacheLayout, DeviceCache
from pytest_webaccel.engines.kernels.embedding import embedding
from pytest_webaccel.engines.kernels.matmul import matmul_nbits
from pytest_webaccel.engines.kernels.rows import add, gelu, layer_norm, rope
from pytest_webaccel.engines.kernels.state import State
from pytest_webaccel.engines.kernels.weights import Resident
from pytest_webaccel.engines.packing import quantise
from pytest_webaccel.engines.packing.cache import CacheForm
from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.program import Tensor

__all__ = ["Decoder", "Decoding"]

_EMBED, _HEAD = "embed.weight", "head.weight"


class Decoder:
    """A decoder by its weights, float32, all by name.

    They are ``embed.weight`` and ``head.weight`` of shape (words, width); ``norm.weight`` and ``norm.bias`` of (width);
    and for each layer n, below ``layers.n.``: ``attention.norm.weight``, ``attention.norm.bias``, ``mlp.norm.weight``
    and ``mlp.norm.bias`` of (width), ``attention.query.weight``, ``attention.key.weight``, ``attention.value.weight``
    and ``attention.output.weight`` of (width, width), ``mlp.up.weight`` of (inner, width) and ``mlp.down.weight`` of
    (width, inner). ``heads`` are those of its attention, ``bits`` those of all matrices, 32 for plain float32. Raises
    ConfigurationError for weights that are missing or do not fit together.
    """

    def __init__(
        self,
        weights: Mapping[str, NDArray[Any]],
        *,
        heads: int,
        bits: int = 32,
        group: int = 32,
        base: float = 10_000.0,
    ) -> None:
        numbers = {int(found[1]) for name in weights if (found := re.match(r"layers\.(\d+)\.", name))}
        self.layers = max(numbers, default=-1) + 1
        if not self.layers:
            raise ConfigurationError("a decoder has at least one layer: no weights are called layers.0...")
        shapes = _shapes(weights, self.layers)
        self.heads = heads
        self.width = shapes["norm.weight"][0]
        if heads < 1 or self.width % heads or self.width // heads % 2:
            raise ConfigurationError(f"heads={heads}: the width of {self.width} is no even multiple of it")
        self._base = base
        self._weights: dict[str, Resident[Any]] = {}
        for name in shapes:
            plain = np.asarray(weights[name], np.float32)
            self._weights[name] = Resident(
                plain if bits == 32 or plain.ndim != 2 else quantise(plain, bits, group=group)
            )

    def begin(
        self, form: CacheForm | None = None, *, capacity: int, evict: bool = False, checkpoint: int = 64
    ) -> Decoding:
        """Return a text without a token, for up to ``capacity`` of them, or with ``evict`` the last so many.

        ``form`` is how each layer's keys and values are kept, 4 bits by default; see
        :class:`~pytest_webaccel.engines.kernels.cache.DeviceCache`. Raises ConfigurationError for one of other heads.
        """
        dim = self.width // self.heads
        form = form or CacheForm(self.heads, dim)
        if (form.heads, form.dim) != (self.heads, dim):
            raise ConfigurationError(f"a cache of {self.heads} heads of {dim}, not of {form.heads} of {form.dim}")
        layout = CacheLayout(form, capacity)
        sizes = {f"{layer}-{name}": size for layer in range(self.layers) for name, size in layout.sizes.items()}
        state = State(sizes, checkpoint=checkpoint)
        caches = [DeviceCache(layout, evict=evict, state=state, prefix=f"{layer}-") for layer in range(self.layers)]
        return Decoding(self, caches)

    def step(self, token: int, position: int, caches: Sequence[DeviceCache]) -> tuple[Tensor, list[DeviceCache]]:
        """Return the logits after one more token, float32 of shape (words), and each layer's cache with it.

        Raises FeedError for a token that is no word, or a cache without room.
        """
        hidden = embedding([token], self._weights[_EMBED])["y"]
        after = []
        for layer, before in enumerate(caches):
            at = f"layers.{layer}."
            shape = (1, self.heads, self.width // self.heads)
            normal = self._normal(hidden, f"{at}attention.norm")
            q, k, v = (
                self._product(normal, f"{at}attention.{name}").reshape(*shape) for name in ("query", "key", "value")
            )
            q, k = (rope(one, [position], base=self._base)["y"] for one in (q, k))
            after.append(before.append(k, v))
            seen = after[-1].attention(q.reshape(*shape[1:])).reshape(1, self.width)
            hidden = add(hidden, self._product(seen, f"{at}attention.output"))["y"]
            normal = self._normal(hidden, f"{at}mlp.norm")
            inner = gelu(self._product(normal, f"{at}mlp.up"))["y"]
            hidden = add(hidden, self._product(inner, f"{at}mlp.down"))["y"]
        logits = self._product(self._normal(hidden, "norm"), "head")
        return logits.reshape(logits.size), after

    def weight(self, name: str) -> NDArray[np.float32]:
        """Return a weight as the kernels see it, float32: what low bits stand for."""
        value = self._weights[name].value
        return value if isinstance(value, np.ndarray) else np.asarray(value.dequantised())

    def _product(self, x: Tensor, name: str) -> Tensor:
        return matmul_nbits(x, self._weights[f"{name}.weight"])["y"]

    def _normal(self, x: Tensor, name: str) -> Tensor:
        return layer_norm(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])["y"]


@dataclasses.dataclass(slots=True)
class Decoding:
    """A text that a decoder goes through, as far as it has come: ``caches`` are its layers' keys and values."""

    decoder: Decoder
    caches: list[DeviceCache]
    position: int = 0

    def step(self, token: int) -> Tensor:
        """Return the logits after one more token, float32 of shape (words), to be computed.

        Several steps may be taken before the last one's logits are: they are computed with it, in one request. Raises
        FeedError for a token that is no word, or where there is no room for it.
        """
        logits, caches = self.decoder.step(token, self.position, self.caches)
        self.caches, self.position = caches, self.position + 1
        return logits

    @property
    def nbytes(self) -> int:
        """Bytes that the keys and values take on the device."""
        return self.caches[0].state.nbytes


def _shapes(weights: Mapping[str, NDArray[Any]], layers: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights; raises ConfigurationError for one that is missing or does not fit."""
    if missing := [name for name in (_EMBED, _HEAD, "layers.0.mlp.up.weight") if name not in weights]:
        raise ConfigurationError(f"weights of a decoder are missing: {', '.join(missing)}")
    if weights[_EMBED].ndim != 2 or weights["layers.0.mlp.up.weight"].ndim != 2:
        raise ConfigurationError(f"{_EMBED} is of shape [words, width]; got {list(weights[_EMBED].shape)}")
    (words, width), inner = weights[_EMBED].shape, weights["layers.0.mlp.up.weight"].shape[0]
    shapes: dict[str, tuple[int, ...]] = {_EMBED: (words, width), _HEAD: (words, width)}
    norms = ["norm"]
    for layer in range(layers):
        at = f"layers.{layer}."
        norms += [f"{at}attention.norm", f"{at}mlp.norm"]
        shapes |= {f"{at}attention.{name}.weight": (width, width) for name in ("query", "key", "value", "output")}
        shapes |= {f"{at}mlp.up.weight": (inner, width), f"{at}mlp.down.weight": (width, inner)}
    shapes |= {f"{name}.{kind}": (width,) for name in norms for kind in ("weight", "bias")}
    for name, shape in shapes.items():
        if name not in weights:
            raise ConfigurationError(f"weights of a decoder are missing: {name}")
        if weights[name].shape != shape:
            raise ConfigurationError(
                f"{name} is of shape {list(shape)}, as the others are; got {list(weights[name].shape)}"
            )
    return shapes
