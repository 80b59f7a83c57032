"""Which constants kernels run with on an adapter: what a tuner chose, in this run or in one before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_webaccel.engines.kernels import Program
    from pytest_webaccel.engines.kernels.tuning import Constants, Timing
    from pytest_webaccel.terms import ProbeResult

__all__ = ["Choices", "browser_of"]

Place: TypeAlias = tuple[str, ...]


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

    def choose(self, probe: ProbeResult, program: Program, constants: Constants) -> None:
        """Have such programs run with ``constants`` from now on."""
        self._known()[_place(probe.adapter, browser_of(probe), program.kernel, program.signature)] = constants

    def tried(self, probe: ProbeResult, program: Program) -> dict[tuple[tuple[str, int], ...], Timing]:
        """Return what was tried in this session, by constants, to be added to: a search that was cut off goes on."""
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
