"""``network_latency``, ``network_bandwidth``, ``network_jitter``: the way between page and bridge is slowed.

Names and units are Toxiproxy's: milliseconds, and KB (1000 bytes) a second. A slow network fails no request by itself:
the answer comes late, or the request's own deadline passes first.
"""

from __future__ import annotations

import abc
import asyncio
from typing import TYPE_CHECKING, ClassVar

from pytest_webaccel.bridge.toxics import Bandwidth, Latency, Stream
from pytest_webaccel.faults.injector import BaseInjector
from pytest_webaccel.terms import Damage, Fault, FaultPoint, Symptom

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_webaccel.bridge.toxics import Toxic
    from pytest_webaccel.faults.injector import FaultTarget

__all__ = ["NetworkBandwidth", "NetworkJitter", "NetworkLatency"]

_MISFITS: Mapping[FaultPoint, str] = {
    FaultPoint.DURING_RECOVERY: "a slow network breaks nothing, so there is no recovery that it could strike",
    FaultPoint.AFTER: "nothing travels any more that could be late",
}
#: Bytes of the answer by which a bandwidth is measured.
_MEASURED_BYTES = 16_000
#: Seconds between two measurements.
_PAUSE_S = 0.01


class _Slow(BaseInjector):
    """Lays toxics on the lane's link at once, until the fault is rolled back; seen by measuring what a word takes then.

    On loopback a word takes a few milliseconds; one that takes nearly as long as the toxics make it was slowed by them.
    """

    symptoms = frozenset({Symptom.CONNECTION_SLOW})
    misfits = _MISFITS

    @property
    def degrades(self) -> bool:
        """Whether a request may rightly be answered all the same: it is, only later."""
        return True

    @abc.abstractmethod
    def _toxics(self) -> Iterable[Toxic]:
        """Return what is laid on the link."""

    @property
    @abc.abstractmethod
    def _slow_ms(self) -> float:
        """Milliseconds that a word takes at least, where it was really slowed."""

    async def _break(self, target: FaultTarget, deadline: float) -> None:  # noqa: ARG002 - it takes no time
        link = target.link
        for toxic in self._toxics():
            link.add(toxic)

    async def _undo(self, target: FaultTarget, deadline: float) -> None:  # noqa: ARG002 - it takes no time
        laid = {toxic.name for toxic in target.link.toxics}
        for toxic in self._toxics():
            if toxic.name in laid:
                target.link.remove(toxic.name)

    async def _see(self, target: FaultTarget, deadline: float) -> Damage:
        while True:
            taken = await self._measure(target, deadline)
            if taken >= self._slow_ms:
                detail = f"a word to the page and back takes {taken:.0f} ms"
                return Damage(Symptom.CONNECTION_SLOW, detail, asyncio.get_running_loop().time())
            await asyncio.sleep(_PAUSE_S)

    async def _measure(self, target: FaultTarget, deadline: float) -> float:
        """Return the milliseconds that a word takes now."""
        return await target.round_trip(deadline=deadline)


class NetworkLatency(_Slow):
    """Delays every byte, so that a word and its answer together take ``latency_ms`` longer, half of it each way."""

    fault = Fault.NETWORK_LATENCY

    def __init__(self, latency_ms: float = 400.0) -> None:
        self.latency_ms = latency_ms

    def _toxics(self) -> Iterable[Toxic]:
        return [Latency(self.latency_ms / 2, stream=stream, name=f"{self.fault}_{stream}") for stream in Stream]

    @property
    def _slow_ms(self) -> float:
        return 0.9 * self.latency_ms


class NetworkJitter(_Slow):
    """Delays bytes each way by a drawn time from 0 to ``jitter_ms``, in order all the same."""

    fault = Fault.NETWORK_JITTER

    def __init__(self, jitter_ms: float = 300.0) -> None:
        self.jitter_ms = jitter_ms

    def _toxics(self) -> Iterable[Toxic]:
        half = self.jitter_ms / 2
        return [Latency(half, half, stream=stream, name=f"{self.fault}_{stream}") for stream in Stream]

    @property
    def _slow_ms(self) -> float:
        return 0.5 * self.jitter_ms


class NetworkBandwidth(_Slow):
    """Lets no more than ``rate_kb_s`` KB a second pass, each way."""

    fault = Fault.NETWORK_BANDWIDTH
    measured_bytes: ClassVar[int] = _MEASURED_BYTES

    def __init__(self, rate_kb_s: float = 64.0) -> None:
        self.rate_kb_s = rate_kb_s

    def _toxics(self) -> Iterable[Toxic]:
        return [Bandwidth(self.rate_kb_s, stream=stream, name=f"{self.fault}_{stream}") for stream in Stream]

    @property
    def _slow_ms(self) -> float:
        return 0.9 * self.measured_bytes / self.rate_kb_s

    async def _measure(self, target: FaultTarget, deadline: float) -> float:
        clock = asyncio.get_running_loop().time
        begun = clock()
        await target.harm("speak", {"bytes": self.measured_bytes}, deadline=deadline)
        return (clock() - begun) * 1000
