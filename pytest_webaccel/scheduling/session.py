"""What one pytest process knows about its run, controller or worker alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_webaccel.declarations import SESSION_MADE_KEY
from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.options import Settings
from pytest_webaccel.rows import Row, TransactionRow, encode_row
from pytest_webaccel.scheduling.binding import parse_lanes
from pytest_webaccel.scheduling.lanes import lane_table
from pytest_webaccel.terms import Lane, ProbeResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_webaccel.browsers.profiles import Profile
    from pytest_webaccel.history.spool import Spool

__all__ = ["LANE_PROPERTY", "WORKER_INPUT", "SessionInfo", "row_property", "session_of"]

#: Key under which a worker is told of the run; None where the controller knows of no use for it.
WORKER_INPUT = "webaccel"

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
        self.interrupted = False
        self.folder = folder
        self._table = table
        self._bound = bound
        self._spool: Spool | None = None
        self._owned: Profile | None = None

    @classmethod
    def of_worker(cls, given: Mapping[str, Any], worker: str) -> SessionInfo:
        """Return the session of an xdist worker from what :meth:`for_worker` gave it."""
        table = given["table"]
        folder = Path(given["folder"])
        return cls(
            Settings.from_json(given["settings"]),
            run_id=given["run_id"],
            worker=worker,
            bound=given["bound"],
            table=None if table is None else tuple(ProbeResult.from_json(entry) for entry in table),
            folder=folder if folder.is_dir() else None,  # on another host there is none
        )

    def for_worker(self, bound: str | None) -> dict[str, Any]:
        """Return what a worker bound to the lanes ``bound`` is told, as execnet can carry it.

        It writes its rows to a file as well, which outlives it.
        """
        if self._owned is None:
            from pytest_webaccel.browsers.profiles import Profile

            self._owned = Profile()
            self.folder = self._owned.path
        return {
            "settings": self.settings.to_json(),
            "run_id": self.run_id,
            "bound": bound,
            "table": None if self._table is None else [probe.to_json() for probe in self._table],
            "folder": str(self.folder),
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

        Transactions are many and belong to no report; they take the spool alone. No report comes any more of a test
        that was interrupted.
        """
        text = encode_row(row)
        spooled = self._append(row)
        if item is not None and not isinstance(row, TransactionRow) and not self.interrupted:
            item.user_properties.append((row_property(row), text))
        elif not spooled:
            self.loose.append(text)

    def close(self) -> None:
        """Close the spool; the controller removes the folder of them."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        if self._owned is not None:
            from pytest_webaccel.browsers.profiles import sweep

            self._owned.discard()
            self._owned = None
            sweep()  # what a worker that was killed left behind

    def _append(self, row: Row) -> bool:
        if self.worker == "main" or self.folder is None:
            return False
        if self._spool is None:
            from pytest_webaccel.history.spool import Spool

            self._spool = Spool(self.folder / f"{self.worker}.jsonl")
        self._spool.append(row)
        return True


def session_of(config: pytest.Config) -> SessionInfo:
    """Return this process's part in the run, made when first asked for.

    Raises pytest.UsageError for settings that cannot be meant.
    """
    if SESSION_MADE_KEY not in config.stash:
        config.stash[SESSION_MADE_KEY] = _begin(config)
    session: SessionInfo = config.stash[SESSION_MADE_KEY]
    return session


def _begin(config: pytest.Config) -> SessionInfo:
    told: Mapping[str, Any] = getattr(config, "workerinput", {})
    if told.get(WORKER_INPUT) is not None:
        return SessionInfo.of_worker(told[WORKER_INPUT], told["workerid"])
    try:
        settings = Settings.from_config(config)
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from error
    # A worker that was told nothing shares xdist's id of the run with its controller.
    return SessionInfo(settings, run_id=told.get("testrunuid") or _run_id(config), worker=told.get("workerid", "main"))


def _run_id(config: pytest.Config) -> str:
    distribution = config.pluginmanager.getplugin("dsession")
    manager = getattr(distribution, "nodemanager", None)
    return str(getattr(manager, "testrunuid", None) or os.urandom(16).hex())
