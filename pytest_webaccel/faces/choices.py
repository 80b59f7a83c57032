"""Which constants kernels run with on an adapter: what a tuner chose, in this process or in a run before."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pytest_webaccel.engines.kernels import Program
    from pytest_webaccel.engines.kernels.tuning import Constants, Timing
    from pytest_webaccel.terms import ProbeResult

__all__ = ["Choices", "browser_of"]

Place: TypeAlias = tuple[str, ...]

_log = logging.getLogger(__name__)


class Choices:
    """The constants that were chosen, by adapter, browser, kernel and signature, and what was tried on the way.

    What earlier runs chose is read from ``database`` when it is first asked for.
    """

    def __init__(self, database: Path | None) -> None:
        self._database = database
        self._chosen: dict[Place, Constants] | None = None
        self._tried: dict[Place, dict[tuple[tuple[str, int], ...], Timing]] = {}

    def of(self, probe: ProbeResult, program: Program) -> Constants | None:
        """Return what was chosen for such a program on such an adapter; None where nothing was."""
        return self._known().get(_place(probe.adapter, browser_of(probe), program.kernel, program.signature))

    def tuned(self, probe: ProbeResult, program: Program, made: Callable[[Constants], Program]) -> Program:
        """Return ``program`` as ``made`` from what was chosen for it, or as it is where that fits no more."""
        chosen = self.of(probe, program)
        if not chosen:
            return program
        try:
            better = made(chosen)
        except ConfigurationError as error:
            _log.warning("kernel %s runs untuned, since what was chosen cannot be: %s", program.kernel, error)
            return program
        return better if set(better.needs) <= set(probe.features) else program

    def choose(self, probe: ProbeResult, program: Program, constants: Constants) -> None:
        """Have such programs run with ``constants`` from now on; what was tried for it is forgotten."""
        place = _place(probe.adapter, browser_of(probe), program.kernel, program.signature)
        self._known()[place] = constants
        self._tried.pop(place, None)

    def tried(self, probe: ProbeResult, program: Program) -> dict[tuple[tuple[str, int], ...], Timing]:
        """Return what a search tried that was cut off, by constants, to be added to; empty for a new one."""
        place = _place(probe.adapter, browser_of(probe), program.kernel, program.signature)
        return self._tried.setdefault(place, {})

    def _known(self) -> dict[Place, Constants]:
        if self._chosen is None:
            from pytest_webaccel.history.store import chosen_constants

            rows = chosen_constants(self._database)
            self._chosen = {_place(row.adapter, row.browser, row.kernel, row.signature): row.constants for row in rows}
        return self._chosen


def browser_of(probe: ProbeResult) -> str:
    """Return the browser of a lane with its version."""
    return f"{probe.lane.browser} {probe.version}"


def _place(adapter: str, browser: str, kernel: str, signature: Mapping[str, Any]) -> Place:
    return adapter, browser, kernel, json.dumps(signature, sort_keys=True)
