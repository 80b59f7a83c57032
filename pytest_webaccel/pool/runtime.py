"""A worker's event loop, in a thread of its own, and the synchronous way into it.

Bridge, browsers and pool live in the loop. A test calls in and waits, with a deadline of its own that
does not rely on the deadlines inside.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.errors import WebAccelError

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["GRACE_S", "LoopThread"]

T = TypeVar("T")

#: Seconds beyond the inner deadline after which a caller stops waiting all the same.
GRACE_S = 15.0

_CANCEL_S = 10.0


class LoopThread:
    """One asyncio loop in one daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="webaccel-loop", daemon=True)
        self._thread.start()
        self._ready.wait()

    def call(self, work: Coroutine[Any, Any, T], *, deadline: float) -> T:
        """Run ``work`` in the loop and return its result.

        ``deadline`` is the work's own, in seconds; waiting ends :data:`GRACE_S` after it in any case,
        with WebAccelError. On Ctrl-C the work is cancelled and its clean-up awaited.
        """
        tasks: list[asyncio.Task[Any]] = []

        async def known() -> T:
            if (task := asyncio.current_task()) is not None:
                tasks.append(task)
            return await work

        future = asyncio.run_coroutine_threadsafe(known(), self._loop)
        try:
            return future.result(deadline + GRACE_S)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise
            self._cancel(tasks)
            raise WebAccelError(
                f"the worker's loop did not answer within {deadline + GRACE_S:g} s, though the work's own deadline was "
                f"{deadline:g} s: please report this as a defect of pytest-webaccel"
            ) from None
        except BaseException:
            self._cancel(tasks)
            raise

    def stop(self) -> None:
        """End the loop and its thread; what still runs in it is cancelled."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CANCEL_S)

    def _cancel(self, tasks: list[asyncio.Task[Any]]) -> None:
        """Cancel ``tasks`` and wait for their clean-up."""

        async def end() -> None:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=_CANCEL_S)

        settled = asyncio.run_coroutine_threadsafe(end(), self._loop)
        with contextlib.suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            settled.result(_CANCEL_S + 1)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._ready.set)
        try:
            self._loop.run_forever()
        finally:
            pending = asyncio.all_tasks(self._loop)
            for task in pending:
                task.cancel()
            with contextlib.suppress(RuntimeError):
                self._loop.run_until_complete(asyncio.wait_for(_gather(pending), _CANCEL_S))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


async def _gather(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
