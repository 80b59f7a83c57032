"""Programs as WebNN computes them: what the builders of ``kernels/<name>/<name>.mjs`` are given."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pytest_webaccel.engines.kernels.dispatch import Constant, Dispatch
from pytest_webaccel.engines.kernels.manifest import manifest
from pytest_webaccel.engines.kernels.program import Tensor
from pytest_webaccel.engines.kernels.state import Cell
from pytest_webaccel.engines.kernels.weights import FLOAT_BITS
from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_webaccel.engines.kernels.dispatch import Operand
    from pytest_webaccel.engines.kernels.program import Output
    from pytest_webaccel.engines.kernels.weights import Form, Words

__all__ = ["Port", "graph_dispatch", "opened_ports", "packed_ports"]

_BYTE_BITS = 8
#: Axes of a tensor that every operator takes.
_MOST_AXES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Port:
    """An operand of a builder: what is bound as ``binding``, or a part of it, read under ``shape``.

    A part begins at byte ``offset`` and is of ``dtype``, or is what the page makes of packed weights: ``part`` of those
    of ``form``. Where ``baked``, a constant becomes part of the graph.
    """

    binding: str
    shape: tuple[int, ...]
    dtype: str = ""
    offset: int = 0
    part: str = ""
    form: Form | None = None
    baked: bool = False

    def spec(self, given: Operand) -> dict[str, Any] | None:
        """Return what tensor the page makes of ``given``; None for what the graph itself has computed.

        Raises ConfigurationError for a buffer that is written in place: a graph has none.
        """
        if isinstance(given, Tensor):
            return None
        if isinstance(given, Cell):
            raise ConfigurationError(f"{self.binding} is a buffer of a state, and WebNN keeps none")
        array = given.data if isinstance(given, Constant) else given
        # A constant is the same tensor for all that read it, under whatever shape.
        whole = tuple(array.shape) if 0 < array.ndim <= _MOST_AXES else (array.size,)
        return {
            "dtype": self.dtype or array.dtype.name,
            "shape": list(self.shape if self.dtype else whole),
            "offset": self.offset,
            "packed": {**dataclasses.asdict(self.form), "part": self.part} if self.form else None,
            "baked": self.baked,
        }


def packed_ports(binding: str, form: Form, words: Words, blocks: int = 1, prefix: str = "") -> dict[str, Port]:
    """Return the ports of packed weights as they are: codes, scales, and zeros where there are some.

    ``words`` are ``blocks`` matrices of one form, the rows of one after those of another.
    """
    rows = form.rows * blocks
    parts = {
        "codes": ("uint8", 0, form.groups * form.group * form.bits // 8),
        "scales": (f"float{form.scale_bits}", words.scales * 4, form.groups),
        "zeros": ("uint8", words.zeros * 4, form.groups),
    }
    if not form.has_zeros:
        del parts["zeros"]
    return {
        f"{prefix}{name}": Port(binding, (rows, columns), dtype, offset)
        for name, (dtype, offset, columns) in parts.items()
    }


def opened_ports(binding: str, form: Form, *, codes: bool, baked: bool) -> dict[str, Port]:
    """Return the ports of weights as the page opens them: floats, or ``codes`` that the graph goes on with."""
    matrix, groups, filled = (form.rows, form.columns), (form.rows, form.groups), (form.rows, form.groups * form.group)
    if form.bits == FLOAT_BITS:
        return {"weights": Port(binding, matrix, "float32", baked=baked)}
    if not codes:
        return {"weights": Port(binding, matrix, "float32", part="weights", form=form, baked=baked)}
    dtype = "uint8" if form.bits == _BYTE_BITS else "int4"
    parts = {"codes": (filled, dtype), "scales": (groups, "float32"), "zeros": (groups, dtype)}
    return {name: Port(binding, *told, part=name, form=form) for name, told in parts.items()}


def graph_dispatch(
    kernel: str,
    operands: Mapping[str, Operand],
    outputs: Mapping[str, Output],
    given: Mapping[str, int],
    *,
    ports: Mapping[str, Port],
    attributes: Mapping[str, float] | None = None,
    form: Mapping[str, int] | None = None,
) -> Dispatch:
    """Return the dispatch of a kernel to its builder, with the tunable constants ``given``.

    ``operands`` are what is bound, ``ports`` what the builder reads of it, ``attributes`` what else it is told.
    """
    made = manifest(kernel, "webnn")
    bindings = [*operands, *outputs]
    told = {
        name: {
            "binding": bindings.index(port.binding),
            "shape": list(port.shape),
            "spec": port.spec(operands[port.binding]),
        }
        for name, port in ports.items()
    }
    return Dispatch(
        kernel=kernel,
        source=made.digest,
        code=f"/kernels/{kernel}/{kernel}.mjs",
        entry=made.entry,
        constants={},
        bindings=bindings,
        inputs=operands,
        outputs=outputs,
        uniform=(),
        workgroups=(1, 1, 1),
        chosen=made.constants(given),
        form=form or {},
        graph={
            "operands": told,
            "outputs": {name: bindings.index(name) for name in outputs},
            "attributes": dict(attributes or {}),
        },
    )
