"""Which constants kernels run with on an adapter: what a tuner chose, in this process or in a run before."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_webaccel.engines.kernels.dispatch import Target
from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_webaccel.engines.kernels import Dispatch, Program
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

    def of(self, probe: ProbeResult, dispatch: Dispatch) -> Constants | None:
        """Return what was chosen for such a dispatch on such an adapter; None where nothing was."""
        return self._known().get(_place_of(probe, dispatch))

    def tuned(self, probe: ProbeResult, program: Program) -> Dispatch:
        """Return how a lane computes a program: as was chosen for it, or untuned where that fits no more."""
        target = Target.of(probe)
        untuned = program.lowered(target)
        chosen = None if program.constants else self.of(probe, untuned)
        if not chosen:
            return untuned
        try:
            better = program.lowered(target, chosen)
        except ConfigurationError as error:
            _log.warning("kernel %s runs untuned, since what was chosen cannot be: %s", program.kernel, error)
            return untuned
        return better if set(better.needs) <= target.features else untuned

    def choose(self, probe: ProbeResult, dispatch: Dispatch, constants: Constants) -> None:
        """Have such dispatches run with ``constants`` from now on; what was tried for it is forgotten."""
        place = _place_of(probe, dispatch)
        self._known()[place] = constants
        self._tried.pop(place, None)

    def tried(self, probe: ProbeResult, dispatch: Dispatch) -> dict[tuple[tuple[str, int], ...], Timing]:
        """Return what a search tried that was cut off, by constants, to be added to; empty for a new one."""
        return self._tried.setdefault(_place_of(probe, dispatch), {})

    def _known(self) -> dict[Place, Constants]:
        if self._chosen is None:
            from pytest_webaccel.history.store import chosen_constants

            rows = chosen_constants(self._database)
            self._chosen = {_place(row.adapter, row.browser, row.kernel, row.signature): row.constants for row in rows}
        return self._chosen


def browser_of(probe: ProbeResult) -> str:
    """Return the browser of a lane with its version."""
    return f"{probe.lane.browser} {probe.version}"


def _place_of(probe: ProbeResult, dispatch: Dispatch) -> Place:
    return _place(probe.adapter, browser_of(probe), dispatch.kernel, dispatch.signature)


def _place(adapter: str, browser: str, kernel: str, signature: Mapping[str, Any]) -> Place:
    return adapter, browser, kernel, json.dumps(signature, sort_keys=True)
