"""The right answer arrives although something dies under the request.

A voice detector is in the middle of a sentence when the fault strikes. Its answer depends on what it
heard before, so an answer to any other request would be wrong. A fault that has no meaning on a lane
(WebAssembly has no GPU device to lose) is skipped there with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

STRATEGIES = ("simple", "coordinated")
FAULTS = ("connection_lost", "browser_crash", "device_lost")


def each_fault_under_each_strategy() -> Iterator[Any]:
    for fault in FAULTS:
        for strategy in STRATEGIES:
            mark = pytest.mark.fault(fault, recovery=strategy, at="mid_request")
            yield pytest.param(id=f"{fault}-{strategy}", marks=mark)


@pytest.mark.webaccel(family="audio")
@pytest.mark.parametrize((), list(each_fault_under_each_strategy()))
def test_sentence_is_heard_through(webaccel, silero_vad, sentence, reference):
    model = webaccel.load(silero_vad)
    # The first request suffers the fault; every answer is also held against the reference at once.
    sentence.listener.run = lambda feeds: webaccel.run(model, feeds, expect=reference(silero_vad, feeds))

    heard = [sentence.listener.hear(chunk) for chunk in sentence.chunks]

    np.testing.assert_allclose(heard, sentence.expected, rtol=0, atol=1e-4)
    assert min(heard) > 0.9
