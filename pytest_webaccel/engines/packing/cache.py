"""A low-bit cache of keys and values for attention: what is old is quantised, what is recent is kept whole.

Keys differ from channel to channel more than from token to token, and values the other way round (KIVI, arXiv
2402.02750). So a key's scale belongs to one channel over a block of tokens, or, where asked, to a token like a value's;
a value's belongs to one token over a group of channels, which may span heads. Blocks have as many tokens as groups have
channels. Each scale has a zero of its own.

Tokens are appended to the recent ones. Once these are over the window by a whole block, their oldest block is
quantised. Blocks are evicted from the oldest on, those at the very beginning kept where asked: attention leans on the
first tokens.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.packing.layout import known_bits, known_group
from pytest_webaccel.engines.packing.quantise import Search, quantise
from pytest_webaccel.errors import ConfigurationError, FeedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_webaccel.engines.packing.packed import Packed

__all__ = ["CacheForm", "KVCache", "KeyScales", "attention"]


class KeyScales(enum.StrEnum):
    """What a key's scale belongs to."""

    CHANNEL = "channel"
    TOKEN = "token"  # noqa: S105 - no secret: a piece of text


@dataclasses.dataclass(frozen=True, slots=True)
class CacheForm:
    """How a cache is kept: ``heads`` x ``dim`` for each token, at ``bits``, ``window`` recent tokens whole at least.

    ``group`` is how many codes share a scale, and how many tokens are quantised together. Recent tokens are kept as
    ``recent``, float16 or float32. Raises ConfigurationError for what cannot be.
    """

    heads: int
    dim: int
    bits: int = 4
    group: int = 32
    window: int = 0
    keys: KeyScales = KeyScales.CHANNEL
    recent: Any = np.float16
    search: Search = Search.NEAREST

    def __post_init__(self) -> None:
        """Look whether it can be."""
        known_bits(self.bits)
        known_group(self.group)
        if min(self.heads, self.dim) < 1 or self.window < 0:
            raise ConfigurationError(
                f"heads={self.heads}, dim={self.dim}, window={self.window}: one, one and none at least"
            )
        if np.dtype(self.recent) not in (np.float16, np.float32):
            raise ConfigurationError(f"recent={np.dtype(self.recent)}: recent tokens are float16 or float32")

    @property
    def width(self) -> int:
        """Channels of one token, all heads together."""
        return self.heads * self.dim


