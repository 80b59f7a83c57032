"""The reference that does not live in a browser: onnxruntime on this machine's CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.errors import FeedError, ModelError
from pytest_webaccel.parity.verdict import Kind, Ran
from pytest_webaccel.terms import CPU_PROVIDER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Reference", "run_reference", "run_references"]


class Reference:
    """onnxruntime on this machine's CPU, as somewhere that models run: each operator by itself, none fused or folded.

    So a tensor is the same whatever else is asked for beside it. Raises ModelError where onnxruntime is not installed.
    """

    def __init__(self) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ModelError(
                "onnxruntime is not installed, so there is no reference on this machine's CPU: "
                "pip install 'pytest-webaccel[reference]', or name another lane as the reference."
            ) from error
        self.name = f"onnxruntime-cpu {onnxruntime.__version__}"

    def run(self, model: bytes, feeds: Mapping[str, NDArray[Any]]) -> Ran:
        """Run an ONNX file's bytes once; what onnxruntime refuses or fails at is no exception."""
        try:
            session = _session(model, plain=True)
        except Exception as error:  # onnxruntime's errors share no base class
            return Ran({}, Kind.UNSUPPORTED, _one_line(error))
        names = [one.name for one in session.get_outputs()]
        try:
            values = session.run(names, dict(feeds))
            outputs = {name: np.asarray(value) for name, value in zip(names, values, strict=True)}
        except Exception as error:
            return Ran({}, Kind.FAILED, _one_line(error))
        return Ran(outputs)


def run_reference(model: bytes | Path, feeds: Mapping[str, NDArray[Any]]) -> tuple[str, dict[str, NDArray[Any]]] | None:
    """Return (name of the reference, outputs by name), or None where onnxruntime is not installed.

    ``model`` is the ONNX file's bytes or its path (needed where weights lie in files beside it).
    Blocks until the model has run; call it off the loop. Raises ModelError when onnxruntime cannot
    load or run the model, FeedError when the feeds do not fit it.
    """
    found = run_references(model, [feeds])
    return None if found is None else (found[0], found[1][0])


def run_references(
    model: bytes | Path, sets: Sequence[Mapping[str, NDArray[Any]]]
) -> tuple[str, list[dict[str, NDArray[Any]]]] | None:
    """Return (name of the reference, its outputs for each set of feeds); as :func:`run_reference` otherwise."""
    try:
        import onnxruntime
    except ImportError:
        return None
    name = f"onnxruntime-cpu {onnxruntime.__version__}"
    what = f"model {model}" if isinstance(model, Path) else f"model of {len(model)} bytes"
    try:
        session = _session(model)
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelError(
            f"{what} cannot be loaded by the reference, {name}: {error}. "
            f"Check it with onnx.checker.check_model, or compare lanes with each other: reference=LANE"
        ) from error
    return name, [_answered(session, feeds, what, name) for feeds in sets]


def _answered(session: Any, feeds: Mapping[str, NDArray[Any]], what: str, name: str) -> dict[str, NDArray[Any]]:
    wanted = {one.name for one in session.get_inputs()}
    if wanted != set(feeds):
        raise FeedError(f"{what}: feeds are named {sorted(feeds)}; the model's inputs are {sorted(wanted)}")
    names = [one.name for one in session.get_outputs()]
    try:
        values = session.run(names, dict(feeds))
    except Exception as error:
        kind = FeedError if type(error).__name__ == "InvalidArgument" else ModelError
        raise kind(f"{what} cannot be run by the reference, {name}: {error}") from error
    return {one: np.asarray(value) for one, value in zip(names, values, strict=True)}


def _session(model: bytes | Path, *, plain: bool = False) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # errors are raised; warnings on stderr would land in every report
    source = str(model) if isinstance(model, Path) else bytes(model)
    return onnxruntime.InferenceSession(source, options, providers=[CPU_PROVIDER])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:2000]
