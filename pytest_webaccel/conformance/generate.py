"""Writes the node tests of ``onnx`` into a folder: ``python -m pytest_webaccel.conformance.generate DIR``.

Each test becomes a folder in ONNX's own form (``model.onnx``, ``test_data_set_0/input_0.pb`` and so on), and
``index.json`` lists them all. Up to 1.20 the package ships that form; newer ones make the tests when their modules are
imported, each with the random state that it wants, which is why this is a process of its own.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pytest_webaccel.conformance.cases import INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto

__all__ = ["obstacle", "write_cases"]

#: Element types for which onnxruntime-web has tensors that a page can be handed.
_KNOWN = frozenset(
    {
        *("FLOAT", "DOUBLE", "FLOAT16", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
        *("BOOL", "STRING"),
    }
)


def write_cases(folder: Path) -> int:
    """Write every node test of the installed ``onnx`` into ``folder``; return how many there are.

    A module of tests that cannot be imported is listed as one test that no lane can take.
    """
    entries = list(_shipped(folder) if _data().is_dir() else _made(folder))
    entries.sort(key=lambda entry: entry["name"])
    text = json.dumps({"onnx": onnx.__version__, "cases": entries}, indent=0)
    (folder / INDEX).write_text(text, encoding="utf-8")
    return len(entries)


def obstacle(model: ModelProto) -> str:
    """Return why no page can be handed the inputs of ``model`` or give its outputs; empty where one can."""
    for value in (*model.graph.input, *model.graph.output):
        kind = str(value.type.WhichOneof("value") or "nothing").removesuffix("_type")
        if kind != "tensor":
            return f"{value.name} is a {kind.replace('_', ' ')}; onnxruntime-web takes and gives tensors only"
        element = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        if element not in _KNOWN:
            return f"{value.name} is {element.lower()}; this plugin hands pages no such tensors"
    return ""


def _data() -> Path:
    return Path(onnx.__file__).parent / "backend" / "test" / "data" / "node"


def _shipped(folder: Path) -> Iterator[dict[str, Any]]:
    for source in sorted(path for path in _data().iterdir() if (path / "model.onnx").is_file()):
        shutil.copytree(source, folder / source.name)
        yield _entry(source.name, onnx.load(source / "model.onnx"))


def _made(folder: Path) -> Iterator[dict[str, Any]]:
    from onnx.backend.test.case import node

    failed = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _modules(node.__name__, list(node.__path__)):
            try:
                importlib.import_module(name)
            except Exception as error:  # whatever a test's own code raises
                failed[name] = f"its tests cannot be made: {type(error).__name__}: {error}"[:300]
    for case in node._NodeTestCases:
        model: ModelProto = case.model
        entry = _entry(case.name, model)
        if not entry["obstacle"]:
            (inputs, outputs), *more = case.data_sets
            assert not more, f"{case.name}: a node test has one set of data"
            _write(folder / case.name, model, inputs, outputs)
        yield entry
    for name, reason in failed.items():
        short = name.rpartition(".")[2]
        yield {"name": f"module_{short}", "operator": short, "opset": 0, "obstacle": reason}


def _modules(package: str, path: list[str]) -> Iterator[str]:
    for module in pkgutil.iter_modules(path):
        name = f"{package}.{module.name}"
        yield name
        if module.ispkg:
            yield from _modules(name, [str(Path(path[0]) / module.name)])


def _entry(name: str, model: ModelProto) -> dict[str, Any]:
    """Return what the index says of a test: an expanded one goes by the operator that it expands."""
    # make_graph names the graph after the test, and the operator leads the names of what it was expanded to
    first = model.graph.node[0] if model.graph.node else None
    operator = "" if first is None else f"{first.domain}.{first.op_type}" if first.domain else first.op_type
    if "_expanded" in name and len(model.graph.node) > 0:
        operator = _expanded(model) or operator
    opset = max((one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}), default=0)
    return {"name": name, "operator": operator, "opset": opset, "obstacle": obstacle(model)}


def _expanded(model: ModelProto) -> str:
    """Return the operator whose function body ``model`` is: inner names begin with it."""
    for node in model.graph.node:
        for name in (*node.output, *node.input):
            if "_expanded_function_" in name:
                return str(name).partition("_")[0]
    return ""


def _write(folder: Path, model: ModelProto, inputs: Any, outputs: Any) -> None:
    data = folder / "test_data_set_0"
    data.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for kind, values, infos in (("input", inputs, model.graph.input), ("output", outputs, model.graph.output)):
        for number, (value, info) in enumerate(zip(values, infos, strict=True)):
            (data / f"{kind}_{number}.pb").write_bytes(_proto(value, info.name).SerializeToString())


def _proto(value: Any, name: str) -> TensorProto:
    if isinstance(value, TensorProto):
        named = TensorProto()
        named.CopyFrom(value)
        named.name = name
        return named
    array = np.asarray(value)
    return numpy_helper.from_array(array.astype(object) if array.dtype.kind in "US" else array, name)


if __name__ == "__main__":
    write_cases(Path(sys.argv[1]))