class KVCache:
    """Keys and values of the tokens so far; :meth:`append` adds, :meth:`evict` takes away.

    ``key_blocks`` and ``value_blocks`` hold a :class:`Packed` for each quantised block, oldest first.
    """

    def __init__(self, form: CacheForm) -> None:
        self.form = form
        self.key_blocks: list[Packed] = []
        self.value_blocks: list[Packed] = []
        empty = np.zeros((0, form.width), form.recent)
        self.recent_keys: NDArray[Any] = empty
        self.recent_values: NDArray[Any] = empty

    def append(self, keys: NDArray[Any], values: NDArray[Any]) -> None:
        """Add tokens: float32 ``keys`` and ``values`` of shape (tokens, heads, dim).

        Raises FeedError for what does not fit, is not finite, or is too large for the type of recent tokens; nothing
        is added then.
        """
        form = self.form
        added = [self._flat(name, array) for name, array in (("keys", keys), ("values", values))]
        if len(added[0]) != len(added[1]):
            raise FeedError(f"keys are of {len(added[0])} tokens and values of {len(added[1])}")
        all_keys = np.concatenate([self.recent_keys, added[0]])
        all_values = np.concatenate([self.recent_values, added[1]])
        blocks = max(len(all_keys) - form.window, 0) // form.group
        for number in range(blocks):
            part = slice(number * form.group, (number + 1) * form.group)
            self.key_blocks.append(self._quantised_keys(all_keys[part].astype(np.float32)))
            self.value_blocks.append(self._quantised(all_values[part].astype(np.float32)))
        self.recent_keys = all_keys[blocks * form.group :]
        self.recent_values = all_values[blocks * form.group :]

    def evict(self, tokens: int, *, keep_first: int = 0) -> int:
        """Take away whole quantised blocks, ``tokens`` at least where there are so many; return how many tokens went.

        The oldest go first, but for the blocks that hold the first ``keep_first`` tokens.
        """
        if tokens < 0 or keep_first < 0:
            raise ConfigurationError(f"tokens={tokens}, keep_first={keep_first}: none at least")
        kept = -(-keep_first // self.form.group)
        gone = min(-(-tokens // self.form.group), max(len(self.key_blocks) - kept, 0))
        del self.key_blocks[kept : kept + gone]
        del self.value_blocks[kept : kept + gone]
        return gone * self.form.group

    def __len__(self) -> int:
        """Return how many tokens are there."""
        return len(self.key_blocks) * self.form.group + len(self.recent_keys)

    @property
    def nbytes(self) -> int:
        """Bytes that everything takes."""
        blocks = sum(block.nbytes for block in (*self.key_blocks, *self.value_blocks))
        return blocks + self.recent_keys.nbytes + self.recent_values.nbytes

    @property
    def effective_bits(self) -> float:
        """Bits for each number that is kept, with scales, zeros and recent tokens counted."""
        return self.nbytes * 8 / (2 * len(self) * self.form.width) if len(self) else 0.0

    def keys(self) -> NDArray[np.float32]:
        """Return the keys as attention sees them, float32 of shape (tokens, heads, dim)."""
        by_channel = self.form.keys is KeyScales.CHANNEL
        blocks = [block.dequantised().T if by_channel else block.dequantised() for block in self.key_blocks]
        return self._shaped([*blocks, self.recent_keys.astype(np.float32)])

    def values(self) -> NDArray[np.float32]:
        """Return the values as attention sees them, float32 of shape (tokens, heads, dim)."""
        blocks = [block.dequantised() for block in self.value_blocks]
        return self._shaped([*blocks, self.recent_values.astype(np.float32)])

    # -- inside ------------------------------------------------------------------------------

    def _flat(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        form = self.form
        if array.dtype != np.float32 or array.ndim != 3 or array.shape[1:] != (form.heads, form.dim):
            raise FeedError(
                f"{name} are float32 of shape [tokens, {form.heads}, {form.dim}]; got {array.dtype} of shape "
                f"{list(array.shape)}"
            )
        with np.errstate(over="ignore"):
            kept = array.reshape(len(array), form.width).astype(form.recent)
        if not np.isfinite(kept).all():
            raise FeedError(f"{name} hold NaN, infinity or what {np.dtype(form.recent)} cannot hold")
        return kept

    def _quantised_keys(self, block: NDArray[np.float32]) -> Packed:
        return self._quantised(np.ascontiguousarray(block.T) if self.form.keys is KeyScales.CHANNEL else block)

    def _quantised(self, block: NDArray[np.float32]) -> Packed:
        form = self.form
        return quantise(block, form.bits, group=form.group, zero_points=True, search=form.search)

    def _shaped(self, parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.concatenate(parts).reshape(-1, self.form.heads, self.form.dim)


def attention(
    query: NDArray[Any], keys: NDArray[Any], values: NDArray[Any], *, scale: float | None = None
) -> NDArray[np.float64]:
    """Return the attention of ``query`` (heads, dim) over ``keys`` and ``values`` (tokens, heads, dim), in float64.

    ``scale`` is that of the scores, ``1 / sqrt(dim)`` by default. The shape is that of ``query``.
    """
    wide = query.astype(np.float64)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = np.einsum("hd,thd->ht", wide, keys.astype(np.float64)) * factor
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights = powers / powers.sum(axis=1, keepdims=True)
    found: NDArray[np.float64] = np.einsum("ht,thd->hd", weights, values.astype(np.float64))
    return found
