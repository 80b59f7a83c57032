"""The node tests of the installed ``onnx``, made once and kept in the cache."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from pytest_webaccel.browsers.install.cache import provide
from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.parity.stored import Stored, read_set

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["INDEX", "NodeCase", "catalogue", "suite_version"]

#: The file that lists the tests.
INDEX = "index.json"

#: Part of the cache's key: what an older plugin wrote in another form is made anew.
_FORM = 1
#: Seconds that making the tests may take; they take about ten on two cores.
_DEADLINE_S = 600.0


@dataclasses.dataclass(frozen=True, slots=True)
class NodeCase:
    """One node test, in ``folder`` in ONNX's own form.

    ``operator`` is what it tests, with its domain where that is not ONNX's own; ``obstacle`` says why no lane can be
    handed it, and is mostly empty.
    """

    name: str
    operator: str
    opset: int
    obstacle: str
    folder: Path

    def __str__(self) -> str:
        """Return the name, which is the test's id."""
        return self.name

    def read(self) -> tuple[bytes, Stored]:
        """Return the model and its one set of data; raises FeedError for a cache that was damaged."""
        model = (self.folder / "model.onnx").read_bytes()
        return model, read_set(self.folder / "test_data_set_0", model)


@functools.cache
def suite_version() -> str:
    """Return whose node tests these are, such as ``onnx 1.23.2``."""
    return f"onnx {metadata.version('onnx')}"


@functools.cache
def catalogue() -> tuple[NodeCase, ...]:
    """Return every node test of the installed ``onnx``, by name; made now, in a process of its own, where need be.

    Raises InstallError where the cache cannot be written, ConfigurationError where they cannot be made.
    """
    version = metadata.version("onnx")
    entry, _ = provide("conformance", f"onnx-{version}-{_FORM}", version=version, main=INDEX, source="onnx", fill=_fill)
    listed = json.loads((entry.folder / INDEX).read_text(encoding="utf-8"))
    return tuple(
        NodeCase(one["name"], one["operator"], one["opset"], one["obstacle"], entry.folder / one["name"])
        for one in listed["cases"]
    )


def _fill(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest_webaccel.conformance.generate", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(f"the node tests of onnx were not made within {_DEADLINE_S:g} s") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[-500:]
        raise ConfigurationError(
            f"the node tests of {suite_version()} cannot be made (exit status {done.returncode}): {said}"
        )
