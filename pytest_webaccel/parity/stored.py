"""Feeds and answers that lie in files: test data in ONNX's own form, and NumPy archives.

ONNX's form is a folder ``test_data_set_N`` beside the model, with ``input_0.pb``, ``output_0.pb`` and so on, each a
TensorProto. An archive (``.npz``) holds an array for each input by its name, and for each output that has an answer.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.errors import FeedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["Stored", "given_sets", "read_set", "read_sets"]

#: Sets of one comparison at most: their answers are all held until they are compared.
MOST_SETS = 1000

_FILE = re.compile(r"(input|output)_(\d+)\.pb$")


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """One set of ``feeds`` by input, with the answers ``expected`` by output, as far as they are stored."""

    name: str
    feeds: Mapping[str, NDArray[Any]]
    expected: Mapping[str, NDArray[Any]]


def given_sets(feeds: Mapping[str, Any] | Path | str | Iterable[Mapping[str, Any]], model: bytes) -> list[Stored]:
    """Return the sets that a test gave: arrays by input, where they lie (:func:`read_sets`), or many of them.

    One set given as arrays has no name. Raises FeedError for none at all, for more than :data:`MOST_SETS`, and as
    :func:`read_sets` does.
    """
    if isinstance(feeds, str | Path):
        return read_sets(Path(feeds), model)
    if isinstance(feeds, Mapping):
        return [Stored("", dict(feeds), {})]
    sets = [Stored(f"set {number}", dict(one), {}) for number, one in enumerate(itertools.islice(feeds, MOST_SETS + 1))]
    if not sets or len(sets) > MOST_SETS:
        count = "none" if not sets else f"more than {MOST_SETS}"
        raise FeedError(f"feeds: {count} came. Give from 1 to {MOST_SETS} mappings of arrays by input.")
    return sets


def read_sets(source: Path, model: bytes) -> list[Stored]:
    """Return the sets at ``source``: an archive, a folder of them, or one in ONNX's form, sorted by name.

    Raises FeedError for a place that holds none, for names that the model does not have, and for what cannot be read.
    """
    if source.is_file():
        return [_archive(source, *_names(model))]
    if not source.is_dir():
        raise FeedError(f"feeds {source}: there is no such file or folder.")
    if any(_FILE.match(path.name) for path in source.iterdir()):
        return [read_set(source, model)]
    folders = sorted((path for path in source.glob("test_data_set_*") if path.is_dir()), key=_number)
    archives = sorted(source.glob("*.npz"))
    if not folders and not archives:
        raise FeedError(
            f"feeds {source}: neither test_data_set_0 nor input_0.pb nor any .npz is in it. Save one with "
            "numpy.savez(FILE, **arrays by input)."
        )
    names = _names(model)
    return [read_set(folder, model) for folder in folders] + [_archive(path, *names) for path in archives]


def read_set(folder: Path, model: bytes) -> Stored:
    """Return the set in ``folder``, which is in ONNX's form; raises FeedError as :func:`read_sets` does."""
    inputs, outputs = _names(model)
    found = {"input": inputs, "output": outputs}
    read: dict[str, dict[str, NDArray[Any]]] = {"input": {}, "output": {}}
    for path in sorted(folder.glob("*.pb")):
        if (match := _FILE.match(path.name)) is None:
            continue
        kind, number = match[1], int(match[2])
        name, array = _tensor(path)
        if name not in found[kind]:  # files of some tools are nameless, or named otherwise than the model's values
            if number >= len(found[kind]):
                raise FeedError(f"feeds {path}: the model has {len(found[kind])} {kind}s, {', '.join(found[kind])}.")
            name = found[kind][number]
        read[kind][name] = array
    return Stored(folder.name, read["input"], read["output"])


def _archive(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> Stored:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FeedError(f"feeds {path}: no NumPy archive that can be read: {error}") from error
    if unknown := [name for name in arrays if name not in {*inputs, *outputs}]:
        raise FeedError(
            f"feeds {path}: the model has neither input nor output {', '.join(map(repr, unknown))}. Its inputs are "
            f"{', '.join(inputs)}; its outputs {', '.join(outputs)}."
        )
    feeds = {name: array for name, array in arrays.items() if name in inputs}
    return Stored(path.name, feeds, {name: array for name, array in arrays.items() if name not in inputs})


def _tensor(path: Path) -> tuple[str, NDArray[Any]]:
    import onnx
    from google.protobuf.message import DecodeError

    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        return str(tensor.name), np.asarray(onnx.numpy_helper.to_array(tensor))
    except (OSError, DecodeError, ValueError, TypeError, KeyError) as error:
        raise FeedError(f"feeds {path}: no tensor that can be read: {error}") from error


def _names(model: bytes) -> tuple[list[str], list[str]]:
    import onnx

    graph = onnx.load_from_string(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [one.name for one in graph.input if one.name not in constants], [one.name for one in graph.output]


def _number(folder: Path) -> tuple[int, str]:
    digits = folder.name.rpartition("_")[2]
    return (int(digits) if digits.isdigit() else 0, folder.name)
