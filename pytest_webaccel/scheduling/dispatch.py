"""Who runs which test: pure decisions, without xdist, clock or I/O.

A worker of xdist runs a test only once it knows the next one (or that there is none), so each
keeps a queue of :data:`DEPTH` and no more: what is queued cannot go elsewhere.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from pytest_webaccel.scheduling.lanes import lane_of

if TYPE_CHECKING:
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
    present and none on its way serves goes anywhere: there its fixture says what is wrong.
    """

    def __init__(self, tests: Sequence[str], expected: Sequence[float]) -> None:
        self._lane = [lane_of(test) for test in tests]
        self._rank = [-duration for duration in expected]
        self._waiting: dict[Lane | None, deque[int]] = {}
        # Longest first; equal ones in the order collected.
        for test in sorted(range(len(tests)), key=lambda test: (self._rank[test], test)):
            self._waiting.setdefault(self._lane[test], deque()).append(test)
        self._urgent: list[int] = []
        self._lanes: dict[Worker, frozenset[Lane]] = {}
        self._queue: dict[Worker, list[int]] = {}
        self._retired: set[Worker] = set()
        self._coming: list[frozenset[Lane]] = []

    @property
    def workers(self) -> list[Worker]:
        """The workers present, in the order in which they came."""
        return list(self._queue)

    @property
    def waiting(self) -> list[int]:
        """The tests that no worker has."""
        return [*self._urgent, *(test for tests in self._waiting.values() for test in tests)]

    @property
    def stuck(self) -> bool:
        """Whether tests wait for which nobody is left: every worker is retired or gone, and none is on its way."""
        return bool(self.waiting) and not self._coming and not (self._queue.keys() - self._retired)

    def queue(self, worker: Worker) -> tuple[int, ...]:
        """Return what ``worker`` has been given and not finished, the running one first."""
        return tuple(self._queue[worker])

    def add(self, worker: Worker, lanes: frozenset[Lane]) -> None:
        """Let ``worker``, which serves ``lanes``, take part; it settles one :meth:`expect` of these lanes."""
        if worker in self._queue:
            raise ValueError(f"worker {worker!r} is here already")
        self.expect_no_more(lanes)
        self._lanes[worker] = lanes
        self._queue[worker] = []

    def expect(self, lanes: frozenset[Lane]) -> None:
        """Keep tests for ``lanes`` back: a worker that serves them is on its way."""
        self._coming.append(lanes)

    def expect_no_more(self, lanes: frozenset[Lane]) -> None:
        """Settle one :meth:`expect` of ``lanes``, whose worker came, or will not."""
        if lanes in self._coming:
            self._coming.remove(lanes)

    def finish(self, worker: Worker, test: int) -> None:
        """Note that ``worker`` ran ``test``, or gave it back; raises ValueError when it did not have it."""
        self._queue[worker].remove(test)

    def again(self, test: int) -> None:
        """Put ``test`` first in line once more."""
        if test not in self.waiting:
            self._urgent.insert(0, test)

    def remove(self, worker: Worker) -> int | None:
        """Take ``worker`` out; return the test that it was running, which is not handed out again.

        The rest of its queue is first in line.
        """
        del self._lanes[worker]
        self._retired.discard(worker)
        queue = self._queue.pop(worker)
        if not queue:
            return None
        running, *rest = queue
        self._urgent[:0] = rest
        return running

    def feed(self, worker: Worker, depth: int = DEPTH) -> list[int]:
        """Return the tests that ``worker`` is given now to have ``depth`` in its queue, and count them as its own."""
        queue = self._queue[worker]
        given: list[int] = []
        while worker not in self._retired and len(queue) < depth and (test := self._next(worker)) is not None:
            queue.append(test)
            given.append(test)
        return given

    def idle(self, worker: Worker) -> bool:
        """Whether nothing that waits is for ``worker``; once it is told that no more comes, :meth:`retire` it.

        It must be told: that lets it run the last test of its queue. Tests that come back from a crash
        later are for the crashed worker's replacement.
        """
        return self._choice(worker) is None

    def retire(self, worker: Worker) -> None:
        """Give ``worker`` no more, ever: it has been told so."""
        self._retired.add(worker)

    def drop_waiting(self) -> list[int]:
        """Return the tests that no worker has, and hand them out no more."""
        tests = self.waiting
        self._urgent.clear()
        self._waiting.clear()
        return tests

    def _next(self, worker: Worker) -> int | None:
        test = self._choice(worker)
        if test in self._urgent:
            self._urgent.remove(test)
        elif test is not None:
            self._waiting[self._lane[test]].popleft()
        return test

    def _choice(self, worker: Worker) -> int | None:
        for test in self._urgent:
            if self._may_take(worker, self._lane[test]):
                return test
        heads = [tests[0] for lane, tests in self._waiting.items() if tests and self._may_take(worker, lane)]
        # Tests bound to a lane before those that anybody can run, so that the latter fill the gaps.
        return min(heads, key=lambda test: (self._lane[test] is None, self._rank[test], test), default=None)

    def _may_take(self, worker: Worker, lane: Lane | None) -> bool:
        return lane is None or lane in self._lanes[worker] or not self._served(lane)

    def _served(self, lane: Lane) -> bool:
        present = (lanes for worker, lanes in self._lanes.items() if worker not in self._retired)
        return any(lane in lanes for lanes in (*present, *self._coming))
