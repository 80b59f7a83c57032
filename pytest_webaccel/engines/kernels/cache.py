"""A low-bit cache of keys and values that stays on a lane's device, ``kernels/kv_append`` and ``kv_quantise``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from pytest_webaccel.engines.kernels.attention import Lain, attended, fixed, half
from pytest_webaccel.engines.kernels.cpu import on_cpu
from pytest_webaccel.engines.kernels.gpu import on_webgpu
from pytest_webaccel.engines.kernels.program import Output, Program, Tensor, require
from pytest_webaccel.engines.kernels.state import Cell, State
from pytest_webaccel.engines.packing.cache import CacheForm, KeyScales
from pytest_webaccel.engines.packing.quantise import Search
from pytest_webaccel.errors import ConfigurationError, FeedError
from pytest_webaccel.terms import Backend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_webaccel.engines.kernels.dispatch import Dispatch, Operand, Target
    from pytest_webaccel.engines.kernels.program import Floats

__all__ = ["CacheLayout", "DeviceCache"]

_WORD = 4


@dataclasses.dataclass(frozen=True, slots=True)
class CacheLayout:
    """How a cache for ``capacity`` tokens at least lies on a device: in blocks, and in a ring of recent tokens.

    A ``window`` of ``capacity`` or more keeps all tokens whole. Raises ConfigurationError for a form that a device
    cannot keep.
    """

    form: CacheForm
    capacity: int

    def __post_init__(self) -> None:
        """Look whether it can be."""
        if self.capacity < 1:
            raise ConfigurationError(f"capacity={self.capacity}: a cache holds one token at least")
        if self.form.width % 4:
            raise ConfigurationError(
                f"a cache on a device has a multiple of 4 channels a token, not {self.form.heads} x {self.form.dim}"
            )
        if self.form.search != Search.NEAREST:
            raise ConfigurationError("a cache on a device is quantised to nearest: search=mse is for a cache in NumPy")

    @property
    def slots(self) -> int:
        """Recent tokens that there is room for."""
        form = self.form
        return self.capacity if form.window >= self.capacity else form.window + form.group

    @property
    def blocks(self) -> int:
        """Blocks that there is room for."""
        if self.form.window >= self.capacity:
            return 0
        return -(-max(self.capacity - self.slots + 1, 0) // self.form.group)

    @property
    def groups(self) -> tuple[int, int]:
        """Groups of keys and of values in a block."""
        form = self.form
        across = -(-form.width // form.group) * form.group
        return (form.width if form.keys is KeyScales.CHANNEL else across), across

    @property
    def places(self) -> tuple[int, ...]:
        """Where in the words of all blocks the scales of the keys begin, their zeros, and the same of the values."""
        found, at = [], 0
        for groups in self.groups:
            of_all = self.blocks * groups
            codes = of_all * self.form.group // 32 * self.form.bits
            found += [at, at + codes, at + codes + of_all // 2]
            at += codes + of_all // 2 + of_all // 4
        return (*found[1:], at)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of the buffers by name."""
        recent = 2 * self.slots * self.form.width * (2 if half(self.form) else 4)
        return {"packed": max(self.places[-1], 1) * _WORD, "recent": recent}

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(self.sizes.values())


