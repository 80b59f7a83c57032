"""Programs that feed one another, as a lane computes them."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_webaccel.engines.kernels.dispatch import Constant, Target
from pytest_webaccel.engines.kernels.program import Output, Program, Tensor
from pytest_webaccel.errors import ConfigurationError, FeedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.dispatch import Dispatch
    from pytest_webaccel.terms import ProbeResult

__all__ = ["Computation", "Plan"]

#: What makes the dispatch of a program for a lane.
Lower: TypeAlias = "Callable[[ProbeResult, Program], Dispatch]"


def untuned(probe: ProbeResult, program: Program) -> Dispatch:
    """Return how a lane computes a program with the defaults."""
    return program.lowered(Target.of(probe))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What computes some tensors on one device: each program that they come from once, after those that it reads.

    ``inputs`` travel with it, ``constants`` are kept by the page, by their keys; ``temporaries`` are sizes in bytes of
    what dispatches write. ``bound`` names the buffers of each in the order of its bindings, an empty name for its
    uniform. ``wanted`` are the outputs by the caller's names, ``sources`` the buffers that they lie in.
    """

    dispatches: Sequence[Dispatch]
    bound: Sequence[Sequence[str]]
    inputs: Mapping[str, NDArray[Any]]
    constants: Mapping[str, NDArray[Any]]
    temporaries: Mapping[str, int]
    wanted: Mapping[str, Output]
    sources: Mapping[str, str]

    @classmethod
    def of(cls, outputs: Mapping[str, Tensor], lower: Callable[[Program], Dispatch]) -> Plan:
        """Return the plan of ``outputs``, tensors by name, of which ``lower`` makes dispatches.

        Raises FeedError for what is no tensor, ConfigurationError for what cannot be lowered.
        """
        if not outputs:
            raise FeedError("nothing is to be computed: name at least one tensor")
        for name, tensor in outputs.items():
            _require_tensor(name, tensor)
        order = _ordered(outputs)
        dispatches = [lower(program) for program in order]
        written = {(id(program), name): f"t{at}-{name}" for at, program in enumerate(order) for name in program.outputs}
        temporaries = {
            written[id(program), name]: output.nbytes for program in order for name, output in program.outputs.items()
        }
        inputs: dict[str, NDArray[Any]] = {}
        constants: dict[str, NDArray[Any]] = {}
        bound: list[list[str]] = []
        for at, (program, dispatch) in enumerate(zip(order, dispatches, strict=True)):
            names = []
            for name in dispatch.bindings:
                given = dispatch.inputs.get(name)
                if name in program.outputs:
                    names.append(written[id(program), name])
                elif name == "uniform":
                    names.append("")
                elif isinstance(given, Tensor):
                    names.append(written[id(given.program), given.name])
                elif isinstance(given, Constant):
                    constants[given.key] = given.data
                    names.append(given.key)
                elif given is None:
                    raise ConfigurationError(f"kernel {program.kernel}: nothing was given for {name}")
                else:
                    inputs[f"i{at}-{name}"] = given
                    names.append(f"i{at}-{name}")
            bound.append(names)
        return cls(
            dispatches=dispatches,
            bound=bound,
            inputs=inputs,
            constants=constants,
            temporaries=temporaries,
            wanted={name: Output(tensor.dtype.name, tensor.shape) for name, tensor in outputs.items()},
            sources={name: written[id(tensor.program), tensor.name] for name, tensor in outputs.items()},
        )

    @property
    def kernel(self) -> str:
        """Name of the kernel, or of those that it consists of."""
        names = list(dict.fromkeys(dispatch.kernel for dispatch in self.dispatches))
        return names[0] if len(names) == 1 else f"{len(self.dispatches)} programs ({', '.join(names)})"

    @property
    def needs(self) -> frozenset[str]:
        """Features that the device must have."""
        return frozenset(feature for dispatch in self.dispatches for feature in dispatch.needs)

    def require(self, probe: ProbeResult) -> None:
        """Raise ConfigurationError where a lane lacks a feature, or cannot hold or dispatch so much, with the limit."""
        if missing := self.needs - set(probe.features):
            needs = ", ".join(sorted(missing))
            raise ConfigurationError(f"kernel {self.kernel} needs {needs}, which {probe.lane} has not")
        limits = probe.limits
        most = limits.get("maxStorageBufferBindingSize", math.inf)
        groups = limits.get("maxComputeWorkgroupsPerDimension", math.inf)
        for dispatch in self.dispatches:
            sizes = {name: operand.nbytes for name, operand in dispatch.inputs.items()}
            sizes |= {name: output.nbytes for name, output in dispatch.outputs.items()}
            for name, size in sizes.items():
                if size > most:
                    raise ConfigurationError(
                        f"kernel {dispatch.kernel}: {name} takes {size:,} bytes, and this adapter binds at most "
                        f"{most:,} (maxStorageBufferBindingSize). Split the work."
                    )
            if max(dispatch.workgroups) > groups:
                raise ConfigurationError(
                    f"kernel {dispatch.kernel}: {max(dispatch.workgroups):,} workgroups in one dimension, and this "
                    f"adapter dispatches at most {groups:,} (maxComputeWorkgroupsPerDimension). Split the work."
                )

    def to_args(self, repeats: int = 0) -> dict[str, Any]:
        """Return it as the page's operation ``kernel`` takes it, without inputs and constants.

        The page runs it once, and ``repeats`` times more with the clock beside it.
        """
        codes = list(dict.fromkeys(dispatch.code for dispatch in self.dispatches))
        return {
            "codes": codes,
            "steps": [
                {
                    "kernel": dispatch.kernel,
                    "code": codes.index(dispatch.code),
                    "entry": dispatch.entry,
                    "constants": dict(dispatch.constants),
                    "bindings": list(names),
                    "uniform": list(dispatch.uniform),
                    "workgroups": list(dispatch.workgroups),
                }
                for dispatch, names in zip(self.dispatches, self.bound, strict=True)
            ],
            "temporaries": [{"name": name, "bytes": size} for name, size in self.temporaries.items()],
            "constants": list(self.constants),
            "outputs": [
                {
                    "name": name,
                    "buffer": self.sources[name],
                    "dtype": output.dtype,
                    "shape": list(output.shape),
                    "bytes": output.nbytes,
                }
                for name, output in self.wanted.items()
            ],
            "repeats": repeats,
        }

    def tensors(self, kept: Collection[str]) -> dict[str, NDArray[Any]]:
        """Return what travels to a page that keeps the constants ``kept`` already."""
        return {**self.inputs, **{key: data for key, data in self.constants.items() if key not in kept}}


