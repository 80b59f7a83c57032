"""How what is done to a lane's page is undone, should it be rolled back."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pytest_webaccel.recovery.journal import UNDO_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_webaccel.engines.models import ModelInfo
    from pytest_webaccel.pool.holdings import Holdings
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.pool.station import Station
    from pytest_webaccel.recovery.journal import Transaction, TransactionScope
    from pytest_webaccel.terms import OrtBuild

__all__ = ["load_again", "undo_holding", "undo_load"]


def undo_load(change: Transaction, lane: LiveLane, info: ModelInfo, build: OrtBuild | None) -> None:
    """Have a load that fails half-way leave nothing in the page that it was asked of; one that was there stays."""
    station = lane.station
    if station is None or lane.guest is not None:  # a page that is another lane's, or is still to come
        return
    chosen = station.engine.choose(build)
    if station.find_info(info, chosen) is None:
        change.undo(f"loading {info}", lambda: station.forget(info, chosen, deadline=UNDO_S))


async def load_again(
    begin: Callable[[], TransactionScope], holdings: Holdings, station: Station, *, deadline: float, stays: bool = True
) -> None:
    """Load into ``station`` what it must hold and does not, as one change of what ``begin`` begins.

    One that is cut off leaves no half-loaded model in a station that ``stays``; another ends with what it holds.
    """
    missing = [(info, build) for info, build in holdings.models.values() if station.find_info(info, build) is None]
    if not missing:
        return
    async with begin() as change:
        for info, build in missing if stays else ():
            change.undo(f"loading {info}", functools.partial(station.forget, info, build, deadline=UNDO_S))
        await holdings.fill(station, deadline=deadline)


def undo_holding(change: Transaction, lane: LiveLane, keys: Sequence[str]) -> None:
    """Have tensors that are held for a change freed where the change fails, in whatever page serves the lane then."""

    async def free() -> None:
        if lane.served:
            await lane.here.free(keys, deadline=UNDO_S)

    change.undo(f"holding {', '.join(keys)}", free)
