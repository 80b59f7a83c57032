"""A clock that stands still until somebody moves it, and an asyncio loop that runs on it.

Where nothing is ready, the loop moves the clock to its next timer instead of waiting for it. Sockets
and threads still take real time, so before it jumps it gives them a moment, and it never jumps while a
thread works for it.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Coroutine

__all__ = ["VirtualClock", "VirtualLoop", "run_virtually"]

T = TypeVar("T")
R = TypeVar("R")

#: Real seconds given to sockets before the clock jumps.
_GRACE_S = 0.002

#: Seconds by which the loop lets timers be early.
_RESOLUTION_S = 1e-9

#: Real seconds after which a loop that has no timer and hears nothing is taken for stuck.
_STUCK_S = 30.0


class VirtualClock:
    """Seconds since its making, which pass only by :meth:`advance`."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def time(self) -> float:
        """Return the present moment, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds``; raises ValueError for going back."""
        if seconds < 0:
            raise ValueError(f"a clock does not go back: advance({seconds!r})")
        self._now += seconds


class _Selector(selectors.DefaultSelector):
    """Moves the clock where another selector would wait."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self.clock = clock
        self.threads = 0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if timeout is None or self.threads:
            events = super().select(_STUCK_S)
            if not events:
                raise RuntimeError(f"nothing happened for {_STUCK_S:g} real seconds, and no timer is set")
            return events
        events = super().select(_GRACE_S)
        if not events:
            # asyncio runs timers up to its resolution early; past it, no callback finds that it is too soon
            self.clock.advance(timeout + _RESOLUTION_S)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a :class:`VirtualClock`, which is its own unless one is given."""

    def __init__(self, clock: VirtualClock | None = None) -> None:
        self.clock = clock or VirtualClock()
        self._virtual = _Selector(self.clock)
        super().__init__(self._virtual)
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        """Return the clock's time."""
        return self.clock.time()

    def run_in_executor(  # type: ignore[override]  # typeshed spells the arguments with type variables of its own
        self, executor: concurrent.futures.Executor | None, func: Callable[..., R], *args: Any
    ) -> asyncio.Future[R]:
        """Run ``func`` in a thread; the clock stands still until it returns."""
        future = super().run_in_executor(executor, func, *args)
        self._virtual.threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, future: asyncio.Future[Any]) -> None:
        del future
        self._virtual.threads -= 1


def run_virtually(main: Coroutine[Any, Any, T], clock: VirtualClock | None = None) -> T:
    """Return the result of ``main``, run to its end in a :class:`VirtualLoop`."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        return runner.run(main)
