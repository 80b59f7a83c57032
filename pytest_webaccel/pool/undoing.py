"""How what a lease does to its lane's page is undone, should it be rolled back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.recovery.journal import UNDO_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.engines.models import ModelInfo
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.recovery.journal import Transaction
    from pytest_webaccel.terms import OrtBuild

__all__ = ["undo_holding", "undo_load"]


def undo_load(change: Transaction, lane: LiveLane, info: ModelInfo, build: OrtBuild | None) -> None:
    """Have a load that fails half-way leave nothing in the page that it was asked of; one that was there stays."""
    station = lane.station
    if station is None or lane.guest is not None:  # a page that is another lane's, or is still to come
        return
    chosen = station.engine.choose(build)
    if station.find_info(info, chosen) is None:
        change.undo(f"loading {info}", lambda: station.forget(info, chosen, deadline=UNDO_S))


def undo_holding(change: Transaction, lane: LiveLane, keys: Sequence[str]) -> None:
    """Have tensors that are held for a change freed where the change fails, in whatever page serves the lane then."""

    async def free() -> None:
        if lane.station is not None or lane.guest is not None:
            await lane.here.free(keys, deadline=UNDO_S)

    change.undo(f"holding {', '.join(keys)}", free)
