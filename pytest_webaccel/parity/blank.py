"""A model and feeds with their numbers taken out: what fails whatever it is fed needs nobody's weights to show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

__all__ = ["blank_feeds", "blank_model"]

#: Elements from which on a weight is blanked: what is smaller may be a size, a step, an epsilon.
_LEAST = 64


def blank_model(model: ModelProto) -> ModelProto | None:
    """Return a copy of ``model`` whose large floating-point weights are zeros; None where it has none."""
    import onnx

    blank = onnx.ModelProto()
    blank.CopyFrom(model)
    changed = False
    for tensor in blank.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and array.size >= _LEAST and array.any():
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(array), tensor.name))
            changed = True
    return blank if changed else None


def blank_feeds(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return ``feeds`` with zeros in place of floating-point numbers; others, which may be sizes or indices, stay."""
    return {name: np.zeros_like(array) if array.dtype.kind == "f" else array for name, array in feeds.items()}
