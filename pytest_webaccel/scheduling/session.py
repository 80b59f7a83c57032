"""What one pytest process knows about its run, controller or worker alike."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_webaccel.options import Settings
from pytest_webaccel.scheduling.binding import parse_lanes
from pytest_webaccel.scheduling.lanes import lane_table
from pytest_webaccel.terms import Lane, ProbeResult, Row, TransactionRow, encode_row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_webaccel.browsers.profiles import Profile
    from pytest_webaccel.history.spool import Spool

__all__ = ["LANE_PROPERTY", "SESSION_KEY", "SessionInfo", "row_property"]

#: Report property that says which lane a test had; ``none`` where none would do.
LANE_PROPERTY = "webaccel_lane"


def row_property(row: Row) -> str:
    """Return the name of the report property that carries ``row``."""
    return f"webaccel_{row.table}"


class SessionInfo:
    """Settings, lanes and identity of this process in the run; where its rows go.

    The table of lanes is probed when first asked for, so a run without a webaccel test never probes.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        run_id: str,
        worker: str,
        bound: str | None = None,
        table: tuple[ProbeResult, ...] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.settings = settings
        self.run_id = run_id
        self.worker = worker
        self.loose: list[str] = []
        self.folder = folder
        self._table = table
        self._bound = bound
        self._spool: Spool | None = None
        self._owned: Profile | None = None

    @classmethod
    def of_controller(cls, settings: Settings) -> SessionInfo:
        """Return the session of the process that runs the tests itself or hands them out."""
        return cls(settings, run_id=uuid.uuid4().hex, worker="main")

    @classmethod
    def of_worker(cls, given: Mapping[str, Any], worker: str) -> SessionInfo:
        """Return the session of an xdist worker from what :meth:`for_worker` gave it."""
        table = given["table"]
        folder = Path(given["folder"]) if given["folder"] else None
        return cls(
            Settings.from_json(given["settings"]),
            run_id=given["run_id"],
            worker=worker,
            bound=given["bound"],
            table=None if table is None else tuple(ProbeResult.from_json(entry) for entry in table),
            folder=folder if folder is not None and folder.is_dir() else None,  # on another host there is none
        )

    def for_worker(self, bound: str | None, *, spooled: bool) -> dict[str, Any]:
        """Return what a worker bound to the lanes ``bound`` is told, as execnet can carry it.

        A ``spooled`` one writes its rows to a file as well, which outlives it.
        """
        if spooled and self._owned is None:
            from pytest_webaccel.browsers.profiles import Profile

            self._owned = Profile()
            self.folder = self._owned.path
        return {
            "settings": self.settings.to_json(),
            "run_id": self.run_id,
            "bound": bound,
            "table": None if self._table is None else [probe.to_json() for probe in self._table],
            "folder": str(self.folder or ""),
        }

    @property
    def probed(self) -> bool:
        """Whether the table of lanes is known already."""
        return self._table is not None

    @property
    def table(self) -> tuple[ProbeResult, ...]:
        """Every lane that the settings admit, working or not."""
        if self._table is None:
            self._table = lane_table(self.settings)
        return self._table

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """Lanes that this process serves: those it is bound to, or all that work."""
        if self._bound:
            return parse_lanes(self._bound)
        return tuple(probe.lane for probe in self.table if probe.works)

    def record(self, item: pytest.Item | None, row: Row) -> None:
        """Send ``row`` on its way: with the report of ``item``, and in the spool in case this process dies.

        Transactions are many and belong to no report; they take the spool alone.
        """
        text = encode_row(row)
        spooled = self._append(row)
        if item is not None and not isinstance(row, TransactionRow):
            item.user_properties.append((row_property(row), text))
        elif not spooled:
            self.loose.append(text)

    def close(self) -> None:
        """Close the spool; the controller removes the folder of them."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        if self._owned is not None:
            self._owned.discard()
            self._owned = None

    def _append(self, row: Row) -> bool:
        if self.worker == "main" or self.folder is None:
            return False
        if self._spool is None:
            from pytest_webaccel.history.spool import Spool

            self._spool = Spool(self.folder / f"{self.worker}.jsonl")
        self._spool.append(row)
        return True


#: Where the session is kept in ``config.stash``.
SESSION_KEY = pytest.StashKey[SessionInfo]()
