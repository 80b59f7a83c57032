"""Bits for each layer, within a budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.engines.packing.mixed import Choice, allot
from pytest_webaccel.errors import ConfigurationError


def layer(size: int, sensitivity: float) -> dict[int, Choice]:
    return {bits: Choice(size * bits, sensitivity * 4.0**-bits) for bits in (2, 3, 4, 8)}


layers = st.dictionaries(
    st.text("abc", min_size=1, max_size=2), st.builds(layer, st.integers(1, 100), st.floats(0, 100)), max_size=6
)


def cost(given, chosen):
    return sum(given[name][bits].nbytes for name, bits in chosen.items())


def error(given, chosen):
    return sum(given[name][bits].error for name, bits in chosen.items())


@given(layers, st.integers(0, 3000))
def test_the_budget_holds_every_layer_is_there_and_more_bytes_never_start_from_less(given, more):
    least = sum(min(one.nbytes for one in choices.values()) for choices in given.values())
    chosen = allot(given, least + more)
    assert chosen.keys() == given.keys()
    assert cost(given, chosen) <= least + more
    assert error(given, chosen) <= error(given, allot(given, least))


def test_bits_go_where_a_byte_takes_away_most_of_the_error():
    given = {"large": layer(100, 1.0), "sensitive": layer(10, 50.0)}
    assert allot(given, 220) == {"large": 2, "sensitive": 2}
    assert allot(given, 240) == {"large": 2, "sensitive": 4}
    assert allot(given, 10**6) == {"large": 8, "sensitive": 8}


def test_a_budget_under_the_fewest_bits_says_what_they_need():
    with pytest.raises(ConfigurationError, match=r"take 220 bytes, more than the budget of 219"):
        allot({"a": layer(100, 1.0), "b": layer(10, 1.0)}, 219)
