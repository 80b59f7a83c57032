"""An encoder as a plan of kernels; what it computes is for a lane (tests/acceptance/test_bert.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytest_webaccel.engines.kernels import Plan, Target
from pytest_webaccel.engines.kernels.bert import Bert
from pytest_webaccel.engines.packing import quantise
from pytest_webaccel.errors import ConfigurationError, FeedError
from pytest_webaccel.terms import Backend
from tests.engines.bert import WIDTH, drawn, embedded

WEIGHTS: dict[str, Any] = dict(drawn(2))


def planned(outputs):
    return Plan.of(outputs, lambda program: program.lowered(Target(Backend.WEBGPU)))


def test_an_encoder_is_one_plan_and_its_weights_travel_once():
    encoder = Bert(WEIGHTS, heads=4)
    plan = planned({"y": encoder.embed([3, 1, 4])})
    assert plan.wanted["y"].shape == (WIDTH,)
    assert [dispatch.kernel for dispatch in plan.dispatches].count("matmul_nbits") == 2 * 6
    assert len(plan.constants) == len(WEIGHTS) - 1, "types are in the positions"
    assert planned({"y": encoder.embed([5])}).constants.keys() == plan.constants.keys()


def test_bits_are_those_of_matrices_and_what_they_take_is_counted():
    plain, packed = Bert(WEIGHTS, heads=4), Bert(WEIGHTS, heads=4, bits=4)
    assert plain.nbytes == 4 * (sum(weight.size for weight in WEIGHTS.values()) - 2 * WIDTH)
    assert packed.nbytes < plain.nbytes / 3
    name = "encoder.layer.0.intermediate.dense.weight"
    mixed = Bert(WEIGHTS, heads=4, bits={name: 2})
    assert mixed.nbytes < plain.nbytes
    assert len(np.unique(mixed.weight(name)[0, :32])) <= 4
    other = "encoder.layer.1.output.dense.weight"
    np.testing.assert_array_equal(mixed.weight(other), WEIGHTS[other])


def test_matrices_may_be_packed_already_and_positions_hold_their_type_then():
    plain = Bert(WEIGHTS, heads=4)
    packed = {name: quantise(plain.weight(name), 3, group=64) for name in plain.matrices}
    others = {name: weight for name, weight in WEIGHTS.items() if "token_type" not in name}
    encoder = Bert(others | packed, heads=4)
    assert encoder.matrices == plain.matrices
    assert encoder.nbytes == plain.nbytes + sum(one.nbytes - plain.weight(name).nbytes for name, one in packed.items())
    for name, one in packed.items():
        np.testing.assert_array_equal(encoder.weight(name), one.dequantised())
    values = {name: one for name, one in packed.items() if "value" in name}
    some = Bert(WEIGHTS | values, heads=4, bits=8)
    for name in plain.matrices:
        right = values[name] if name in values else quantise(plain.weight(name), 8)
        np.testing.assert_array_equal(some.weight(name), right.dequantised())


def test_no_bits_are_asked_of_what_is_packed_already():
    name = "encoder.layer.0.output.dense.weight"
    with pytest.raises(ConfigurationError, match=r"packed already: encoder\.layer\.0\.output\.dense\.weight"):
        Bert(WEIGHTS | {name: quantise(WEIGHTS[name], 4)}, heads=4, bits={name: 8})
    with pytest.raises(ConfigurationError, match=r"is of shape \[48, 80\], as the others are; got \[48, 48\]"):
        Bert(WEIGHTS | {name: quantise(np.ones((48, 48), np.float32), 4)}, heads=4)


def test_the_reference_brings_embeddings_to_length_1_and_tells_sentences_apart():
    encoder = Bert(WEIGHTS, heads=4)
    one, other = (embedded(encoder.weight, ids, layers=2, heads=4) for ids in ([1, 2, 3], [3, 2, 1]))
    assert np.linalg.norm(one) == pytest.approx(1)
    assert not np.allclose(one, other), "the order counts"


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"encoder.layer.1.output.dense.bias": None}, {}, r"are missing: encoder\.layer\.1\.output\.dense\.bias"),
        ({}, {"heads": 5}, r"heads=5: the width of 48 is not a multiple"),
        ({}, {"bits": {"pooler": 4}}, r"no matrix of the encoder, or packed already: pooler"),
        ({}, {"bits": 5}, r"bits=5 cannot be packed"),
        ({}, {"bits": 4, "activations": "int4"}, r"activations 'int4'"),
        ({}, {"activations": "int8"}, r"activations=int8 go with packed weights, and none are"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, options, words):
    given = {name: weight for name, weight in WEIGHTS.items() if name not in change}
    with pytest.raises(ConfigurationError, match=words):
        Bert(given, **{"heads": 4, **options})


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("embeddings.word_embeddings.weight", (30,), r"is of shape \[words, width\]; got \[30\]"),
        ("embeddings.position_embeddings.weight", (24, 47), r"position.* is of shape \[24, 48\].*; got \[24, 47\]"),
        ("encoder.layer.1.output.dense.weight", (48, 48), r"output.dense.weight is of shape \[48, 80\]"),
        ("encoder.layer.0.attention.output.LayerNorm.bias", (48, 1), r"LayerNorm.bias is of shape \[48\]"),
    ],
)
def test_weights_of_another_shape_are_refused(name, shape, words):
    with pytest.raises(ConfigurationError, match=words):
        Bert(WEIGHTS | {name: np.ones(shape, np.float32)}, heads=4)


def test_an_encoder_without_layers_is_none():
    with pytest.raises(ConfigurationError, match=r"at least one layer"):
        Bert({name: weight for name, weight in WEIGHTS.items() if "encoder" not in name}, heads=4)


@pytest.mark.parametrize(
    ("ids", "words"),
    [([30], r"ids from 30"), (list(range(25)), r"25 tokens are more than the 24"), ([[1]], r"ids are integers")],
)
def test_ids_that_do_not_fit_are_refused(ids, words):
    with pytest.raises(FeedError, match=words):
        Bert(WEIGHTS, heads=4).embed(ids)
