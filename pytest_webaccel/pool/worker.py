"""A worker's share of the run: its loop, its pool, its journal, and where its rows go."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.browsers import Driver, Installation, find, find_all, make_driver
from pytest_webaccel.browsers.install.ort import ort_dist, ort_version
from pytest_webaccel.browsers.probe import KEPT_OFF_GPU
from pytest_webaccel.errors import LaneUnavailableError
from pytest_webaccel.pool.lease import Lease, Terms
from pytest_webaccel.pool.lives import Ledgers, Life
from pytest_webaccel.pool.pool import Pool
from pytest_webaccel.pool.runtime import LoopThread
from pytest_webaccel.recovery.journal import Journal
from pytest_webaccel.rows import SPARE_MEMORY, LaneRow, MeasurementRow, Row, TransactionRow
from pytest_webaccel.terms import Browser, Evidence, Lane, Outcome, ProbeResult, Strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from pytest_webaccel.browsers.usage import Usage
    from pytest_webaccel.pool.lane import LiveLane

__all__ = ["Worker", "installation_of"]

T = TypeVar("T")

_LEASE_S = 150.0
_END_S = 60.0
#: Seconds that what comes before and after a recovery may take: a spare made ready, the lane looked at.
_AROUND_S = 60.0


class Worker:
    """Everything of ours in one pytest process.

    ``record`` takes rows as they come; ``spares`` is how many warm spares each lane keeps, ``budget_s``
    the seconds that one recovery may take, ``ort`` a copy of onnxruntime-web and ``ort_name`` what it is
    called if not by its version, ``seed`` of all that is drawn, ``account`` whether to measure what
    recoveries cost. ``held`` are the leases that have not ended.
    """

    def __init__(
        self,
        table: Sequence[ProbeResult],
        *,
        run_id: str,
        worker: str,
        strategy: Strategy,
        record: Callable[[Row], None],
        ort: Path | None = None,
        ort_name: str = "",
        headed: bool = False,
        spares: int = 0,
        budget_s: float = 120.0,
        seed: int = 0,
        ledgers: Path | None = None,
        account: bool = False,
    ) -> None:
        self.run_id = run_id
        self.worker = worker
        self.strategy = strategy
        self.record = record
        self._budget_s = budget_s
        self._seed = seed
        self._account = account
        self._ledgers = Ledgers(ledgers)
        self._told: dict[str, set[str]] = {}
        self._ort = ort
        self._ort_name = ort_name
        self._headed = headed
        self._loop = LoopThread()
        self.held: dict[Lane, Lease] = {}
        self._journal = Journal(self._record_move, run_id, Evidence.FAKE)
        self.pool = Pool(
            table,
            self._driver,
            self._onnxruntime,
            spares=spares,
            on_start=self._note_lane,
            on_spare=self._note_spare,
            journal=self._journal,
            seed=seed,
        )

    @property
    def recovery_s(self) -> float:
        """Seconds beyond its own deadline that a request may take: recovery's budget, and the making ready around."""
        return self._budget_s + _AROUND_S

    def call(self, work: Coroutine[Any, Any, T], *, deadline: float) -> T:
        """Run ``work`` in the loop; see :meth:`LoopThread.call`."""
        return self._loop.call(work, deadline=deadline)

    @contextlib.contextmanager
    def lease(self, lane: Lane, test_id: str, strategy: Strategy | None = None, *, draws: str = "") -> Iterator[Lease]:
        """Lease a lane for a test. It ends always, and with it the lane is made whole again.

        ``draws`` tells its draws from those of others in place of ``test_id``; see :class:`Terms`.
        Raises LaneUnavailableError with the reason, at once where this process holds the lane already.
        """
        if lane in self.held:
            holder = self.held[lane].terms.test_id
            whose = "this test" if holder == test_id else holder
            raise LaneUnavailableError(
                f"lane {lane} is not free: {whose} holds it already. Use the lease that it has (the fixture webaccel, "
                "or an open webaccel_pool.lease), or end that one first."
            )
        scope = self.pool.lease(lane)
        live = self.call(scope.__aenter__(), deadline=_LEASE_S)
        try:
            terms = Terms(
                self.run_id,
                test_id,
                self.worker,
                strategy or self.strategy,
                budget_s=self._budget_s,
                seed=self._seed,
                account=self._account,
                draws=draws,
            )
            life = Life(self._ledgers.of(test_id), live.name, live.probe.evidence)
            lease = Lease(live, terms, self._journal, self.pool.folder, self.record, life)
            self.held[lane] = lease
            try:
                yield lease
            finally:
                del self.held[lane]
                self.call(lease.end(), deadline=_END_S)
        finally:
            self.call(scope.__aexit__(None, None, None), deadline=_END_S)

    def first_told(self, test_id: str, what: str) -> bool:
        """Return whether ``what`` is new of a test, and remember it until the test ends, whichever lease it came by."""
        told = self._told.setdefault(test_id, set())
        new = what not in told
        told.add(what)
        return new

    def end_test(self, test_id: str) -> None:
        """Remove the ledger of a test that ended; record the end of an earlier worker that nothing told of."""
        self._told.pop(test_id, None)
        if (death := self._ledgers.end(test_id)) is not None:
            detail = "the test, run again, did not get as far as the request in which its worker died"
            self.record(death.row(self.run_id, test_id, Outcome.FAILED, detail, self.worker))

    def stop(self) -> None:
        """End lanes, bridge and loop; nothing is left running."""
        try:
            self.call(self.pool.stop(), deadline=_END_S)
        except BaseException:  # Ctrl-C, most likely: what it cut short is done again, or a profile would stay
            self.call(self.pool.stop(), deadline=_END_S)
            raise
        finally:
            self._loop.stop()

    def _driver(self, probe: ProbeResult) -> Driver:
        return make_driver(installation_of(probe), headed=self._headed)

    def _onnxruntime(self) -> tuple[Path, str]:
        folder = ort_dist(self._ort)
        return folder, self._ort_name or ort_version(folder)

    def _record_move(self, row: TransactionRow) -> None:
        """Record a transaction's move, graded as its own lane is: the journal serves lanes of every grade."""
        self.record(dataclasses.replace(row, evidence=self.pool.evidence(Lane.parse(row.lane))))

    def _note_lane(self, lane: LiveLane) -> None:
        self.record(
            LaneRow(
                run_id=self.run_id,
                evidence=lane.probe.evidence,
                lane=str(lane.name),
                browser=str(lane.name.browser),
                browser_version=lane.here.driver.version,
                backend=str(lane.name.backend),
                adapter=lane.probe.adapter,
                features=list(lane.probe.features),
                worker=self.worker,
                host=platform.node(),
            )
        )

    def _note_spare(self, lane: LiveLane, usage: Usage) -> None:
        if not usage.pss_bytes:  # a spare that is no process, or is gone already
            return
        self.record(
            MeasurementRow(
                run_id=self.run_id,
                evidence=lane.probe.evidence,
                test_id="",
                lane=str(lane.name),
                model="",
                family="",
                engine="",
                bits=0,
                metric=SPARE_MEMORY,
                value=float(usage.pss_bytes),
                unit="bytes",
            )
        )


def installation_of(probe: ProbeResult) -> Installation:
    """Return the browser that was probed; raises LaneUnavailableError where it is gone since."""
    if probe.lane.browser is Browser.FAKE:
        return Installation(Browser.FAKE, Path("fake"), "fake", "explicit")
    known = find_all()  # where the environment that it needs is known
    there = [one for one in known if one.browser is probe.lane.browser and str(one.executable) == probe.executable]
    found = there[0] if there else find(probe.lane.browser, Path(probe.executable))
    if found is None:
        raise LaneUnavailableError(f"{probe.lane}: the browser that was probed, {probe.executable}, is gone")
    return dataclasses.replace(found, software=KEPT_OFF_GPU in probe.features)
