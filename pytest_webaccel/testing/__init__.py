"""For authors of plugins, and for this project's own logic tests: a fake browser and a virtual clock.

The fake browser speaks the real protocol to the real bridge; what it computes is true (ONNX's own
reference evaluator) and what it says about time is made up, seeded and deterministic. Its evidence is
always ``fake``. :class:`VirtualClock` and :func:`run_virtually` run asyncio code with deadlines
without waiting for them.
"""

from __future__ import annotations

from pytest_webaccel.testing.browser import FakeDriver, FakeFleet, Misbehaviour, install_fake_browser, stand_in_ort
from pytest_webaccel.testing.clock import VirtualClock, VirtualLoop, run_virtually
from pytest_webaccel.testing.page import FakePage, Latency, no_wait
from pytest_webaccel.testing.session import Answer, Backoff, PageRequest, PageSession

__all__ = [
    "Answer",
    "Backoff",
    "FakeDriver",
    "FakeFleet",
    "FakePage",
    "Latency",
    "Misbehaviour",
    "PageRequest",
    "PageSession",
    "VirtualClock",
    "VirtualLoop",
    "install_fake_browser",
    "no_wait",
    "run_virtually",
    "stand_in_ort",
]
