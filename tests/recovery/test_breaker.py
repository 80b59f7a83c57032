from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pytest_webaccel.recovery.breaker import Backoff, Breaker, Breakers, BreakerState


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock, threshold: int = 3) -> Breaker:
    return Breaker("chromium", clock, random.Random(1), threshold=threshold)


def state(one: Breaker) -> str:
    return str(one.state)


def test_failures_in_a_row_open_it_and_one_success_between_them_does_not():
    one = breaker(Clock())
    for end in (one.failed, one.failed, one.succeeded, one.failed, one.failed):
        assert one.begin()
        end()
    assert state(one) == "closed"
    assert one.begin()
    one.failed()
    assert state(one) == "open"
    assert not one.begin()
    assert 2.5 <= one.wait_s <= 5.0


def test_after_its_pause_it_lets_one_trial_through_and_no_second():
    clock = Clock()
    one = breaker(clock, threshold=1)
    one.begin()
    one.failed()
    clock.now += one.wait_s
    assert state(one) == "half_open"
    assert one.begin()
    assert not one.begin()
    one.succeeded()
    assert state(one) == "closed"


def test_a_failed_trial_opens_it_for_longer():
    clock = Clock()
    one = breaker(clock, threshold=1)
    pauses = []
    for _ in range(6):
        assert one.begin()
        one.failed()
        pauses.append(one.wait_s)
        clock.now += one.wait_s
    assert pauses[-1] > 2 * pauses[0]
    assert max(pauses) <= 60.0
    assert one.opened == 6


def test_a_trial_broken_off_proves_nothing():
    clock = Clock()
    one = breaker(clock, threshold=1)
    one.begin()
    one.failed()
    clock.now += one.wait_s
    assert one.begin()
    one.gave_up()
    assert one.begin()


def test_lanes_and_browsers_have_breakers_of_their_own():
    clock = Clock()
    all_of_them = Breakers(clock, random.Random(1))
    lane = all_of_them.of("chromium:webgpu")
    for _ in range(3):
        lane.begin()
        lane.failed()
    assert not all_of_them.of("chromium:webgpu").allows
    assert all_of_them.of("chromium").allows
    assert all_of_them.statistics()["chromium:webgpu"] == {"state": "open", "failures": 3, "opened": 1}


def test_a_threshold_that_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="threshold is 0"):
        breaker(Clock(), threshold=0)


@given(st.integers(0, 10_000), st.integers(0, 1000))
def test_pauses_are_jittered_below_a_ceiling_that_doubles_up_to_its_cap(failures, seed):
    backoff = Backoff(first_s=0.1, cap_s=2.0)
    pause = backoff.pause(failures, random.Random(seed))
    assert 0.0 <= pause <= backoff.ceiling(failures) <= 2.0
    assert backoff.ceiling(failures + 1) >= backoff.ceiling(failures)


class BreakerMachine(RuleBasedStateMachine):
    """Any order of tries, ends and waits: what is broken is never tried for ever, and what is mended is tried again."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.breaker = breaker(self.clock)
        self.under_way = 0
        self.in_a_row = 0

    @rule()
    def begin(self):
        was = self.breaker.state
        let = self.breaker.begin()
        assert let == (was is BreakerState.CLOSED or (was is BreakerState.HALF_OPEN and self.trials == 0))
        self.under_way += let
        if let and was is BreakerState.HALF_OPEN:
            self.trials = 1

    trials = 0

    @precondition(lambda self: self.under_way)
    @rule(good=st.booleans())
    def end(self, good):
        self.under_way -= 1
        self.trials = 0
        self.in_a_row = 0 if good else self.in_a_row + 1
        (self.breaker.succeeded if good else self.breaker.failed)()

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds):
        self.clock.now += seconds

    @invariant()
    def it_is_closed_until_enough_failed_in_a_row(self):
        if self.in_a_row < 3:
            assert self.breaker.state is BreakerState.CLOSED or self.breaker.opened

    @invariant()
    def it_never_stays_shut_for_longer_than_a_minute(self):
        assert self.breaker.wait_s <= 60.0


TestBreakerMachine = BreakerMachine.TestCase