class Computation:
    """Tensors that are to be computed, on whichever lane: it has a plan for each. ``lower`` makes its dispatches."""

    def __init__(self, outputs: Mapping[str, Tensor], lower: Lower = untuned) -> None:
        self._outputs = dict(outputs)
        self._lower = lower
        self._plans: list[tuple[ProbeResult, Plan]] = []

    def plan(self, probe: ProbeResult) -> Plan:
        """Return its plan for a lane.

        Raises FeedError for what is no tensor, ConfigurationError for what the lane cannot run.
        """
        for known, plan in self._plans:
            if known == probe:
                return plan
        plan = Plan.of(self._outputs, functools.partial(self._lower, probe))
        plan.require(probe)
        self._plans.append((probe, plan))
        return plan


def _ordered(outputs: Mapping[str, Tensor]) -> list[Program]:
    """Return programs after those that they read, each once. Without recursion: a chain may be long."""
    order: list[Program] = []
    done: set[int] = set()
    waiting = [(tensor.program, False) for tensor in reversed(list(outputs.values()))]
    while waiting:
        program, read = waiting.pop()
        if id(program) in done:
            continue
        if read:
            done.add(id(program))
            order.append(program)
            continue
        waiting.append((program, True))
        sources = [one.program for one in program.inputs.values() if isinstance(one, Tensor)]
        waiting += [(source, False) for source in reversed(sources)]
    return order


def _require_tensor(name: str, given: object) -> None:
    if isinstance(given, Program):
        raise FeedError(f"{name} is a program: take one of its outputs, as in program[{next(iter(given.outputs))!r}]")
    if not isinstance(given, Tensor):
        raise FeedError(f"{name} is a tensor of a program, not of type {type(given).__name__}")
