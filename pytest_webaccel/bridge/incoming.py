"""A result on its way in: what was announced, checked before anything counts as answered. Pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pytest_webaccel.bridge.frames import Assembly, TensorSpec
from pytest_webaccel.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_webaccel.bridge.messages import Limits

__all__ = ["Incoming", "announced"]


@dataclasses.dataclass(slots=True)
class Incoming:
    """A result being received. ``bytes`` are those of all its tensors."""

    value: Any
    milliseconds: float
    executions: int
    error: tuple[str, str] | None
    bytes: int
    assembly: Assembly


def announced(message: Mapping[str, Any], limits: Limits, others: Iterable[Incoming]) -> Incoming:
    """Return the result that ``message`` announces; raises ProtocolError for one that cannot cross.

    ``others`` are under way too, and share one bound on bytes.
    """
    tensors = message.get("tensors", [])
    if not isinstance(tensors, list) or len(tensors) > limits.tensors:
        raise ProtocolError(f"a result announces a list of at most {limits.tensors} tensors")
    specs = [TensorSpec.from_json(item, limit=limits.tensor_bytes) for item in tensors]
    if len({spec.name for spec in specs}) != len(specs):
        raise ProtocolError("a result names a tensor twice")
    size = sum(spec.bytes for spec in specs)
    if size + sum(other.bytes for other in others) > limits.tensor_bytes:
        raise ProtocolError(f"results under way of more than {limits.tensor_bytes} bytes")
    return Incoming(*_outcome(message), size, Assembly(specs))


def _outcome(message: Mapping[str, Any]) -> tuple[Any, float, int, tuple[str, str] | None]:
    """Return value, milliseconds, executions and error (kind, message) of a result; raises ProtocolError."""
    milliseconds, executions = message.get("ms", 0.0), message.get("executions", 1)
    if type(milliseconds) not in {int, float} or not 0 <= milliseconds < 1e12 or type(executions) is not int:
        raise ProtocolError("a result's ms is a number of milliseconds and its executions an integer")
    if message.get("ok") is True:
        return message.get("value"), float(milliseconds), executions, None
    error = message.get("error")
    if not isinstance(error, dict):
        raise ProtocolError("a failed result carries its error")
    kind, words = str(error.get("kind", "page"))[:40], str(error.get("message", ""))[:4000]
    return None, float(milliseconds), executions, (kind, words)
