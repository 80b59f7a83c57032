from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_webaccel.parity.search import narrow


class Asked:
    """Fails where a part holds one of the culprits whole; counts what it is asked."""

    def __init__(self, *culprits: tuple[int, int]) -> None:
        self.culprits = culprits
        self.parts: list[tuple[int, int]] = []

    def __call__(self, first: int, last: int) -> bool:
        self.parts.append((first, last))
        return any(first <= begin and end <= last for begin, end in self.culprits)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_one_bad_step_is_found_with_a_number_of_questions_that_grows_like_the_logarithm(case):
    steps, bad = case
    asked = Asked((bad, bad + 1))
    assert narrow(range(steps + 1), asked) == (bad, bad + 1)
    assert len(asked.parts) <= 2 * math.ceil(math.log2(steps) if steps > 1 else 0)


@given(st.data())
@settings(max_examples=300)
def test_what_is_found_fails_and_nothing_can_be_taken_from_its_ends(data):
    cuts = data.draw(st.lists(st.integers(0, 400), min_size=2, max_size=60, unique=True).map(sorted))
    places = st.integers(0, len(cuts) - 1)
    pairs = st.tuples(places, places).filter(lambda pair: pair[0] < pair[1])
    chosen = data.draw(st.lists(pairs, min_size=1, max_size=4))
    asked = Asked(*[(cuts[begin], cuts[end]) for begin, end in chosen])
    first, last = narrow(cuts, asked)
    assert len(asked.parts) == len(set(asked.parts)), "nothing is asked twice"
    assert asked(first, last)
    inside = [cut for cut in cuts if first <= cut <= last]
    if len(inside) > 2:
        assert not asked(inside[1], last)
        assert not asked(first, inside[-2])


@given(st.integers(2, 2000), st.data())
def test_a_fault_of_two_neighbours_is_found_with_few_questions(steps, data):
    bad = data.draw(st.integers(0, steps - 2))
    asked = Asked((bad, bad + 2))
    assert narrow(range(steps + 1), asked) == (bad, bad + 2)
    assert len(asked.parts) <= 6 * math.ceil(math.log2(steps)) + 6


def test_one_cut_has_nothing_between():
    with pytest.raises(ValueError, match="two are the least"):
        narrow([0], lambda first, last: True)
