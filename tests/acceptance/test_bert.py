"""A small encoder on real lanes, at every number of bits, beside NumPy."""

from __future__ import annotations

import pytest

from tests.acceptance.lanes import MODEL_LANES, run_on_lane

SUITE = """
    import numpy
    import pytest

    from pytest_webaccel.engines.kernels.bert import Bert
    from pytest_webaccel.engines.packing import quantise
    from tests.engines.bert import drawn, embedded

    PACKED = {
        name: quantise(weight, 3, group=64, zero_points=True)
        for name, weight in drawn(2).items()
        if weight.ndim == 2 and "layer" in name
    }
    MIXED = {"embeddings.word_embeddings.weight": 8, "encoder.layer.0.intermediate.dense.weight": 3}


    @pytest.mark.parametrize("bits", [32, 8, 4, 3, 2, MIXED, "packed"], ids=str)
    def test_embeddings(webaccel, webaccel_faults, bits):
        kept = {"weights": drawn(2) | PACKED} if bits == "packed" else {"weights": drawn(2), "bits": bits}
        encoder = Bert(**kept, heads=4)
        for turn, ids in enumerate([[7], [1, 2, 3], [29, *range(23)]]):
            got = webaccel.compute({"y": encoder.embed(ids)})["y"]
            right = embedded(encoder.weight, ids, layers=2, heads=4)
            assert numpy.abs(got - right).max() < 1e-5
            if turn == 1 and bits == 3:
                # the weights are brought again
                webaccel_faults.inject("page_reload" if webaccel.lane.backend == "cpu" else "device_destroyed")
"""


@pytest.mark.parametrize("lane", MODEL_LANES, ids=str)
def test_an_encoder_computes_what_numpy_does_from_the_same_weights(pytester, monkeypatch, lane):
    result = run_on_lane(pytester, monkeypatch, lane, SUITE)
    result.assert_outcomes(passed=7)
