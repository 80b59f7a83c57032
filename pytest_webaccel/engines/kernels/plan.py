"""Programs that feed one another, in the order in which a page runs them."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from pytest_webaccel.engines.kernels.program import Constant, Output, Program, Tensor
from pytest_webaccel.errors import ConfigurationError, FeedError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Plan"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What computes some tensors: each program that they come from once, after those that it reads.

    ``inputs`` travel with it, ``constants`` are kept by the page, by their keys; ``temporaries`` are sizes in bytes of
    what programs write. ``bound`` names the buffers of each program in the order of its bindings, an empty name for its
    uniform. ``wanted`` are the outputs by the caller's names, ``sources`` the buffers that they lie in.
    """

    programs: Sequence[Program]
    bound: Sequence[Sequence[str]]
    inputs: Mapping[str, NDArray[Any]]
    constants: Mapping[str, NDArray[Any]]
    temporaries: Mapping[str, int]
    wanted: Mapping[str, Output]
    sources: Mapping[str, str]

    @classmethod
    def of(cls, outputs: Mapping[str, Tensor]) -> Plan:
        """Return the plan of ``outputs``, tensors by name; raises FeedError for what is none."""
        if not outputs:
            raise FeedError("nothing is to be computed: name at least one tensor")
        for name, tensor in outputs.items():
            _require_tensor(name, tensor)
        order = _ordered(outputs)
        written = {(id(program), name): f"t{at}-{name}" for at, program in enumerate(order) for name in program.outputs}
        temporaries = {
            written[id(program), name]: output.nbytes for program in order for name, output in program.outputs.items()
        }
        inputs: dict[str, NDArray[Any]] = {}
        constants: dict[str, NDArray[Any]] = {}
        bound: list[list[str]] = []
        for at, program in enumerate(order):
            names = []
            for name in program.bindings:
                given = program.inputs.get(name)
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
            programs=order,
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
        names = list(dict.fromkeys(program.kernel for program in self.programs))
        return names[0] if len(names) == 1 else f"{len(self.programs)} programs ({', '.join(names)})"

    @property
    def needs(self) -> frozenset[str]:
        """Features that the device must have."""
        return frozenset(feature for program in self.programs for feature in program.needs)

    def require(self, limits: Mapping[str, int]) -> None:
        """Raise ConfigurationError, with the limit, where an adapter cannot hold a buffer or dispatch so much."""
        most = limits.get("maxStorageBufferBindingSize", math.inf)
        groups = limits.get("maxComputeWorkgroupsPerDimension", math.inf)
        for program in self.programs:
            sizes = {name: operand.nbytes for name, operand in program.inputs.items()}
            sizes |= {name: output.nbytes for name, output in program.outputs.items()}
            for name, size in sizes.items():
                if size > most:
                    raise ConfigurationError(
                        f"kernel {program.kernel}: {name} takes {size:,} bytes, and this adapter binds at most "
                        f"{most:,} (maxStorageBufferBindingSize). Split the work."
                    )
            if max(program.workgroups) > groups:
                raise ConfigurationError(
                    f"kernel {program.kernel}: {max(program.workgroups):,} workgroups in one dimension, and this "
                    f"adapter dispatches at most {groups:,} (maxComputeWorkgroupsPerDimension). Split the work."
                )

    def to_args(self, repeats: int = 0) -> dict[str, Any]:
        """Return it as the page's operation ``kernel`` takes it, without inputs and constants.

        The page runs it once, and ``repeats`` times more with the clock beside it.
        """
        codes = list(dict.fromkeys(program.code for program in self.programs))
        return {
            "codes": codes,
            "steps": [
                {
                    "kernel": program.kernel,
                    "code": codes.index(program.code),
                    "entry": program.entry,
                    "constants": dict(program.constants),
                    "bindings": list(names),
                    "uniform": list(program.uniform),
                    "workgroups": list(program.workgroups),
                }
                for program, names in zip(self.programs, self.bound, strict=True)
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
