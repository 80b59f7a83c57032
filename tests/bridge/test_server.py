"""What is left of a bridge that has ended."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref

from pytest_webaccel.bridge.server import Bridge


def test_nothing_keeps_a_bridge_that_has_served_and_stopped():
    """A process that starts one worker after the other, as a long soak does, would grow by each."""

    async def served() -> weakref.ref[Bridge]:
        bridge = Bridge(chance=random.Random(0))
        await bridge.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
        writer.write(f"GET /lane HTTP/1.1\r\nHost: 127.0.0.1:{bridge.port}\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.startswith(b"HTTP/1.1 200")
        writer.close()
        await bridge.stop()
        return weakref.ref(bridge)

    bridge = asyncio.run(served())
    gc.collect()
    assert bridge() is None
