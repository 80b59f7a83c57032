"""Files of known type: each is recognised by its bytes, on every lane."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pytest_webaccel.errors import ModelError

from . import filetypes


def test_files_are_known_by_their_bytes(webaccel, magika, magika_config, reference):
    files = filetypes.samples()
    feeds = {"bytes": np.stack([filetypes.as_features(data, magika_config) for data in files.values()])}
    # The JSEP build, the usual one on WebGPU, cannot run this model: the test below shows why.
    model = webaccel.load(magika, build="native" if webaccel.lane.backend == "webgpu" else None)

    started = time.perf_counter()
    (scores,) = webaccel.run(model, feeds).values()
    webaccel.measure("first_batch", (time.perf_counter() - started) * 1e3, "ms", model=model)

    assert filetypes.as_types(scores, magika_config) == list(files)
    np.testing.assert_allclose(scores, reference(magika, feeds)["target_label"], rtol=0, atol=1e-3)


@pytest.mark.webaccel(backend="webgpu")
@pytest.mark.xfail(
    strict=True,
    raises=ModelError,
    reason="microsoft/onnxruntime#27277 and #21108: on WebGPU the JSEP build's Conv kernel refuses this model, "
    "'FILTER_IN_CHANNEL should be equal to DATA_CHANNEL'",
)
def test_jsep_webgpu_build_runs_the_model(webaccel, magika, magika_config):
    feeds = {"bytes": filetypes.as_features(filetypes.samples()["pdf"], magika_config)[np.newaxis]}
    model = webaccel.load(magika, build="jsep")

    (scores,) = webaccel.run(model, feeds).values()

    assert filetypes.as_types(scores, magika_config) == ["pdf"]
