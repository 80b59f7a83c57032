"""A transformer encoder of BERT's kind, run wholly by the project's kernels: sentence embeddings.

Devlin et al., 2019 (arXiv:1810.04805); the mean of the last layer's rows, brought to length 1, is the embedding, as in
Reimers and Gurevych, 2019 (arXiv:1908.10084).
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels.embedding import embedding
from pytest_webaccel.engines.kernels.matmul import matmul_nbits
from pytest_webaccel.engines.kernels.rounded import Activations
from pytest_webaccel.engines.kernels.rows import add, gelu, layer_norm, mean_pool, self_attention
from pytest_webaccel.engines.kernels.weights import Resident
from pytest_webaccel.engines.packing import Packed, quantise
from pytest_webaccel.errors import ConfigurationError, FeedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.program import Tensor
    from pytest_webaccel.engines.kernels.weights import Weights

__all__ = ["Bert"]

_WORDS = "embeddings.word_embeddings.weight"
_POSITIONS = "embeddings.position_embeddings.weight"
_TYPES = "embeddings.token_type_embeddings.weight"
_OF_A_LAYER = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)


class Bert:
    """An encoder by its weights, by the names that Hugging Face's ``BertModel`` gives them.

    Weights are float32, or matrices that are packed already; packed positions hold their type, as :meth:`weight` gives
    them. ``heads`` are those of its attention, ``epsilon`` is that of its normalisation. ``bits`` are those of matrices
    that are not packed yet: one number for all, or by name, 32 for plain float32, which is the default; see
    :attr:`matrices`. ``activations`` is what the input of a product with packed weights is rounded to, see
    :func:`~pytest_webaccel.engines.kernels.matmul.matmul_nbits`. Raises ConfigurationError for weights that are missing
    or do not fit together.
    """

    def __init__(
        self,
        weights: Mapping[str, Weights],
        *,
        heads: int,
        epsilon: float = 1e-12,
        bits: int | Mapping[str, int] = 32,
        group: int = 32,
        activations: Activations | str = Activations.FLOAT32,
    ) -> None:
        numbers = {int(found[1]) for name in weights if (found := re.match(r"encoder\.layer\.(\d+)\.", name))}
        self.layers = max(numbers, default=-1) + 1
        names = [_WORDS, _POSITIONS, "embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias"]
        for layer in range(self.layers):
            names += [f"encoder.layer.{layer}.{part}.{kind}" for part in _OF_A_LAYER for kind in ("weight", "bias")]
        typed = isinstance(weights.get(_POSITIONS), Packed)
        if missing := [name for name in (*names, *([] if typed else [_TYPES])) if name not in weights]:
            raise ConfigurationError(f"weights of an encoder are missing: {', '.join(missing[:5])}")
        if not self.layers:
            raise ConfigurationError("an encoder has at least one layer: no weights are called encoder.layer.0...")
        self.heads = heads
        shapes = {name: _shape(weight) for name, weight in weights.items()}
        _require_shapes(shapes, self.layers)
        self.width = shapes[_WORDS][1]
        self.positions = shapes[_POSITIONS][0]
        if heads < 1 or self.width % heads:
            raise ConfigurationError(f"heads={heads}: the width of {self.width} is not a multiple of it")
        self._epsilon = epsilon
        plain = {name: _floats(weights[name]) for name in names}
        if not typed:
            # What every token has of its type is added to the positions: there is one type here.
            plain[_POSITIONS] = plain[_POSITIONS] + np.asarray(weights[_TYPES], np.float32)[0]
        self.matrices = tuple(name for name in names if len(shapes[name]) == 2)
        left = [name for name in self.matrices if not isinstance(plain[name], Packed)]
        asked = bits if not isinstance(bits, int) else dict.fromkeys(left, bits)
        if unknown := set(asked) - set(left):
            raise ConfigurationError(
                f"bits are given for what is no matrix of the encoder, or packed already: {', '.join(sorted(unknown))}"
            )
        self._weights: dict[str, Resident[Any]] = {}
        for name, weight in plain.items():
            wanted = asked.get(name, 32)
            self._weights[name] = Resident(weight if wanted == 32 else quantise(weight, wanted, group=group))
        self._activations = Activations.named(activations)
        packed = any(isinstance(kept.value, Packed) for kept in self._weights.values())
        if self._activations is not Activations.FLOAT32 and not packed:
            raise ConfigurationError(
                f"activations={activations} go with packed weights, and none are: give bits as well"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(kept.value.nbytes for kept in self._weights.values())

    def weight(self, name: str) -> NDArray[np.float32]:
        """Return a weight as the kernels see it, float32: what low bits stand for."""
        value = self._weights[name].value
        return value.dequantised() if isinstance(value, Packed) else value

    def embed(self, ids: Sequence[int] | NDArray[Any]) -> Tensor:
        """Return the embedding of one sequence of token ids, float32 of shape (width), to be computed.

        Raises FeedError for ids that are no rows of the table of words, or more than there are positions.
        """
        rows = np.asarray(ids)
        if rows.ndim == 1 and rows.size > self.positions:
            raise FeedError(f"{rows.size} tokens are more than the {self.positions} that there are positions for")
        words = embedding(rows, self._weights[_WORDS])["y"]
        places = embedding(np.arange(rows.size), self._weights[_POSITIONS])["y"]
        hidden = self._normal(add(words, places)["y"], "embeddings.LayerNorm")
        for layer in range(self.layers):
            hidden = self._layer(hidden, f"encoder.layer.{layer}.")
        return mean_pool(hidden, normalise=True)["y"]

    def _layer(self, hidden: Tensor, at: str) -> Tensor:
        rows = hidden.shape[0]
        q, k, v = (
            self._linear(hidden, f"{at}attention.self.{part}").reshape(rows, self.heads, self.width // self.heads)
            for part in ("query", "key", "value")
        )
        mixed = self_attention(q, k, v)["y"].reshape(rows, self.width)
        attended = add(self._linear(mixed, f"{at}attention.output.dense"), hidden)["y"]
        middle = self._normal(attended, f"{at}attention.output.LayerNorm")
        wide = gelu(self._linear(middle, f"{at}intermediate.dense"))["y"]
        return self._normal(add(self._linear(wide, f"{at}output.dense"), middle)["y"], f"{at}output.LayerNorm")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        weight = self._weights[f"{name}.weight"]
        activations = self._activations if isinstance(weight.value, Packed) else Activations.FLOAT32
        product = matmul_nbits(x, weight, activations=activations)["y"]
        return add(product, self._weights[f"{name}.bias"])["y"]

    def _normal(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return layer_norm(x, weight, bias, epsilon=self._epsilon)["y"]


def _shape(weight: Weights) -> tuple[int, ...]:
    return (weight.rows, weight.columns) if isinstance(weight, Packed) else weight.shape


def _floats(weight: Weights) -> Any:
    """Return what is not packed as float32."""
    return weight if isinstance(weight, Packed) else np.asarray(weight, np.float32)


def _require_shapes(shapes: Mapping[str, tuple[int, ...]], layers: int) -> None:
    """Raise ConfigurationError for a weight whose shape does not fit to those of the others."""
    words = shapes[_WORDS]
    if len(words) != 2:
        raise ConfigurationError(f"{_WORDS} is of shape [words, width]; got {list(words)}")
    width = words[1]
    tables = [name for name in (_POSITIONS, _TYPES) if name in shapes]
    wanted: dict[str, tuple[int, ...]] = {name: (*shapes[name][:1], width) for name in tables}
    wanted |= dict.fromkeys(("embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias"), (width,))
    for layer in range(layers):
        at = f"encoder.layer.{layer}."
        inner = math.prod(shapes[f"{at}intermediate.dense.bias"])
        for part in _OF_A_LAYER:
            rows = inner if part == "intermediate.dense" else width
            columns = inner if part == "output.dense" else width
            wanted[f"{at}{part}.bias"] = (rows,)
            wanted[f"{at}{part}.weight"] = (rows,) if part.endswith("LayerNorm") else (rows, columns)
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise ConfigurationError(f"{name} is of shape {list(shape)}, as the others are; got {list(shapes[name])}")
