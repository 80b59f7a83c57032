"""What a model file says of itself, and whether feeds fit it, before anything is sent to a page."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.bridge.frames import DTYPES
from pytest_webaccel.errors import FeedError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_BYTES", "ModelInfo", "TensorInfo", "check_feeds", "inspect_model"]

#: Protobuf's own limit; a larger model keeps its weights in external files, which pages cannot open.
MAX_BYTES = (1 << 31) - 1


@dataclasses.dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output: ``dtype`` by ONNX name, ``shape`` with a name or None where it is free."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        """Return the form used in messages: ``x: float32[1, batch, ?]``."""
        if self.shape is None:
            return f"{self.name}: {self.dtype}[...]"
        return f"{self.name}: {self.dtype}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclasses.dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as its file describes it. ``sha256`` names it everywhere; ``operators`` counts them by type."""

    name: str
    sha256: str
    path: Path
    bytes: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: Mapping[str, int]

    def __str__(self) -> str:
        """Return the model's short name."""
        return self.name


def inspect_model(source: Path | str | bytes, folder: Path) -> ModelInfo:
    """Return what the model at ``source`` (a path, or the bytes themselves) says of itself.

    Bytes are written into ``folder``, so that a page can be handed the file. Raises ModelError for
    what is missing, not ONNX, cut short, or keeps weights in other files.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data, name, path = bytes(source), "bytes", None
    else:
        path = Path(source)
        name = path.name
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ModelError(_too_large(name, path.stat().st_size))
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"model {path}: {error.strerror or error}. Give the path of an .onnx file.") from error
    if len(data) > MAX_BYTES:
        raise ModelError(_too_large(name, len(data)))
    digest = hashlib.sha256(data).hexdigest()
    graph = _parse(data, name)
    if path is None:
        path = folder / f"{digest[:16]}.onnx"
        name = f"bytes-{digest[:8]}"
        if not path.exists():
            path.write_bytes(data)
    constants = {tensor.name for tensor in graph.initializer}
    operators: dict[str, int] = {}
    for node in graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    return ModelInfo(
        name=name,
        sha256=digest,
        path=path,
        bytes=len(data),
        inputs=tuple(_tensor(value) for value in graph.input if value.name not in constants),
        outputs=tuple(_tensor(value) for value in graph.output),
        operators=operators,
    )


def check_feeds(model: ModelInfo, feeds: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return ``feeds`` as contiguous arrays that fit ``model``.

    Raises FeedError naming the input, what it wants and what it got: a missing or unknown name, a
    dtype that is not the input's own (nothing is cast silently), a rank or size that differs, or one
    named dimension with two sizes.
    """
    wanted = {info.name: info for info in model.inputs}
    signature = "; ".join(map(str, model.inputs))
    if missing := [name for name in wanted if name not in feeds]:
        raise FeedError(f"model {model}: no feed for {', '.join(map(repr, missing))}. It takes {signature}.")
    if unknown := [name for name in feeds if name not in wanted]:
        raise FeedError(f"model {model}: it has no input {', '.join(map(repr, unknown))}. It takes {signature}.")
    named: dict[str, tuple[int, str]] = {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in feeds.items():
        info = wanted[name]
        array = np.asarray(value)
        dtype = "string" if array.dtype.kind in "UOT" else array.dtype.name
        if dtype != "string" and dtype not in DTYPES:
            raise FeedError(f"model {model}, input {info}: dtype {dtype} cannot cross to a page.")
        if dtype != info.dtype:
            raise FeedError(
                f"model {model}, input {info}: got dtype {dtype}. Cast it yourself, such as "
                f"{name}.astype(numpy.{info.dtype}); nothing is cast silently."
            )
        _check_shape(model, info, array.shape, named)
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
    return arrays


def _check_shape(model: ModelInfo, info: TensorInfo, shape: tuple[int, ...], named: dict[str, tuple[int, str]]) -> None:
    if info.shape is None:
        return
    if len(shape) != len(info.shape):
        raise FeedError(f"model {model}, input {info}: got rank {len(shape)}, shape {list(shape)}.")
    for axis, (wanted, got) in enumerate(zip(info.shape, shape, strict=True)):
        if isinstance(wanted, int) and wanted != got:
            raise FeedError(f"model {model}, input {info}: got size {got} on axis {axis}, shape {list(shape)}.")
        if isinstance(wanted, str):
            size, where = named.setdefault(wanted, (got, info.name))
            if size != got:
                raise FeedError(
                    f"model {model}, input {info}: dimension {wanted!r} is {got} on axis {axis}, and {size} in "
                    f"input {where!r}."
                )


def _too_large(name: str, size: int) -> str:
    return f"model {name}: {size} bytes are over {MAX_BYTES}, the limit of an ONNX file without external weights."


def _parse(data: bytes, name: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    remedy = "Export or download it again; `python -m onnx.checker FILE` says more."
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            f"model {name}: {len(data)} bytes that are no ONNX model, or one cut short. {remedy}"
        ) from error
    graph = model.graph
    if not graph.node or not graph.output or not model.opset_import:
        raise ModelError(
            f"model {name}: no graph with nodes and outputs in {len(data)} bytes: not an ONNX model. {remedy}"
        )
    external = [tensor.name for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if external:
        raise ModelError(
            f"model {name}: weights {', '.join(external[:3])} lie in other files, which a page cannot open. Save it as "
            "one file: onnx.save(onnx.load(PATH), NEW)."
        )
    return graph


def _tensor(value: Any) -> TensorInfo:
    import onnx

    tensor = value.type.tensor_type
    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name)
    except (KeyError, TypeError, ValueError):
        dtype = "undefined"
    if tensor.elem_type == onnx.TensorProto.STRING:
        dtype = "string"
    if not tensor.HasField("shape"):
        return TensorInfo(value.name, dtype, None)
    shape = tuple(_extent(dimension) for dimension in tensor.shape.dim)
    return TensorInfo(value.name, dtype, shape)


def _extent(dimension: Any) -> int | str | None:
    """Return a fixed size, the name of a free one, or None; exporters also write free as -1 or "?"."""
    if dimension.HasField("dim_value"):
        size = int(dimension.dim_value)
        return size if size >= 0 else None
    name = str(dimension.dim_param)
    return name if name.isidentifier() else None
