"""The fake page's engine: ONNX's reference evaluator, which answers truly and slowly."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["PROVIDER", "OperationError", "ReferenceEngine"]

#: Execution provider that the fake page reports its nodes on.
PROVIDER = "FakeExecutionProvider"


class OperationError(Exception):
    """An operation failed; ``kind`` is the page's word for how."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ReferenceEngine:
    """Models of one page, by name."""

    def __init__(self) -> None:
        self._models: dict[str, Any] = {}
        self._broken: set[str] = set()
        self._held: dict[str, np.ndarray[Any, Any]] = {}
        self._loads: dict[str, object] = {}
        self._turn = asyncio.Lock()

    def reset(self) -> None:
        """Forget every model."""
        self._models.clear()
        self._broken.clear()
        self._held.clear()
        self._loads.clear()

    def break_sessions(self) -> int:
        """Have the next run of every loaded model raise; return how many those are."""
        self._broken.update(self._models)
        return len(self._models)

    async def load(self, args: Mapping[str, Any], data: bytes) -> dict[str, Any]:
        """Load a model; raises OperationError of kind ``usage`` or ``model``."""
        name = args["model"]
        if name in self._models:
            raise OperationError("usage", "this model is loaded already")
        load = self._loads[name] = object()
        try:
            evaluator, nodes = await asyncio.to_thread(_evaluator, data)
            if self._loads.get(name) is not load:
                raise OperationError("unloaded", "the model was unloaded before it was loaded")
        finally:
            if self._loads.get(name) is load:
                del self._loads[name]
        self._models[name] = evaluator
        placement = [{"provider": PROVIDER, "nodes": nodes, "operators": []}]
        return {
            "inputs": list(evaluator.input_names),
            "outputs": list(evaluator.output_names),
            "placement": placement if args.get("placement") else None,
            "version": "fake",
        }

    async def run(
        self, args: Mapping[str, Any], feeds: Mapping[str, np.ndarray[Any, Any]]
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Run a model; raises OperationError of kind ``not_loaded`` or ``operator``."""
        evaluator = self._models.get(args["model"])
        if evaluator is None:
            raise OperationError("not_loaded", "the model is not loaded in this page")
        if args["model"] in self._broken:
            raise OperationError("operator", "cannot run inference. invalid session id")
        asked = args.get("outputs")
        wanted = list(evaluator.output_names) if asked is None else asked
        keep: Mapping[str, str] = args.get("keep") or {}
        fed = {**feeds, **{name: self._kept(key) for name, key in (args.get("held") or {}).items()}}
        async with self._turn:
            results = await asyncio.to_thread(_run, evaluator, list(dict.fromkeys([*wanted, *keep])), fed)
        for name, key in keep.items():
            self.hold(key, results[name])
        return {name: results[name] for name in wanted}

    def unload(self, name: str) -> None:
        """Forget one model, also one that is still being loaded."""
        self._models.pop(name, None)
        self._broken.discard(name)
        self._loads.pop(name, None)

    def hold(self, key: str, tensor: np.ndarray[Any, Any]) -> dict[str, int]:
        """Keep a tensor under ``key``; return how many are held, and of how many bytes."""
        self._held[key] = tensor.copy()
        return self._holding()

    def free(self, keys: Sequence[str]) -> dict[str, int]:
        """Forget the tensors held under ``keys``; return how many there were."""
        return {"freed": sum(self._held.pop(key, None) is not None for key in keys)}

    def statistics(self) -> dict[str, Any]:
        """Return what the page holds: names of models, loaded or on their way, and tensors."""
        return {"models": [*self._models, *self._loads], "held": self._holding()}

    def _holding(self) -> dict[str, int]:
        return {"count": len(self._held), "bytes": sum(tensor.nbytes for tensor in self._held.values())}

    def _kept(self, key: str) -> np.ndarray[Any, Any]:
        if key not in self._held:
            raise OperationError("not_held", f"no tensor is held as {key} in this page")
        return self._held[key]


def _evaluator(data: bytes) -> tuple[Any, int]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        model = onnx.load_from_string(data)
        return ReferenceEvaluator(model), len(model.graph.node)
    except Exception as error:
        raise OperationError("model", f"{type(error).__name__}: {error}") from error


def _run(
    evaluator: Any, outputs: Sequence[str], feeds: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    try:
        results = evaluator.run(list(outputs), dict(feeds))
    except Exception as error:
        raise OperationError("operator", f"{type(error).__name__}: {error}") from error
    return {name: np.asarray(result) for name, result in zip(outputs, results, strict=True)}
