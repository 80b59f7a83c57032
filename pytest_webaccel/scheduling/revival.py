"""Tests whose worker died as planned: which are handed out again, and what is told of those that are not.

A worker that is about to die says why in its test's ledger. The controller, which sees it gone, hands the
test out once more, never twice.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from xdist.dsession import get_default_max_worker_restart

from pytest_webaccel.recovery.ledger import Death, Ledger, LedgerError, ledger_path, read_ledger
from pytest_webaccel.rows import TransactionRow, encode_row
from pytest_webaccel.scheduling.session import session_of
from pytest_webaccel.terms import Outcome, Strategy, TransactionState

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_webaccel.rows import Row
    from pytest_webaccel.scheduling.session import SessionInfo

__all__ = ["Revivals", "conclude", "orphans"]


class Revivals:
    """What the controller knows of workers that died under a test.

    ``losses`` counts workers lost so far, the one that is being seen to included, as pytest-xdist does for
    ``--max-worker-restart``; ``handed`` are the tests that were handed out again.
    """

    def __init__(self, config: pytest.Config, session: SessionInfo) -> None:
        self.losses = 0
        self._config = config
        self._session = session
        self._limit: int | None = get_default_max_worker_restart(config)
        self._pending: dict[str, Death] = {}
        self.handed: set[str] = set()
        self._verdicts: dict[str, tuple[Death, Outcome, str]] = {}

    def again(self, test_id: str) -> bool:
        """Return whether a test whose worker just died is to be handed out again; remember why not."""
        path = self._path(test_id)
        death = None if path is None else _last(read_ledger(path).deaths)
        if path is None or death is None:
            return False
        reason, outcome = self._objection(test_id, death)
        if not reason:
            try:
                _notice(path, test_id)
            except LedgerError as error:
                reason, outcome = str(error), Outcome.FAILED
        if reason:
            self._verdicts[test_id] = (death, outcome, reason)
            return False
        self.handed.add(test_id)
        self._pending[test_id] = death
        return True

    def without_scheduler(self, test_id: str) -> None:
        """Note that another scheduler than ours reported a test as crashed, if its ledger says why it did."""
        path = self._path(test_id)
        death = None if path is None or test_id in self._verdicts else _last(read_ledger(path).deaths)
        if death is not None:
            dist = self._config.getoption("dist", "no")
            reason = f"--dist={dist} hands out no test again; use --dist=load or --dist=worksteal"
            self._verdicts[test_id] = (death, Outcome.FAILED, reason)

    def explanation(self, test_id: str) -> str:
        """Return why a crashed test was not run again; empty for one that crashed unplanned."""
        if test_id not in self._verdicts:
            return ""
        death, _, reason = self._verdicts[test_id]
        return f"fault {death.fault} on {death.lane} ended the worker, strategy {death.strategy}: {reason}"

    def ended(self, test_id: str) -> None:
        """Note that a test which was handed out again came to its end."""
        self._pending.pop(test_id, None)

    def lost(self) -> list[str]:
        """Return the tests that were handed out again and never run to an end."""
        return list(self._pending)

    def rows(self) -> list[str]:
        """Return the encoded rows of faults that ended a worker and that no worker told of."""
        pending = {
            test_id: (death, Outcome.UNKNOWN, "the run ended before the test had been run again")
            for test_id, death in self._pending.items()
        }
        return [
            encode_row(death.row(self._session.run_id, test_id, outcome, detail))
            for test_id, (death, outcome, detail) in {**pending, **self._verdicts}.items()
        ]

    # -- inside ------------------------------------------------------------------------------

    def _objection(self, test_id: str, death: Death) -> tuple[str, Outcome]:
        if test_id in self.handed:
            self._pending.pop(test_id, None)
            return "the worker that ran the test again died as well; it is not run a third time", Outcome.UNKNOWN
        if death.strategy is Strategy.NONE:
            return "strategy none tries nothing", Outcome.FAILED
        if self._limit is not None and self.losses > self._limit:
            limit = f"--max-worker-restart={self._limit}"
            return f"{limit} allows no other worker; raise it by one for each fault that ends one", Outcome.FAILED
        return "", Outcome.RECOVERED

    def _path(self, test_id: str) -> Path | None:
        return None if self._session.folder is None else ledger_path(self._session.folder, test_id)


def orphans(rows: Iterable[Row]) -> list[TransactionRow]:
    """Return the roll-back of each transaction that its worker left open: it died, and with it all that it changed."""
    started: dict[str, TransactionRow] = {}
    ended = set()
    for row in rows:
        if isinstance(row, TransactionRow):
            if row.state == TransactionState.STARTED:
                started[row.transaction_id] = row
            else:
                ended.add(row.transaction_id)
    return [
        TransactionRow(
            run_id=row.run_id,
            evidence=row.evidence,
            row_id=f"{transaction_id}.{TransactionState.ROLLED_BACK}",
            lane=row.lane,
            transaction_id=transaction_id,
            state=str(TransactionState.ROLLED_BACK),
            kind=row.kind,
            test_id=row.test_id,
        )
        for transaction_id, row in started.items()
        if transaction_id not in ended
    ]


def conclude(revivals: Revivals, session: pytest.Session, exitstatus: int) -> None:
    """End the run: hand over the rows that no worker wrote, and let no test be lost without a word."""
    session_of(session.config).loose.extend(revivals.rows())
    lost = [] if exitstatus == pytest.ExitCode.INTERRUPTED else revivals.lost()
    for test_id in lost:
        path = test_id.split("::", maxsplit=1)[0]
        report = pytest.TestReport(
            nodeid=test_id,
            location=(path, None, path),
            keywords={},
            outcome="failed",
            longrepr=f"{test_id} was to be run again after a planned fault ended its worker, and no worker was left "
            "that could run it. The messages above say what became of the replacement.",
            when="???",  # type: ignore[arg-type] # as xdist marks a test that no worker finished
        )
        session.config.hook.pytest_runtest_logreport(report=report)
    if lost and session.exitstatus in {0, 5}:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if revivals.handed:
        _drop_nameless(session.config)


def _drop_nameless(config: pytest.Config) -> None:
    """Drop JUnit's records of set-ups alone, which a worker reported before it died: they have no name."""
    for plugin in config.pluginmanager.get_plugins():
        reporters = getattr(plugin, "node_reporters_ordered", None)
        if isinstance(reporters, list):
            reporters[:] = [reporter for reporter in reporters if not _nameless(reporter)]


def _nameless(reporter: object) -> bool:
    """Whether a record has neither got a name yet nor been finished, which leaves nothing in it but its XML."""
    return not getattr(reporter, "attrs", None) and "to_xml" not in vars(reporter)


def _last(deaths: list[Death]) -> Death | None:
    return deaths[-1] if deaths else None


def _notice(path: Path, test_id: str) -> None:
    now = time.time()
    ledger = Ledger(path, test_id)
    try:
        ledger.noticed(now)
    finally:
        ledger.close()
