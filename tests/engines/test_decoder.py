"""A decoder as plans of kernels; what it computes is for a lane (tests/acceptance/test_decoder.py)."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_webaccel.engines.kernels import Computation, Plan, Target
from pytest_webaccel.engines.kernels.decoder import Decoder
from pytest_webaccel.engines.packing.cache import CacheForm
from pytest_webaccel.errors import ConfigurationError, FeedError
from pytest_webaccel.terms import Backend
from tests.engines.decoder import decoded, drawn

WEIGHTS = drawn(2)
DECODER = Decoder(WEIGHTS, heads=4)


def test_steps_that_were_not_computed_are_computed_with_the_next():
    text = DECODER.begin(capacity=40)
    for token in (3, 1, 4):
        logits = text.step(token)
    assert (logits.shape, text.position) == ((30,), 3)
    work = Computation({"logits": logits})
    plan = Plan.of({"logits": logits}, lambda program: program.lowered(Target(Backend.WEBGPU)))
    kernels = [dispatch.kernel for dispatch in plan.dispatches]
    assert kernels.count("kv_append") == 2 * 3
    assert len(plan.states) == 2 * 2
    assert sum(plan.states.values()) == text.nbytes
    work.commit()
    later = Computation({"logits": text.step(1)})
    later.require_current()
    assert [program.kernel for program in later.programs].count("kv_append") == 2


def test_the_reference_sees_what_came_before():
    form = CacheForm(4, 12, window=99, recent=np.float32)
    one, other = (decoded(WEIGHTS.__getitem__, tokens, form, layers=2)[-1] for tokens in ([1, 2, 3], [2, 1, 3]))
    assert not np.allclose(one, other)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"head.weight": None}, {}, r"are missing: head\.weight"),
        ({"layers.1.mlp.norm.bias": None}, {}, r"are missing: layers\.1\.mlp\.norm\.bias"),
        ({"layers.1.mlp.down.weight": np.ones((80, 48))}, {}, r"down\.weight is of shape \[48, 80\].*got \[80, 48\]"),
        ({"embed.weight": np.ones(30)}, {}, r"embed\.weight is of shape \[words, width\]; got \[30\]"),
        ({name: None for name in WEIGHTS if "layers" in name}, {}, "at least one layer"),
        ({}, {"heads": 5}, r"heads=5: the width of 48 is no even multiple"),
        ({}, {"heads": 16}, r"heads=16"),
        ({}, {"bits": 5}, r"bits=5 cannot be packed"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, options, words):
    given = {name: weight for name, weight in (WEIGHTS | change).items() if weight is not None}
    with pytest.raises(ConfigurationError, match=words):
        Decoder(given, **{"heads": 4, **options})


def test_what_a_text_has_no_room_for_is_refused():
    with pytest.raises(ConfigurationError, match="a cache of 4 heads of 12, not of 2 of 12"):
        DECODER.begin(CacheForm(2, 12), capacity=9)
    text = DECODER.begin(CacheForm(4, 12, window=2), capacity=2)
    text.step(1)
    with pytest.raises(FeedError, match="ids from 30"):
        text.step(30)
    text.step(1)
    with pytest.raises(FeedError, match="the cache holds 2 tokens, and has room for no more"):
        text.step(1)
    assert text.position == 2
