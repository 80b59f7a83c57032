"""Chaos by property: a Hypothesis machine that leases, loads, runs and breaks lanes, and holds its invariants.

Hypothesis draws schedules of rules, and shrinks one that breaks an invariant to the smallest that still does.
The rules, and what is held after each, are those of :class:`ChaosMachine`; :func:`run_chaos` runs it in a test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pytest_webaccel.errors import ConfigurationError, FaultError
from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.parity.reference import run_reference
from pytest_webaccel.pool.story import contradiction
from pytest_webaccel.terms import Fault, FaultPoint, Lane, LaneState

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from pytest_webaccel.faces import PoolFace, WebAccel

__all__ = ["SETTINGS", "ChaosMachine", "run_chaos"]

Feeds = Mapping[str, Any]

#: Few and short schedules: each step may cost a browser's start. No deadline: recovery has its own.
SETTINGS = settings(
    max_examples=10,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

#: Points at which a planned fault strikes a run; a load has one of its own.
_POINTS = sorted(set(FaultPoint) - {FaultPoint.MID_LOAD})


class ChaosMachine(RuleBasedStateMachine):
    """One lane at a time is leased, loaded, run, broken and released.

    Held: every answer is right (against ``expect``, or onnxruntime on the CPU where it is installed); no request is
    run twice, and no model that was loaded is lost by a recovery; after a release the lane is whole. Subclass it to add
    rules; :func:`run_chaos` fills in the class attributes.
    """

    pool: PoolFace
    source: Path | str | bytes
    feeds: st.SearchStrategy[Feeds]
    expect: Callable[[Feeds], Mapping[str, Any]] | None = None
    lanes: Sequence[Lane] = ()
    faults: Sequence[Fault] = ()
    recovery: str | None = None
    timeout: float = 30.0

    def __init__(self) -> None:
        super().__init__()
        self._scope = contextlib.ExitStack()
        self._lane: WebAccel | None = None
        self._model: Any = None
        self._broken = False

    @property
    def lane(self) -> WebAccel:
        """The lane that is leased."""
        assert self._lane is not None
        return self._lane

    @rule(data=st.data())
    @precondition(lambda self: self._lane is None)
    def lease(self, data: st.DataObject) -> None:
        """Lease one of the lanes."""
        self._lane = self._scope.enter_context(self.pool.lease(data.draw(st.sampled_from(list(self.lanes)), "lane")))

    @rule()
    @precondition(lambda self: self._lane is not None)
    def load(self) -> None:
        """Load the model, which recovers the lane where it is broken."""
        self._model = self.lane.load(self.source, timeout=self.timeout)
        self._broken = False

    @rule(data=st.data())
    @precondition(lambda self: self._model is not None)
    def run(self, data: st.DataObject) -> None:
        """Run the model, which recovers the lane where it is broken; the answer must be right."""
        feeds = data.draw(self.feeds, "feeds")
        answer = self.lane.run(self._model, feeds, timeout=self.timeout)
        self._broken = False
        self._check(feeds, answer)

    @rule(data=st.data(), at=st.sampled_from(_POINTS))
    @precondition(lambda self: self._model is not None and not self._broken)
    def run_under_fault(self, data: st.DataObject, at: FaultPoint) -> None:
        """Run the model with a fault in the middle of it; the answer must be right."""
        fitting = [fault for fault in self._possible() if not INJECTORS[fault].misfit(at)]
        assume(fitting)
        fault = data.draw(st.sampled_from(fitting), "fault")
        feeds = data.draw(self.feeds, "feeds")
        self.lane.faults.plan(fault, at=at, recovery=self.recovery)
        self._check(feeds, self.lane.run(self._model, feeds, timeout=self.timeout))

    @rule(data=st.data())
    @precondition(lambda self: self._lane is not None and not self._broken)
    def inject(self, data: st.DataObject) -> None:
        """Break the lane now; what comes next meets the damage."""
        self.lane.faults.inject(data.draw(st.sampled_from(self._possible()), "fault"), recovery=self.recovery)
        self._broken = True

    @rule()
    @precondition(lambda self: self._lane is not None)
    def release(self) -> None:
        """End the lease; the lane must be whole again."""
        name = str(self.lane.lane)
        self._scope.close()
        self._lane = self._model = None
        self._broken = False
        (after,) = [entry for entry in self.pool.statistics() if entry["lane"] == name]
        assert after["state"] == LaneState.READY, f"lane {name} is {after['state']} after its lease"

    @invariant()
    def nothing_is_done_twice_or_lost(self) -> None:
        """Hold what every lane counts of itself."""
        for entry in self.pool.statistics():
            counts = {name: entry[name] for name in ("duplicated", "lost")}
            assert not any(counts.values()), f"lane {entry['lane']}: {counts}"

    def teardown(self) -> None:
        """End what a schedule left open."""
        self._scope.close()

    def _possible(self) -> list[Fault]:
        return [fault for fault in self.faults if not INJECTORS[fault].meaning(self.lane.probe)]

    def _check(self, feeds: Feeds, answer: Mapping[str, Any]) -> None:
        expected = self.expect(feeds) if self.expect is not None else self._reference(feeds)
        if expected is not None and (wrong := contradiction(expected, answer)):
            raise AssertionError(f"{self.lane.lane}: a wrong answer was delivered: {wrong}")

    def _reference(self, feeds: Feeds) -> Mapping[str, np.ndarray[Any, Any]] | None:
        found = run_reference(self._model.info.path, feeds)
        return None if found is None else found[1]


def run_chaos(
    pool: PoolFace,
    source: Path | str | bytes,
    feeds: Feeds | st.SearchStrategy[Feeds],
    *,
    expect: Callable[[Feeds], Mapping[str, Any]] | None = None,
    lanes: Sequence[Lane | str] | None = None,
    faults: Sequence[Fault | str] | None = None,
    recovery: str | None = None,
    timeout: float = 30.0,
    machine: type[ChaosMachine] = ChaosMachine,
    settings: settings = SETTINGS,
) -> None:
    """Run a chaos machine on the lanes of ``webaccel_pool``; raises what broke, after the smallest schedule for it.

    ``source`` is a model, ``feeds`` what it is fed (arrays by input, or a Hypothesis strategy of such), ``expect``
    what gives the right outputs; by default onnxruntime on the CPU does. ``lanes`` and ``faults`` default to all
    that work here and, of the faults, all but ``worker_crash``. ``timeout`` is each request's own, in seconds.
    Raises ConfigurationError where there is no lane, or no fault that one of them can suffer.
    """
    chosen = [Lane.parse(lane) if isinstance(lane, str) else lane for lane in lanes or pool.lanes]
    if not chosen:
        raise ConfigurationError("there is no lane to run chaos on: `python -m pytest_webaccel doctor` shows why.")
    try:
        wanted = [Fault(fault) for fault in faults] if faults is not None else _all_but_the_worker()
    except ValueError as error:
        raise FaultError(f"{error}; known: {', '.join(Fault)}") from None
    probes = {probe.lane: probe for probe in pool.probes}
    barren = [
        str(lane)
        for lane in chosen
        if lane in probes and all(INJECTORS[fault].meaning(probes[lane]) for fault in wanted)
    ]
    if barren:
        raise ConfigurationError(f"none of the faults {', '.join(wanted)} has a meaning on {', '.join(barren)}")
    fixed = feeds if isinstance(feeds, st.SearchStrategy) else st.just(feeds)
    bound = type(
        machine.__name__,
        (machine,),
        {
            "pool": pool,
            "source": source,
            "feeds": fixed,
            "expect": staticmethod(expect) if expect is not None else None,
            "lanes": chosen,
            "faults": wanted,
            "recovery": recovery,
            "timeout": timeout,
        },
    )
    run_state_machine_as_test(bound, settings=settings)


def _all_but_the_worker() -> list[Fault]:
    return [fault for fault in Fault if fault is not Fault.WORKER_CRASH]
