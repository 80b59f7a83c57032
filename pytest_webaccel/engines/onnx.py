"""Engine ``onnx``: onnxruntime-web in a lane's page."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_webaccel.errors import DamagedLaneError, ModelError, RemoteError
from pytest_webaccel.terms import CPU_PROVIDER, Backend, Damage, OrtBuild, Symptom

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from pytest_webaccel.bridge.channel import Channel
    from pytest_webaccel.bridge.protocol import Reply
    from pytest_webaccel.engines.models import ModelInfo

__all__ = [
    "AUTOMATIC_BUILDS",
    "MOST_NAMED",
    "PROVIDERS",
    "SHAPE_OPERATORS",
    "LoadedModel",
    "OnnxEngine",
    "OrtCopy",
    "Placement",
]

#: Nodes of one model that are named, of each execution provider.
MOST_NAMED = 200

#: The build that a backend gets when none is named. ``jsep`` for WebGPU: of the two builds it is the
#: one whose known defects are loud (docs/limitations.md).
AUTOMATIC_BUILDS: Mapping[Backend, OrtBuild] = {
    Backend.CPU: OrtBuild.WASM,
    Backend.WEBGPU: OrtBuild.JSEP,
    Backend.WEBNN: OrtBuild.JSEP,
}

_FILES: Mapping[OrtBuild, tuple[str, ...]] = {
    OrtBuild.WASM: ("ort.wasm.bundle.min.mjs", "ort.wasm.min.mjs"),
    OrtBuild.JSEP: ("ort.all.bundle.min.mjs", "ort.all.min.mjs", "ort.bundle.min.mjs", "ort.min.mjs"),
    OrtBuild.NATIVE: ("ort.webgpu.bundle.min.mjs", "ort.webgpu.min.mjs"),
}

#: Name of each backend's execution provider.
PROVIDERS: Mapping[Backend, str] = {Backend.CPU: "wasm", Backend.WEBGPU: "webgpu", Backend.WEBNN: "webnn"}

#: Operators that onnxruntime keeps on the CPU on purpose, because they compute shapes and control
#: flow rather than tensors. Found there, they are no fallback.
SHAPE_OPERATORS = frozenset(
    [
        "And",
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Equal",
        "Expand",
        "Gather",
        "Greater",
        "Identity",
        "If",
        "Less",
        "Loop",
        "MemcpyFromHost",
        "MemcpyToHost",
        "Not",
        "Or",
        "Range",
        "Reshape",
        "Scan",
        "Shape",
        "Size",
        "Slice",
        "Squeeze",
        "Unsqueeze",
        "Where",
    ]
)


@dataclasses.dataclass(frozen=True, slots=True)
class OrtCopy:
    """A copy of onnxruntime-web: its ``dist`` folder, its version, and the path the bridge serves it under.

    Of several copies of one version the second is ``1.30.0+2``, and so on; ``released`` is what all of them are.
    """

    folder: Path
    version: str
    base: str

    @property
    def released(self) -> str:
        """The version under which it was published."""
        return self.version.partition("+")[0]

    def module(self, build: OrtBuild) -> str:
        """Return the file of ``build``; raises ModelError saying what is there instead."""
        for name in _FILES[build]:
            if (self.folder / name).is_file():
                return name
        there = sorted(path.name for path in self.folder.glob("ort*.mjs") if ".min." in path.name)
        raise ModelError(
            f"onnxruntime-web at {self.folder} has no {build} build ({' or '.join(_FILES[build])}); it has "
            f"{', '.join(there) or 'no ort*.mjs at all'}."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Where onnxruntime-web really put the nodes of a model, as its own log says.

    ``nodes`` counts by execution provider; WebNN counts a fused subgraph as one. ``fallbacks`` counts
    operator types on the CPU that were asked to be elsewhere, shape arithmetic left out. ``operators`` counts operator
    types by provider and ``names`` names the nodes, as ``Conv (name)``, the first :data:`MOST_NAMED` of each provider;
    neither says anything where one provider took all: the log lists no nodes then.
    """

    nodes: Mapping[str, int]
    fallbacks: Mapping[str, int]
    operators: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def accelerated(self) -> int:
        """Nodes that run on something other than the CPU."""
        return sum(count for provider, count in self.nodes.items() if provider != CPU_PROVIDER)

    def describe(self) -> str:
        """Return one line for people."""
        nodes = ", ".join(f"{count} on {provider}" for provider, count in sorted(self.nodes.items()))
        if not self.fallbacks:
            return f"{nodes}; no fallback"
        worst = ", ".join(f"{name} x{count}" for name, count in Counter(self.fallbacks).most_common(6))
        return f"{nodes}; fell back to wasm: {worst}"

    @classmethod
    def from_log(cls, entries: object, backend: Backend) -> Placement:
        """Return the placement in a page's account of the log; what is malformed in it is left out."""
        nodes: dict[str, int] = {}
        fallbacks: Counter[str] = Counter()
        kinds: dict[str, Counter[str]] = {}
        names: dict[str, list[str]] = {}
        for entry in entries if isinstance(entries, list) else []:
            if not isinstance(entry, dict):
                continue
            provider, count, named = str(entry.get("provider"))[:64], entry.get("nodes"), entry.get("operators")
            placed = count if type(count) is int and count > 0 else 0
            nodes[provider] = nodes.get(provider, 0) + placed
            operators = [str(name)[:64] for name in named] if isinstance(named, list) else []
            kinds.setdefault(provider, Counter()).update(operators)
            given = entry.get("names")
            told = [str(name)[:128] for name in given] if isinstance(given, list) else []
            names.setdefault(provider, []).extend(
                f"{kind} ({name})" for kind, name in zip(operators, told, strict=False)
            )
            if provider == CPU_PROVIDER and backend is not Backend.CPU:
                fallbacks.update(name for name in operators if name not in SHAPE_OPERATORS)
                if not operators and placed:
                    fallbacks["(every operator)"] += placed
        counted = {provider: dict(found) for provider, found in kinds.items() if found}
        named = {provider: tuple(found[:MOST_NAMED]) for provider, found in names.items() if found}
        return cls(nodes, dict(fallbacks), counted, named)


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that a page has loaded."""

    info: ModelInfo
    build: OrtBuild
    placement: Placement
    load_ms: float

    @property
    def key(self) -> str:
        """Name of the model in the page."""
        return f"{self.info.sha256[:16]}-{self.build}"


class OnnxEngine:
    """Loads and runs ONNX models in the page behind one channel."""

    def __init__(self, channel: Channel, backend: Backend, ort: OrtCopy) -> None:
        self.channel = channel
        self.backend = backend
        self.ort = ort

    def choose(self, build: OrtBuild | None) -> OrtBuild:
        """Return the build to use; raises ModelError for one that lacks this lane's backend."""
        chosen = build or AUTOMATIC_BUILDS[self.backend]
        if chosen is OrtBuild.WASM and self.backend is not Backend.CPU:
            raise ModelError(f"the {chosen} build of onnxruntime-web has no {self.backend}: use jsep or native.")
        return chosen

    def send_load(
        self, info: ModelInfo, build: OrtBuild, *, deadline: float, known: Placement | None = None, hold: bool = False
    ) -> int:
        """Send a load of ``info`` and return its request id; raises ModelError where the copy lacks the build.

        Placement is read from the engine's log, unless it is ``known`` from an earlier load.
        """
        args = {
            "model": LoadedModel(info, build, Placement({}, {}), 0.0).key,
            "url": self.ort.base + self.ort.module(build),
            "base": self.ort.base,
            "provider": PROVIDERS[self.backend],
            "placement": known is None,
        }
        return self.channel.send("load", args, files={"model": info.path}, deadline=deadline, hold=hold)

    async def answer_load(
        self, info: ModelInfo, build: OrtBuild, request_id: int, *, known: Placement | None = None
    ) -> LoadedModel:
        """Wait for the answer of a load.

        Raises ModelError when the engine refuses the model, DamagedLaneError when the lane breaks.
        """
        try:
            reply = await self.channel.answer(request_id)
        except RemoteError as error:
            raise ModelError(self._complaint(info, build, "could not be loaded", error)) from error
        value = reply.value if isinstance(reply.value, dict) else {}
        placement = known or Placement.from_log(value.get("placement"), self.backend)
        return LoadedModel(info, build, placement, reply.page_ms)

    def send_run(
        self,
        model: LoadedModel,
        feeds: Mapping[str, np.ndarray[Any, Any]],
        outputs: Sequence[str] | None,
        *,
        deadline: float,
        hold: bool = False,
        held: Mapping[str, str] | None = None,
        keep: Mapping[str, str] | None = None,
    ) -> int:
        """Send a run of checked ``feeds`` and return its request id.

        ``held`` feeds inputs with tensors that the page holds, by the key of each; ``keep`` has it hold outputs under
        keys. A kept output is sent back only where it is named in ``outputs`` or they are all asked for.
        """
        known = [info.name for info in model.info.outputs]
        if unknown := [name for name in outputs or () if name not in known]:
            raise ModelError(f"model {model.info}: it has no output {', '.join(unknown)}; it has {', '.join(known)}.")
        args: dict[str, Any] = {"model": model.key, "outputs": list(outputs) if outputs is not None else None}
        if held:
            args["held"] = dict(held)
        if keep:
            args["keep"] = dict(keep)
        return self.channel.send("run", args, tensors=feeds, deadline=deadline, hold=hold)

    async def answer(self, model: LoadedModel, request_id: int) -> Reply:
        """Wait for the answer of a run; raises ModelError when an operator failed.

        A page that does not hold the model is not the one that loaded it: DamagedLaneError.
        """
        try:
            return await self.channel.answer(request_id)
        except RemoteError as error:
            if error.kind == "not_loaded":
                now = asyncio.get_running_loop().time()
                damage = Damage(Symptom.PAGE_REPLACED, f"the page lost model {model.info}", now)
                raise DamagedLaneError(damage, self.channel.name) from error
            raise ModelError(self._complaint(model.info, model.build, "failed", error)) from error

    async def unload(self, model: LoadedModel, *, deadline: float) -> None:
        """Free the model in the page."""
        await self.channel.request("unload", {"model": model.key}, deadline=deadline)

    def _complaint(self, info: ModelInfo, build: OrtBuild, what: str, error: RemoteError) -> str:
        why = " ".join(str(error).split()).rstrip(".")
        return (
            f"model {info} {what} on {self.channel.name} (onnxruntime-web {self.ort.version}, {build} build): {why}. "
            "If an operator is not supported there, choose another build= or leave the lane out with "
            "@pytest.mark.webaccel(backend=...)."
        )
