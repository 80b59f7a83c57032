from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.scheduling.dispatch import DEPTH, Dispatcher, expected_ms
from pytest_webaccel.scheduling.lanes import lane_of
from pytest_webaccel.terms import Lane

LANES = [Lane.parse(text) for text in ("chromium:webgpu", "chromium:cpu", "firefox:webgpu")]
A, B, C = LANES


def ids(*lanes: Lane | None) -> list[str]:
    return [f"test_{number}" + (f"[{lane}]" if lane else "") for number, lane in enumerate(lanes)]


class Crew:
    """Workers as xdist's are: one runs a test only when it knows the next one, or that there is none."""

    def __init__(self, tests: list[str], expected: list[float], lane_sets: list[frozenset[Lane]]) -> None:
        self.tests = tests
        self.dispatcher: Dispatcher[int] = Dispatcher(tests, expected)
        self.lanes: dict[int, frozenset[Lane]] = {}
        self.told: set[int] = set()
        self.coming: list[frozenset[Lane]] = []
        self.served: dict[int, tuple[int, bool]] = {}
        self.ran: list[int] = []
        self.crashed: list[int] = []
        self.abandoned: list[int] = []
        self.number = 0
        for lanes in lane_sets:
            self.arrive(lanes)
        self.feed()

    def arrive(self, lanes: frozenset[Lane]) -> None:
        self.dispatcher.add(self.number, lanes)
        self.lanes[self.number] = lanes
        self.number += 1

    def feed(self) -> None:
        for depth in range(1, DEPTH + 1):
            for worker in self.lanes:
                if worker in self.told:
                    continue
                present = [lanes for other, lanes in self.lanes.items() if other not in self.told]
                for test in self.dispatcher.feed(worker, depth):
                    lane = lane_of(self.tests[test])
                    wanted = lane is not None and any(lane in lanes for lanes in [*present, *self.coming])
                    assert not wanted or lane in self.lanes[worker], f"{self.tests[test]} went to {self.lanes[worker]}"
        for worker in self.lanes:
            if worker not in self.told and self.dispatcher.idle(worker):
                self.dispatcher.retire(worker)
                self.told.add(worker)
        if self.dispatcher.stuck:
            self.abandoned += self.dispatcher.drop_waiting()

    def able(self) -> list[int]:
        """Workers that run a test now."""
        return [w for w in self.lanes if len(self.dispatcher.queue(w)) >= (1 if w in self.told else DEPTH)]

    def finish(self, worker: int) -> None:
        test = self.dispatcher.queue(worker)[0]
        self.dispatcher.finish(worker, test)
        self.ran.append(test)
        self.feed()

    def crash(self, worker: int) -> None:
        test = self.dispatcher.remove(worker)
        lanes = self.lanes.pop(worker)
        self.told.discard(worker)
        if test is not None:
            self.crashed.append(test)
        self.dispatcher.expect(lanes)
        self.coming.append(lanes)
        self.feed()

    def replace(self, *, usable: bool) -> None:
        lanes = self.coming.pop(0)
        if usable:
            self.arrive(lanes)
        else:
            self.dispatcher.expect_no_more(lanes)
        self.feed()


lane_sets = st.lists(st.frozensets(st.sampled_from(LANES), max_size=3), min_size=1, max_size=4)


@given(
    lanes=st.lists(st.sampled_from([*LANES, None]), max_size=12),
    lane_sets=lane_sets,
    data=st.data(),
)
def test_every_test_runs_once_whatever_crashes_and_nothing_hangs(lanes, lane_sets, data):
    tests = ids(*lanes)
    expected = [float(data.draw(st.integers(0, 5))) for _ in tests]
    crew = Crew(tests, expected, lane_sets)
    lost = False
    for _ in range(200):
        able = crew.able()
        choices = [("finish", w) for w in able] + [("crash", w) for w in crew.lanes if len(crew.crashed) < 6]
        if crew.coming:
            choices += [("replace", True), ("replace", False)]
        if not able and not crew.coming:
            break
        what, who = data.draw(st.sampled_from(choices))
        if what == "finish":
            crew.finish(who)
        elif what == "crash":
            if data.draw(st.booleans()):
                crew.crash(who)
        else:
            lost = lost or not who
            crew.replace(usable=who)
    else:
        while crew.coming:
            crew.replace(usable=True)
        while able := crew.able():
            crew.finish(able[0])
    assert sorted(crew.ran + crew.crashed + crew.abandoned) == list(range(len(tests)))
    if not lost:
        assert crew.abandoned == []


def test_the_longest_test_of_a_lane_goes_first():
    dispatcher: Dispatcher[str] = Dispatcher(ids(A, A, A), [1.0, 9.0, 5.0])
    dispatcher.add("w", frozenset({A}))
    assert dispatcher.feed("w") == [1, 2]


def test_a_queue_is_never_longer_than_the_running_test_and_the_next():
    dispatcher: Dispatcher[str] = Dispatcher(ids(*[A] * 9), [0.0] * 9)
    dispatcher.add("w", frozenset({A}))
    assert len(dispatcher.feed("w")) == DEPTH
    assert dispatcher.feed("w") == []


def test_tests_without_a_lane_fill_the_gaps():
    dispatcher: Dispatcher[str] = Dispatcher(ids(None, A, None), [9.0, 1.0, 1.0])
    dispatcher.add("a", frozenset({A}))
    assert dispatcher.feed("a") == [1, 0]


def test_a_crashed_workers_tests_wait_for_its_replacement_and_come_first():
    dispatcher: Dispatcher[str] = Dispatcher(ids(A, A, A, B), [0.0, 0.0, 9.0, 0.0])
    dispatcher.add("a", frozenset({A}))
    dispatcher.add("b", frozenset({B}))
    assert dispatcher.feed("a") == [2, 0]
    assert dispatcher.remove("a") == 2
    dispatcher.expect(frozenset({A}))
    assert dispatcher.feed("b") == [3]
    assert dispatcher.idle("b")
    dispatcher.add("a2", frozenset({A}))
    assert dispatcher.feed("a2") == [0, 1]


def test_a_test_whose_lane_is_gone_for_good_goes_to_anybody():
    dispatcher: Dispatcher[str] = Dispatcher(ids(A), [0.0])
    dispatcher.add("b", frozenset({B}))
    assert dispatcher.feed("b") == [0]


def test_a_worker_is_not_here_twice():
    dispatcher: Dispatcher[str] = Dispatcher([], [])
    dispatcher.add("w", frozenset())
    with pytest.raises(ValueError, match="here already"):
        dispatcher.add("w", frozenset())


def test_a_test_put_back_is_first_and_only_once():
    dispatcher: Dispatcher[str] = Dispatcher(ids(A, A, A), [3.0, 2.0, 1.0])
    dispatcher.add("w", frozenset({A}))
    dispatcher.feed("w")
    dispatcher.finish("w", 0)
    dispatcher.again(0)
    dispatcher.again(0)
    assert dispatcher.feed("w") == [0]
    assert dispatcher.waiting == [2]


def test_an_unknown_test_is_expected_to_take_the_median_of_the_known():
    tests = ["test_a[chromium:cpu]", "test_b", "test_c", "test_new"]
    history = {("test_a[chromium:cpu]", "chromium:cpu"): 10.0, ("test_b", ""): 20.0, ("test_c", ""): 90.0}
    assert expected_ms(tests, history) == [10.0, 20.0, 90.0, 20.0]
    assert expected_ms(tests, {}) == [0.0] * 4
