"""Tells xdist which worker runs which test; the decisions themselves are in :mod:`.dispatch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from xdist.report import report_collection_diff
from xdist.workermanage import parse_tx_spec_config

from pytest_webaccel.scheduling.binding import parse_lanes
from pytest_webaccel.scheduling.dispatch import DEPTH, Dispatcher, expected_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from xdist.remote import Producer
    from xdist.workermanage import WorkerController

    from pytest_webaccel.terms import Lane

__all__ = ["LaneScheduling"]


class LaneScheduling:
    """xdist's ``Scheduling``: a test goes to a worker that serves its lane, the longest first.

    A crashed worker's tests are first in line for its replacement; the one that it was running only where
    ``again``, asked with its id, says so. ``history`` maps (test id, lane) to expected milliseconds.
    """

    def __init__(
        self,
        config: pytest.Config,
        log: Producer,
        history: Mapping[tuple[str, str], float],
        again: Callable[[str], bool] = lambda test: False,
    ) -> None:
        self.config = config
        self.collection: list[str] | None = None
        self._log = log.webaccelsched
        self._history = history
        self._again = again
        self._initial = len(parse_tx_spec_config(config))
        self._nodes: list[WorkerController] = []
        self._collections: dict[WorkerController, list[str]] = {}
        self._dispatcher: Dispatcher[WorkerController] | None = None

    @property
    def nodes(self) -> list[WorkerController]:
        """Workers present."""
        return list(self._nodes)

    @property
    def collection_is_completed(self) -> bool:
        """Whether every initial worker has collected."""
        return self.collection is not None or len(self._collections) >= self._initial

    @property
    def tests_finished(self) -> bool:
        """Whether nothing waits and no worker needs to know a next test."""
        if self._dispatcher is None:
            return self.collection is not None
        queues = [self._dispatcher.queue(node) for node in self._dispatcher.workers]
        return not self._dispatcher.waiting and all(len(queue) < 2 for queue in queues)

    @property
    def has_pending(self) -> bool:
        """Whether a test waits or runs."""
        if self._dispatcher is None:
            return False
        return bool(self._dispatcher.waiting) or any(self._dispatcher.queue(node) for node in self._dispatcher.workers)

    def add_node(self, node: WorkerController) -> None:
        """Take note of a worker that started."""
        self._nodes.append(node)

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """Take what a worker collected; a replacement must have collected what the others did."""
        if self.collection is not None and list(collection) != self.collection:
            other = next(iter(self._collections), node)
            self._complain(other, node, self.collection, collection)
            # It cannot be told tests by their index: it goes home, and nothing waits for it any more.
            node.shutdown()
            if self._dispatcher is not None:
                self._dispatcher.expect_no_more(_lanes(node))
            return
        self._collections[node] = list(collection)
        if self._dispatcher is not None:
            self._dispatcher.add(node, _lanes(node))

    def schedule(self) -> None:
        """Hand out the first tests, or more where it was called before."""
        if self.collection is None:
            self._begin()
        self._feed_all()

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """Note a finished test and hand its worker another."""
        del duration
        if self._dispatcher is not None:
            self._dispatcher.finish(node, item_index)
            self._feed_all()

    def mark_test_pending(self, item: str) -> None:
        """Have a test run again, as some plugins ask."""
        if self._dispatcher is not None and self.collection is not None:
            self._dispatcher.again(self.collection.index(item))
            self._feed_all()

    def remove_pending_tests_from_node(self, node: WorkerController, indices: Sequence[int]) -> None:
        """Leave a worker's queue as it is: it is never more than the test that runs and the next."""
        del node, indices

    def remove_node(self, node: WorkerController) -> str | None:
        """Take a worker out; return the test it died in, unless that is handed out again.

        What is returned is reported as failed. Raises KeyError for a worker that never started.
        """
        if node not in self._nodes:
            raise KeyError(node)
        self._nodes.remove(node)
        self._collections.pop(node, None)
        if self._dispatcher is None or self.collection is None or node not in self._dispatcher.workers:
            return None
        crashed = not node.shutting_down or bool(self._dispatcher.queue(node))
        running = self._dispatcher.remove(node)
        if running is not None and self._again(self.collection[running]):
            self._dispatcher.again(running)
            running = None
        if crashed:
            self._dispatcher.expect(_lanes(node))
        self._feed_all()
        return None if running is None else self.collection[running]

    # -- inside ------------------------------------------------------------------------------

    def _begin(self) -> None:
        first, *others = self._collections
        tests = self._collections[first]
        for other in others:
            if self._complain(first, other, tests, self._collections[other]):
                self.collection = []
                return
        self.collection = tests
        self._dispatcher = Dispatcher(tests, expected_ms(tests, self._history))
        for node in self._collections:
            self._dispatcher.add(node, _lanes(node))

    def _feed_all(self) -> None:
        if self._dispatcher is None:
            return
        given: dict[WorkerController, list[int]] = {node: [] for node in self._dispatcher.workers}
        # One round for each place in the queue, so that few tests are spread over many workers.
        for depth in range(1, DEPTH + 1):
            for node, tests in given.items():
                if not node.shutting_down:
                    tests += self._dispatcher.feed(node, depth)
        for node, tests in given.items():
            if tests:
                self._log("to", node.gateway.id, tests)
                node.send_runtest_some(tests)
            if node.shutting_down or self._dispatcher.idle(node):
                self._dispatcher.retire(node)
                if not node.shutting_down:
                    node.shutdown()
        if self._dispatcher.stuck:
            self._abandon(self._dispatcher.drop_waiting())

    def _abandon(self, tests: Sequence[int]) -> None:
        """Report as failed what nobody is left to run: never a hang, and never silently green."""
        for test in tests:
            nodeid = (self.collection or [])[test]
            path = nodeid.split("::", maxsplit=1)[0]
            report = pytest.TestReport(
                nodeid=nodeid,
                location=(path, None, path),
                keywords={},
                outcome="failed",
                longrepr=f"{nodeid} was not run: the worker that it waited for crashed, and no worker is left that "
                "could run it. A collection error above says why the replacement could not.",
                when="???",  # type: ignore[arg-type] # as xdist marks a test that no worker finished
            )
            self.config.hook.pytest_runtest_logreport(report=report)

    def _complain(
        self, first: WorkerController, second: WorkerController, expected: Sequence[str], got: Sequence[str]
    ) -> bool:
        message = report_collection_diff(expected, got, first.gateway.id, second.gateway.id)
        if message:
            self._log(message)
            report = pytest.CollectReport(second.gateway.id, "failed", longrepr=message, result=[])
            self.config.hook.pytest_collectreport(report=report)
        return bool(message)


def _lanes(node: Any) -> frozenset[Lane]:
    bound = node.gateway.spec.webaccel
    return frozenset(parse_lanes(bound)) if isinstance(bound, str) else frozenset()
