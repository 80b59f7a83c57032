"""The search for constants, on a made-up landscape of times."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.engines.kernels import KERNELS, Target, program
from pytest_webaccel.engines.kernels.reference import nmse, reference
from pytest_webaccel.engines.kernels.tuning import Timing, TimingState, Tuning, descend, every, key
from pytest_webaccel.engines.packing import quantise
from pytest_webaccel.engines.packing.cache import CacheForm, KVCache
from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.terms import Backend

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from pytest_webaccel.engines.kernels import Dispatch
    from pytest_webaccel.engines.kernels.tuning import Constants

CHOICES = {"A": [1, 2, 4, 8], "B": [1, 2, 4], "C": [0, 1]}
START = {"A": 1, "B": 1, "C": 0}


def fits(constants: Constants) -> bool:
    return constants["A"] * constants["B"] <= 16


def followed(search: Generator[Constants, float, None], took: Callable[[Constants], float]) -> list[Constants]:
    tried = [next(search)]
    try:
        while True:
            tried.append(search.send(took(tried[-1])))
    except StopIteration:
        return tried


@given(st.tuples(*(st.sampled_from(CHOICES[name]) for name in "ABC")).filter(lambda best: best[0] * best[1] <= 16))
def test_a_descent_finds_the_only_valley_and_tries_nothing_twice(best):
    def took(constants: Constants) -> float:
        pairs = zip("ABC", best, strict=True)
        return 1 + sum(abs(math.log2(constants[name] + 1) - math.log2(right + 1)) for name, right in pairs)

    tried = followed(descend(CHOICES, START, fits), took)
    assert tried[0] == START
    assert min(tried, key=took) == dict(zip("ABC", best, strict=True))
    assert len({key(one) for one in tried}) == len(tried) <= 16
    assert all(fits(one) for one in tried)


def test_a_value_that_does_not_go_with_the_best_is_tried_with_another_at_its_default():
    """As SPLIT with QUADS: the valley lies where two constants have changed at once."""

    def together(constants: Constants) -> bool:
        return not (constants["A"] > 1 and constants["C"])

    def took(constants: Constants) -> float:
        return 1.0 if constants["A"] == 4 else 2.0 if constants["C"] else 3.0

    tried = followed(descend(CHOICES, {"A": 1, "B": 1, "C": 1}, together), took)
    assert {"A": 4, "B": 1, "C": 0} in tried
    assert all(together(one) for one in tried)


def test_what_is_hardly_faster_is_noise_and_what_is_wrong_is_never_kept():
    def took(constants: Constants) -> float:
        return math.inf if constants["C"] else 1 - 0.001 * constants["A"]

    tried = followed(descend(CHOICES, START, fits), took)
    assert all(sum(one[name] != START[name] for name in START) <= 1 for one in tried), "START stayed the best"


def test_every_candidate_that_fits_is_tried_once():
    tried = followed(every(CHOICES, START, fits), lambda constants: 1.0)
    assert tried[0] == START
    assert len({key(one) for one in tried}) == len(tried) == 4 * 3 * 2 - 2


def test_a_table_shows_all_that_was_tried_and_why_something_failed():
    untuned, best = (
        Timing({"A": 1}, TimingState.TIMED, [4.0, 2.0, 3.0], 9.0),
        Timing({"A": 2}, TimingState.TIMED, [1.5], 8.0),
    )
    tuning = Tuning(
        "softmax", [untuned, Timing({"A": 4}, TimingState.FAILED, detail="failed: no"), best], untuned, best
    )
    assert tuning.gain == 2.0
    lines = [line.split() for line in tuning.table().splitlines()]
    assert lines[0][:3] == ["A", "median", "ms"]
    assert [line[0] for line in lines[1:]] == ["2", "1", "4"]
    assert lines[1][-1] == "chosen"
    assert lines[2][1:3] == ["3.000", "3"]
    assert lines[3][1:] == ["failed:", "failed:", "no"]


def test_every_kernel_has_a_reference_for_what_it_takes():
    ones = np.ones((2, 8), np.float32)
    weights = quantise(np.ones((5, 8), np.float32), 4)
    cache = KVCache(CacheForm(heads=2, dim=8))
    cache.append(ones[None], ones[None])
    inputs = {
        "add": {"a": ones, "b": ones[0]},
        "mean_pool": {"x": ones, "normalise": True},
        "self_attention": {"q": ones[:, None], "k": ones[:, None], "v": ones[:, None], "causal": True},
        "attention": {"query": ones, "cache": cache, "scale": 0.5},
        "embedding": {"ids": [0, 4], "table": weights},
        "gelu": {"x": ones, "tanh": True},
        "layer_norm": {"x": ones, "weight": ones[0], "bias": ones[0]},
        "matmul_nbits": {"x": ones, "weights": weights},
        "rope": {"x": ones[:, None], "positions": [0, 3]},
        "silu": {"x": ones},
        "softmax": {"x": ones},
    }
    assert set(inputs) == set(KERNELS)
    for name, given_here in inputs.items():
        right = reference(name, given_here)
        assert program(name, given_here).outputs["y"].shape == right.shape
        assert np.isfinite(right).all()
    assert nmse(np.zeros((2, 5)), reference("matmul_nbits", inputs["matmul_nbits"])) == 1
    assert nmse(np.zeros(3), np.zeros(4)) == math.inf
    assert nmse(np.zeros(3), np.zeros(3)) == 0


def lowered(inputs: dict[str, Any], constants: dict[str, int] | None = None, features: Sequence[str] = ()) -> Dispatch:
    return program("matmul_nbits", inputs, constants).lowered(Target(Backend.WEBGPU, frozenset(features)))


def test_a_signature_says_how_weights_are_packed_and_not_what_they_are():
    x = np.ones((2, 64), np.float32)
    made = [lowered({"x": scale * x, "weights": quantise(scale * np.ones((6, 64), np.float32), 4)}) for scale in (1, 2)]
    assert made[0].signature == made[1].signature
    other = lowered({"x": x, "weights": quantise(np.ones((6, 64), np.float32), 4, group=64)})
    assert other.signature != made[0].signature
    tiled = lowered({"x": x, "weights": quantise(x[:1].repeat(6, 0), 4)}, {"TILE_ROWS": 1})
    assert tiled.signature == made[0].signature


def test_inputs_that_a_kernel_does_not_take_are_refused():
    with pytest.raises(ConfigurationError, match=r"kernel softmax: .*missing a required argument: 'x'"):
        program("softmax", {})


def test_what_runs_untuned_depends_on_what_the_device_has():
    inputs = {"x": np.ones((1, 64), np.float32), "weights": quantise(np.ones((6, 64), np.float32), 4)}
    assert lowered(inputs).chosen["QUADS"] == 0
    made = lowered(inputs, features=["subgroups", "shader-f16"])
    assert (made.chosen["QUADS"], made.chosen["TILE_ROWS"], list(made.needs)) == (1, 1, ["subgroups"])
    assert lowered(inputs, {"SPLIT": 2}, features=["subgroups"]).chosen["QUADS"] == 0
