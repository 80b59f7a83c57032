"""Programs that feed one another, as a lane computes them."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_webaccel.engines.kernels.dispatch import Constant, Target
from pytest_webaccel.engines.kernels.program import Output, Program, Tensor
from pytest_webaccel.engines.kernels.state import Cell
from pytest_webaccel.errors import ConfigurationError, FeedError
from pytest_webaccel.terms import Backend

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.engines.kernels.dispatch import Dispatch
    from pytest_webaccel.engines.kernels.state import State
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
    uniform. ``wanted`` are the outputs by the caller's names, ``sources`` the buffers that they lie in; ``states`` are
    sizes in bytes of what stays and is written in place, by key, and ``owners`` who holds that and the constants.
    """

    dispatches: Sequence[Dispatch]
    bound: Sequence[Sequence[str]]
    inputs: Mapping[str, NDArray[Any]]
    constants: Mapping[str, NDArray[Any]]
    temporaries: Mapping[str, int]
    wanted: Mapping[str, Output]
    sources: Mapping[str, str]
    states: Mapping[str, int]
    owners: Mapping[str, object]

    @classmethod
    def of(cls, outputs: Mapping[str, Tensor | Cell], lower: Callable[[Program], Dispatch]) -> Plan:
        """Return the plan of ``outputs``, tensors by name, of which ``lower`` makes dispatches.

        Raises FeedError for what is no tensor, ConfigurationError for what cannot be lowered.
        """
        _require_tensors(outputs)
        order = _ordered(outputs)
        dispatches = [lower(program) for program in order]
        written: dict[tuple[int, str], str] = {}
        temporaries: dict[str, int] = {}
        for at, program in enumerate(order):
            for name, output in program.outputs.items():
                if place := program.places.get(name):
                    written[id(program), name] = place.key
                else:
                    written[id(program), name] = f"t{at}-{name}"
                    temporaries[f"t{at}-{name}"] = output.nbytes
        inputs: dict[str, NDArray[Any]] = {}
        constants: dict[str, NDArray[Any]] = {}
        owners: dict[str, object] = {}
        sent: dict[int, str] = {}  # an array that several read travels once

        def buffer(at: int, name: str) -> str:
            given = dispatches[at].inputs.get(name)
            if name in order[at].outputs:
                return written[id(order[at]), name]
            if name == "uniform":
                return ""
            if isinstance(given, Tensor):
                return written[id(given.program), given.name]
            if isinstance(given, Constant):
                constants[given.key], owners[given.key] = given.data, given.owner
            elif given is None:
                raise ConfigurationError(f"kernel {order[at].kernel}: nothing was given for {name}")
            elif not isinstance(given, Cell):
                key = sent.setdefault(id(given), f"i{at}-{name}")
                inputs[key] = given
                return key
            return given.key

        cells = [cell for program in order for cell in program.cells]
        cells += [cell for cell in outputs.values() if isinstance(cell, Cell)]
        owners |= {cell.key: cell.state for cell in cells}
        return cls(
            dispatches=dispatches,
            bound=[[buffer(at, name) for name in one.bindings] for at, one in enumerate(dispatches)],
            inputs=inputs,
            constants=constants,
            temporaries=temporaries,
            wanted={name: Output(tensor.dtype.name, tensor.shape) for name, tensor in outputs.items()},
            sources={
                name: one.key if isinstance(one, Cell) else written[id(one.program), one.name]
                for name, one in outputs.items()
            },
            states={cell.key: cell.nbytes for cell in cells},
            owners=owners,
        )

    @classmethod
    def of_state(cls, state: State) -> Plan:
        """Return the plan that makes a state's buffers, and computes nothing."""
        cells = [state.cell(name) for name in state.sizes]
        states = {cell.key: cell.nbytes for cell in cells}
        return cls((), (), {}, {}, {}, {}, {}, states=states, owners=dict.fromkeys(states, state))

    @property
    def kernel(self) -> str:
        """Name of the kernel, or of those that it consists of."""
        names = list(dict.fromkeys(dispatch.kernel for dispatch in self.dispatches)) or ["state"]
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
        if self.states and probe.lane.backend is Backend.WEBNN:
            raise ConfigurationError(f"{probe.lane} keeps no states: a graph of WebNN writes nothing in place")
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

    def to_args(self, repeats: int = 0, kept: Collection[str] = (), dropped: Collection[str] = ()) -> dict[str, Any]:
        """Return it as the page's operation ``kernel`` takes it, without inputs and constants.

        The page forgets what is ``dropped``, runs it once, and ``repeats`` times more with the clock beside it. States
        that are not among what it has ``kept`` begin anew.
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
                    "graph": dict(dispatch.graph),
                }
                for dispatch, names in zip(self.dispatches, self.bound, strict=True)
            ],
            "temporaries": [{"name": name, "bytes": size} for name, size in self.temporaries.items()],
            "dropped": list(dropped),
            "constants": list(self.constants),
            "states": [{"name": key, "bytes": size, "fresh": key not in kept} for key, size in self.states.items()],
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
    """Tensors that are to be computed, on whichever lane: it has a plan for each. ``lower`` makes its dispatches.

    ``state`` is the one that it reads or writes. Raises ConfigurationError where there are several, or where a buffer
    of it is read as it was before something else wrote it.
    """

    def __init__(self, outputs: Mapping[str, Tensor | Cell], lower: Lower = untuned) -> None:
        self._outputs = dict(outputs)
        self._cells = [one for one in self._outputs.values() if isinstance(one, Cell)]
        self.programs = _ordered(self._outputs)
        self._cells += [cell for program in self.programs for cell in program.cells]
        states = list({id(cell.state): cell.state for cell in self._cells}.values())
        if len(states) > 1:
            raise ConfigurationError(
                f"one state at most goes into a computation, not {len(states)}: compute them apart"
            )
        self.state: State | None = states[0] if states else None
        _require_one_line(self.programs, self._outputs)
        self._lower = lower
        self._plans: list[tuple[ProbeResult, Plan]] = []

    def require_current(self) -> None:
        """Raise ConfigurationError where it was made of buffers that have been written since."""
        for cell in self._cells:
            if cell.version != cell.state.version:
                raise ConfigurationError(
                    f"{cell.name} is asked for as it was after {cell.version} computations, and there have been "
                    f"{cell.state.version} since: go on from what the last of them gave"
                )

    @property
    def writes(self) -> bool:
        """Whether it writes its state."""
        return any(program.places for program in self.programs)

    def commit(self) -> None:
        """Note that it has run, once."""
        if self.state is not None and self.writes:
            self.state.commit(self, self.programs)

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


def _ordered(outputs: Mapping[str, Tensor | Cell]) -> list[Program]:
    """Return the programs that outputs come from, each once, in the order in which they were made.

    So each comes after those that it reads, and what is written in place is read before it is written again. Without
    recursion: a chain may be long.
    """
    found: dict[int, Program] = {}
    waiting = [one.program for one in outputs.values() if isinstance(one, Tensor)]
    while waiting:
        program = waiting.pop()
        if program.number not in found:
            found[program.number] = program
            waiting += [one.program for one in program.inputs.values() if isinstance(one, Tensor)]
    return [found[number] for number in sorted(found)]


def _require_one_line(programs: Sequence[Program], outputs: Mapping[str, Tensor | Cell]) -> None:
    """Raise ConfigurationError where a buffer that is written in place is read as it was before: it is no more."""
    last: dict[str, Program] = {}

    def look(given: object) -> None:
        wrote = None
        if isinstance(given, Tensor) and given.name in given.program.places:
            key, wrote = given.program.places[given.name].key, given.program
        elif isinstance(given, Cell):
            key = given.key
        else:
            return
        if last.get(key) is not wrote:
            raise ConfigurationError(
                "a cache cannot be gone on from twice, nor looked into as it was before tokens that are appended "
                "with it: go on from what the last append gave, or compute what is wanted of it before"
            )

    for program in programs:
        for given in program.inputs.values():
            look(given)
        last.update({place.key: program for place in program.places.values()})
    for given in outputs.values():
        look(given)


def _require_tensors(outputs: Mapping[str, object]) -> None:
    if not outputs:
        raise FeedError("nothing is to be computed: name at least one tensor")
    for name, given in outputs.items():
        if isinstance(given, Program):
            output = next(iter(given.outputs))
            raise FeedError(f"{name} is a program: take one of its outputs, as in program[{output!r}]")
        if not isinstance(given, Tensor | Cell):
            raise FeedError(f"{name} is a tensor of a program, not of type {type(given).__name__}")