class DeviceCache:
    """A cache of keys and values on a lane's device, as it is after some tokens; appending gives the next one.

    ``layout`` says its form and how many tokens it has room for. What is appended is written in place as soon as
    something that needs it is computed, ``webaccel.compute({"y": cache.attention(query)})``; from then on only the
    cache that was appended to last is of use. Once the recent tokens are over the window by a block, the oldest block
    of them is quantised. A full cache refuses tokens, or, with ``evict``, the oldest give way: block by block, or one
    by one where all are whole; the first ``keep_first`` blocks stay, as attention leans on the first tokens.

    ``state`` and ``prefix`` are for several caches that are computed with together: their buffers lie in one state, its
    sizes named ``prefix`` + those of the layout.
    """

    def __init__(
        self,
        layout: CacheLayout,
        *,
        evict: bool = False,
        keep_first: int = 0,
        state: State | None = None,
        prefix: str = "",
    ) -> None:
        if not 0 <= keep_first < max(layout.blocks, 1):
            raise ConfigurationError(
                f"keep_first={keep_first}: of {layout.blocks} blocks one at least must be free to go"
            )
        if evict and not layout.blocks and layout.form.window < layout.capacity:
            least = layout.slots
            raise ConfigurationError(f"capacity={layout.capacity}: where the oldest give way, {least} tokens at least")
        self.layout = layout
        self.state = state or State({prefix + name: size for name, size in layout.sizes.items()})
        self._prefix = prefix
        self._evict = evict
        self._keep_first = keep_first
        self._from = self.state.version
        self._written: dict[str, Tensor] = {}
        self._quantised = self._slot = self._recent = self._whole = 0

    def __len__(self) -> int:
        """Return how many tokens it holds."""
        return min(self._quantised, self.layout.blocks) * self.layout.form.group + self._recent

    @property
    def seen(self) -> int:
        """How many tokens have been appended, those that were evicted among them."""
        return self._quantised * self.layout.form.group + self._recent + self._whole

    def append(self, keys: Floats, values: Floats) -> DeviceCache:
        """Return the cache after some more tokens: float32 ``keys`` and ``values`` of shape (tokens, heads, dim).

        Values beyond the range of ``recent`` become infinite there. Raises FeedError for what does not fit, or more
        tokens than there is room for.
        """
        form = self.layout.form
        for name, given in (("keys", keys), ("values", values)):
            require((np.ndarray, Tensor), **{name: given})
            if given.dtype != np.float32 or given.ndim != 3 or tuple(given.shape[1:]) != (form.heads, form.dim):
                raise FeedError(
                    f"{name} are float32 of shape [tokens, {form.heads}, {form.dim}]; got {given.dtype} of shape "
                    f"{list(given.shape)}"
                )
        if keys.shape[0] != values.shape[0] or not keys.shape[0]:
            raise FeedError(
                f"keys are of {keys.shape[0]} tokens and values of {values.shape[0]}: as many, one at least"
            )
        after = self._copy()
        first = 0
        while first < keys.shape[0]:
            first += after._take(keys, values, first)
        return after

    def attention(
        self, query: Floats, *, scale: float | None = None, constants: Mapping[str, int] | None = None
    ) -> Tensor:
        """Return the attention of ``query``, float32 of shape (heads, dim), over what it holds, to be computed.

        ``scale`` is that of the scores, ``1 / sqrt(dim)`` by default. Raises FeedError as the kernel ``attention``.
        """
        layout = self.layout
        lain = Lain(
            packed=self._operand("packed"),
            recent=self._operand("recent"),
            blocks=min(self._quantised, layout.blocks),
            recent_tokens=self._recent,
            slot=self._slot,
            slots=layout.slots,
            places=layout.places[:5],
        )
        return attended(query, layout.form, lain, scale=scale, constants=constants)["y"]

    # -- inside ------------------------------------------------------------------------------

    def _copy(self) -> DeviceCache:
        after = DeviceCache.__new__(DeviceCache)
        waiting = {name: one for name, one in self._written.items() if not self.state.wrote(one.program)}
        after.__dict__.update(self.__dict__, _written=waiting, _from=self._version)
        return after

    @property
    def _version(self) -> int:
        """The version of the state that buffers are of which are not still to be written."""
        done = any(self.state.wrote(tensor.program) for tensor in self._written.values())
        return self.state.version if done else self._from

    def _operand(self, name: str) -> Tensor | Cell:
        """Return a buffer: what is to write it, unless that has run."""
        tensor = self._written.get(name)
        if tensor is None or self.state.wrote(tensor.program):
            return self._cell(name)
        return tensor

    def _cell(self, name: str) -> Cell:
        return self.state.cell(self._prefix + name, self._version)

    def _take(self, keys: Floats, values: Floats, first: int) -> int:
        """Append tokens from ``first`` on, as many as there is room for before something is quantised or evicted."""
        layout = self.layout
        left = keys.shape[0] - first
        if self._recent == layout.slots:  # all are kept whole
            if not self._evict:
                raise FeedError(f"the cache holds {len(self)} tokens, and has room for no more")
            gone = min(left, layout.slots)
            self._slot, self._recent = (self._slot + gone) % layout.slots, self._recent - gone
            self._whole += gone
        count = min(left, layout.slots - self._recent)
        self._write_recent(keys, values, first, count)
        self._recent += count
        if self._recent == layout.slots and layout.form.window < layout.capacity:
            self._quantise()
        return count

    def _quantise(self) -> None:
        layout = self.layout
        if self._quantised >= layout.blocks and not self._evict:
            raise FeedError(f"the cache holds {len(self) - 1} tokens, and has room for no more")
        over = self._quantised - self._keep_first
        block = self._quantised if over < 0 else self._keep_first + over % (layout.blocks - self._keep_first)
        self._write_block(block)
        self._quantised += 1
        self._slot = (self._slot + layout.form.group) % layout.slots
        self._recent -= layout.form.group

    def _write_recent(self, keys: Floats, values: Floats, first: int, count: int) -> None:
        layout = self.layout
        words = 2 * count * layout.form.width // (2 if half(layout.form) else 1)
        slot = (self._slot + self._recent) % layout.slots
        told = (layout.form.width, first, count, slot, layout.slots)
        self._write("kv_append", "recent", {"keys": keys, "values": values}, words, told, {"RECENT_BITS"})

    def _write_block(self, block: int) -> None:
        layout = self.layout
        told = (layout.form.width, self._slot, layout.slots, block, *layout.groups, *layout.places[:5])
        inputs = {"recent": self._operand("recent")}
        constants = {"BITS", "GROUP", "KEYS_BY_CHANNEL", "RECENT_BITS"}
        self._write("kv_quantise", "packed", inputs, sum(layout.groups) // 4, told, constants)

    def _write(
        self,
        kernel: str,
        name: str,
        inputs: Mapping[str, Operand],
        count: int,
        told: Sequence[int],
        constants: set[str],
    ) -> None:
        """Have a kernel of ``count`` invocations write a buffer, after what writes it before."""
        place = self._cell(name)
        before = self._operand(name)
        outputs = {name: Output("uint32", place.shape)}
        form = {key: value for key, value in fixed(self.layout.form).items() if key in constants}

        def webgpu(target: Target, given: Mapping[str, int]) -> Dispatch:
            return on_webgpu(kernel, target, inputs, outputs, (count, *told), form, given)

        def cpu(target: Target, given: Mapping[str, int]) -> Dispatch:
            del target
            return on_cpu(kernel, inputs, outputs, told, form, given)

        reads = {**inputs, "before": before}
        ways = {Backend.WEBGPU: webgpu, Backend.CPU: cpu}
        program = Program(kernel, reads, outputs, ways, places={name: place})
        self._written[name] = program[name]
