"""Rows of a table of low-bit weights, ``kernels/embedding``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.engines.kernels.cpu import on_cpu
from pytest_webaccel.engines.kernels.gpu import on_webgpu
from pytest_webaccel.engines.kernels.graph import Port, graph_dispatch, packed_ports
from pytest_webaccel.engines.kernels.program import Output, Program
from pytest_webaccel.engines.kernels.weights import FLOAT_BITS, by_rows, matrix_form, matrix_operand, whole
from pytest_webaccel.errors import FeedError
from pytest_webaccel.terms import Backend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.dispatch import Dispatch, Operand, Target
    from pytest_webaccel.engines.kernels.weights import Matrix

__all__ = ["embedding"]


def embedding(
    ids: Sequence[int] | NDArray[Any],
    table: Matrix,
    *,
    constants: Mapping[str, int] | None = None,
) -> Program:
    """Return the program of ``table.dequantised()[ids]``: float32 of shape (ids, columns of the table), as ``y``.

    Raises FeedError for ids that are no integers, or no rows of the table.
    """
    form = matrix_form("table", table)
    rows = np.asarray(ids)
    if rows.ndim != 1 or not rows.size or rows.dtype.kind not in "iu":
        raise FeedError(f"ids are integers, one after the other; got {rows.dtype} of shape {list(rows.shape)}")
    if rows.min() < 0 or rows.max() >= form.rows:
        raise FeedError(f"ids from {rows.min()} to {rows.max()}: the table has rows 0 to {form.rows - 1}")
    outputs = {"y": Output("float32", (rows.size, form.columns))}

    def opened() -> tuple[dict[str, Operand], dict[str, Output], tuple[int, ...]]:
        operand, words = matrix_operand(table, by_rows)
        uniform = (rows.size * form.columns, form.columns, form.groups, words.scales, words.zeros)
        return {"ids": rows.astype(np.uint32), "packed": operand}, outputs, uniform

    def webgpu(target: Target, given: Mapping[str, int]) -> Dispatch:
        return on_webgpu("embedding", target, *opened(), form.constants(), given)

    def cpu(target: Target, given: Mapping[str, int]) -> Dispatch:
        del target
        return on_cpu("embedding", *opened(), form.constants(), given)

    def webnn(target: Target, given: Mapping[str, int]) -> Dispatch:
        del target
        plain = form.bits == FLOAT_BITS
        operand, words = matrix_operand(table, whole if plain else by_rows)
        as_it_is = {"table": Port("packed", (form.rows, form.columns))}
        return graph_dispatch(
            "embedding",
            {"ids": rows.astype(np.int32), "packed": operand},
            outputs,
            given,
            ports={"ids": Port("ids", rows.shape), **(as_it_is if plain else packed_ports("packed", form, words))},
            attributes={"bits": form.bits, "group": form.group, "columns": form.columns},
            form=form.constants(),
        )

    ways = {Backend.WEBGPU: webgpu, Backend.CPU: cpu, Backend.WEBNN: webnn}
    return Program("embedding", {"ids": rows, "table": table}, outputs, ways, constants or {})
