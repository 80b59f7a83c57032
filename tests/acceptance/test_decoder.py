"""A small decoder goes through a text on real lanes, its cache on the device, beside NumPy."""

from __future__ import annotations

import pytest

from tests.acceptance.lanes import STATE_LANES, run_on_lane

SUITE = """
    import numpy
    import pytest

    from pytest_webaccel.engines.kernels.decoder import Decoder
    from pytest_webaccel.engines.packing.cache import CacheForm
    from tests.engines.decoder import decoded, drawn

    WEIGHTS = drawn(2)
    TOKENS = numpy.random.default_rng(0).integers(0, 30, 80).tolist()
    #: Errors allowed by the bits of the cache: a code may be rounded otherwise where it lies between two.
    FORMS = {
        1e-4: CacheForm(4, 12, window=99, recent=numpy.float32),
        1e-3: CacheForm(4, 12, window=99),
        2e-2: CacheForm(4, 12, bits=4, window=4),
        5e-2: CacheForm(4, 12, bits=3),
    }


    @pytest.mark.parametrize(("most", "bits"), [(1e-4, 32), (1e-4, 4), (1e-3, 4), (2e-2, 4), (5e-2, 32)])
    def test_logits(webaccel, webaccel_faults, most, bits):
        decoder = Decoder(WEIGHTS, heads=4, bits=bits)
        right = decoded(decoder.weight, TOKENS, FORMS[most], layers=2)
        text = decoder.begin(FORMS[most], capacity=80, checkpoint=7)
        for token in TOKENS[:60]:  # as a prompt: one request
            logits = text.step(token)
        found = [webaccel.compute({"logits": logits})["logits"]]
        for step, token in enumerate(TOKENS[60:]):
            if (step, bits) == (10, 4):
                webaccel_faults.inject("device_destroyed" if webaccel.lane.backend == "webgpu" else "page_reload")
            found.append(webaccel.compute({"logits": text.step(token)})["logits"])
        off = numpy.linalg.norm(found - right[59:], axis=1) / numpy.linalg.norm(right[59:], axis=1)
        assert off.max() < most, off


    def test_text_goes_on_by_itself(webaccel):
        decoder = Decoder(WEIGHTS, heads=4, bits=4)
        text, tokens = decoder.begin(capacity=32, evict=True), [7]
        for _ in range(50):
            tokens.append(int(webaccel.compute({"logits": text.step(tokens[-1])})["logits"].argmax()))
        assert len(text.caches[0]) <= 32 + 31
        assert len(set(tokens)) > 3
"""


@pytest.mark.parametrize("lane", STATE_LANES, ids=str)
def test_a_decoder_computes_what_numpy_does_and_goes_on_after_a_lost_device(pytester, monkeypatch, lane):
    result = run_on_lane(pytester, monkeypatch, lane, SUITE)
    result.assert_outcomes(passed=6)
