"""Who runs which test: pure decisions, without xdist, clock or I/O.

A worker of xdist runs a test only once it knows the next one (or that there is none), so each
keeps a queue of :data:`DEPTH` and no more: what is queued cannot go elsewhere.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from pytest_webaccel.scheduling.lanes import lane_of
from pytest_webaccel.terms import Lane

__all__ = ["DEPTH", "Dispatcher", "expected_ms"]

#: The test that runs and the one that the worker must know of before it may start it.
DEPTH = 2

Worker = TypeVar("Worker", bound=Hashable)


def expected_ms(tests: Sequence[str], history: Mapping[tuple[str, str], float]) -> list[float]:
    """Return the expected duration of each test id in ms; one that ``history`` lacks gets the median of the rest.

    ``history`` maps (test id, lane) to ms; the lane is empty for a test without one.
    """
    keys = [(test, str(lane_of(test) or "")) for test in tests]
    known = [history[key] for key in keys if key in history]
    middle = statistics.median(known) if known else 0.0
    return [history.get(key, middle) for key in keys]


class Dispatcher(Generic[Worker]):
    """Hands out tests, each one once.

    ``tests`` are the ids, by whose index everything here is called; ``expected`` their durations in
    ms. A test with a lane token goes to a worker that serves the lane. A test whose lane no worker
    present and none to come serves goes anywhere: there its fixture says what is wrong.
    """

    def __init__(self, tests: Sequence[str], expected: Sequence[float]) -> None:
        self._lane = [lane_of(test) for test in tests]
        # Longest first; equal ones in the order collected.
        self._rank = [-duration for duration in expected]
        self._waiting: set[int] = set(range(len(tests)))
        self._urgent: list[int] = []
        self._lanes: dict[Worker, frozenset[Lane]] = {}
        self._queue: dict[Worker, list[int]] = {}
        self._expected_lanes: list[frozenset[Lane]] = []

    @property
    def workers(self) -> list[Worker]:
        """The workers present, in the order in which they came."""
        return list(self._queue)

    @property
    def waiting(self) -> int:
        """How many tests no worker has been given."""
        return len(self._waiting) + len(self._urgent)

    def queue(self, worker: Worker) -> tuple[int, ...]:
        """Return what ``worker`` has been given and not finished, the running one first."""
        return tuple(self._queue[worker])

    def add(self, worker: Worker, lanes: frozenset[Lane]) -> None:
        """Let ``worker``, which serves ``lanes``, take part; it settles one :meth:`expect` of these lanes."""
        if worker in self._queue:
            raise ValueError(f"worker {worker!r} is here already")
        self._lanes[worker] = lanes
        self._queue[worker] = []
        if lanes in self._expected_lanes:
            self._expected_lanes.remove(lanes)

    def expect(self, lanes: frozenset[Lane]) -> None:
        """Keep tests for ``lanes`` back: a worker that serves them is on its way."""
        self._expected_lanes.append(lanes)

    def forget_expected(self) -> None:
        """Stop keeping tests back: nobody is on the way any more."""
        self._expected_lanes.clear()

    def finish(self, worker: Worker, test: int) -> None:
        """Note that ``worker`` ran ``test``; raises ValueError when it did not have it."""
        self._queue[worker].remove(test)

    def again(self, test: int) -> None:
        """Put ``test`` first in line once more."""
        if test not in self._urgent and test not in self._waiting:
            self._urgent.insert(0, test)

    def remove(self, worker: Worker) -> int | None:
        """Take ``worker`` out; return the test that it was running, which is not handed out again.

        The rest of its queue is first in line.
        """
        del self._lanes[worker]
        queue = self._queue.pop(worker)
        if not queue:
            return None
        running, *rest = queue
        self._urgent[:0] = rest
        return running

    def feed(self, worker: Worker) -> list[int]:
        """Return the tests that ``worker`` is given now, and count them as its own."""
        queue = self._queue[worker]
        given: list[int] = []
        while len(queue) < DEPTH and (test := self._next(worker)) is not None:
            queue.append(test)
            given.append(test)
        return given

    def idle(self, worker: Worker) -> bool:
        """Whether nothing that waits, now or after other workers' crashes, could be for ``worker``.

        Then it may be told that no more comes, which lets it run the last test of its queue.
        """
        return not any(self._may_take(worker, test) for test in (*self._urgent, *self._waiting))

    def _next(self, worker: Worker) -> int | None:
        for position, test in enumerate(self._urgent):
            if self._may_take(worker, test):
                return self._urgent.pop(position)
        own = [test for test in self._waiting if self._may_take(worker, test)]
        if not own:
            return None
        # Tests bound to a lane before those that anybody can run, so that the latter fill the gaps.
        test = min(own, key=lambda test: (self._lane[test] is None, self._rank[test], test))
        self._waiting.remove(test)
        return test

    def _may_take(self, worker: Worker, test: int) -> bool:
        lane = self._lane[test]
        return lane is None or lane in self._lanes[worker] or not self._served(lane)

    def _served(self, lane: Lane) -> bool:
        return any(lane in lanes for lanes in (*self._lanes.values(), *self._expected_lanes))
