"""Asking whether an app is healthy, on a clock that only asking moves."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.asking import ask, bound, checked_ms
from pytest_webaccel.errors import ConfigurationError


class Clock:
    """Time that goes on by what a look and a pause take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, seconds: float, answer: object):
        self.now += seconds
        if isinstance(answer, Exception):
            raise answer
        return answer


def asked(answers, *, until, look=1.0, pause=1.0):
    clock, left = Clock(), iter(answers)
    return ask(
        lambda: clock.takes(look, next(left, answers[-1])),
        until=until,
        clock=clock,
        pause=lambda: clock.takes(pause, None),
    )


def test_it_is_asked_until_it_is_true():
    answer = asked([False, ValueError("not yet"), None, "yes"], until=10.0)
    assert (answer.healthy, answer.asked, answer.ended_at, answer.error) == (True, 4, 7.0, None)


def test_it_is_asked_once_even_where_no_time_is_left():
    answer = asked([True], until=-1.0)
    assert (answer.healthy, answer.late, answer.asked) == (False, True, 1)
    assert answer.why_not() == "the predicate was true only after that"


def test_what_it_raised_last_is_kept():
    last = ValueError("still\n  broken")
    answer = asked([ValueError("first"), last], until=5.0)
    assert not answer.healthy
    assert answer.error is last
    assert answer.why_not() == "the predicate, asked 3 times, last raised ValueError: still broken"


def test_one_that_is_never_true_says_so():
    assert asked([False], until=5.0).why_not() == "the predicate, asked 3 times, was never true"


@given(
    st.lists(st.sampled_from([True, False, ValueError("no")]), min_size=1),
    st.floats(0, 50),
    st.floats(0.01, 5),
    st.floats(0.01, 5),
)
def test_it_is_healthy_exactly_if_a_look_that_ended_in_time_was_true(answers, until, look, pause):
    answer = asked(answers, until=until, look=look, pause=pause)
    told = [(answers[min(index, len(answers) - 1)]) for index in range(answer.asked)]
    assert answer.healthy == (told[-1] is True and answer.ended_at <= until)
    assert not any(each is True for each in told[:-1])
    assert answer.healthy or answer.ended_at >= until
    assert answer.ended_at <= until + look + pause or answer.asked == 1


def test_a_function_that_takes_something_gets_the_page():
    page = object()
    assert bound(lambda: "nothing", page)() == "nothing"
    assert bound(lambda given: given, page)() is page
    assert bound(lambda given=None: given, page)() is None
    assert bound(operator.truth, True)() is True


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        (True, "is no function"),
        ("healthy", "is no function"),
        (lambda page, more: page == more, "asks for 2 arguments"),
    ],
)
def test_what_cannot_be_asked_is_refused(predicate, message):
    with pytest.raises(ConfigurationError, match=message):
        bound(predicate, object())


def test_an_asynchronous_predicate_is_refused():
    async def healthy():
        return True

    with pytest.raises(ConfigurationError, match="asynchronous"):
        ask(healthy, until=1.0, clock=lambda: 0.0, pause=lambda: None)


@pytest.mark.parametrize("within_ms", [0, -1, float("nan"), float("inf"), "100", None, True, 1e9])
def test_a_time_that_cannot_be_waited_is_refused(within_ms):
    with pytest.raises(ConfigurationError, match="within_ms="):
        checked_ms(within_ms)
