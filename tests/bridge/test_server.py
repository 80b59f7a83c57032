"""What is left of a bridge that has ended."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref

from pytest_webaccel.bridge.server import Bridge
from tests.bridge.attacks import get, status


def test_nothing_keeps_a_bridge_that_has_served_and_stopped():
    """A process that starts one worker after the other, as a long soak does, would grow by each."""

    async def served() -> weakref.ref[Bridge]:
        bridge = Bridge(chance=random.Random(0))
        await bridge.start()
        assert status(await get(bridge.port, "/lane")) == 200
        await bridge.stop()
        return weakref.ref(bridge)

    bridge = asyncio.run(served())
    gc.collect()
    assert bridge() is None
