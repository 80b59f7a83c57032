"""A form for each matrix, within a budget."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.engines.packing import mix
from pytest_webaccel.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class Form:
    nbytes: int
    loss: float


def layer(size: int, sensitivity: float) -> list[Form]:
    return [Form(size * bits, sensitivity * 4.0**-bits) for bits in (2, 3, 4, 8)]


forms = st.builds(Form, st.integers(0, 300), st.floats(0, 100))
layers = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.lists(forms, min_size=1, max_size=5), max_size=6)


def mixed(given, budget):
    return mix(given, lambda name, form: form.loss, budget)


@given(layers, st.integers(0, 3000))
def test_the_budget_holds_every_name_is_there_and_more_bytes_never_start_from_less(given, more):
    least = sum(min(one.nbytes for one in choices) for choices in given.values())
    chosen = mixed(given, least + more)
    assert chosen.keys() == given.keys()
    assert all(one in given[name] for name, one in chosen.items())
    assert sum(one.nbytes for one in chosen.values()) <= least + more
    fewest = mixed(given, least)
    assert all(one.loss <= fewest[name].loss for name, one in chosen.items())


@given(layers)
def test_without_a_bound_each_has_what_loses_least(given):
    chosen = mixed(given, 10**6)
    assert all(one.loss == min(other.loss for other in given[name]) for name, one in chosen.items())


def test_bytes_go_where_one_takes_away_most_of_the_loss():
    given = {"large": layer(100, 1.0), "sensitive": layer(10, 50.0)}
    for budget, sizes in ((220, (200, 20)), (240, (200, 40)), (10**6, (800, 80))):
        assert tuple(one.nbytes for one in mixed(given, budget).values()) == sizes


def test_each_candidate_is_measured_once_and_alone():
    seen = []
    given = {"a": layer(2, 1.0), "b": layer(1, 1.0)}

    def loss(name: str, form: Form) -> float:
        seen.append((name, form))
        return form.loss

    mix(given, loss, 1000)
    assert seen == [(name, form) for name, choices in given.items() for form in choices]


@pytest.mark.parametrize(
    ("given", "budget", "words"),
    [
        ({"a": layer(100, 1.0), "b": layer(10, 1.0)}, 219, r"take 220 bytes, more than the budget of 219"),
        ({"a": layer(1, 1.0), "b": []}, 10, r"no candidate for b"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(given, budget, words):
    with pytest.raises(ConfigurationError, match=words):
        mixed(given, budget)
