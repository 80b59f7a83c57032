"""What a fault leaves going in the background: the later blows of several, harm that nobody waits for."""

from __future__ import annotations

import abc
import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from pytest_webaccel.errors import WebAccelError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

__all__ = ["Later"]

#: Seconds that harm may take whose end nobody waits for.
_UNHEARD_S = 5.0


class Later(abc.ABC):
    """The part of a :class:`~pytest_webaccel.faults.injector.FaultTarget` that goes on behind the caller."""

    def __init__(self) -> None:
        self._later: set[asyncio.Task[None]] = set()

    @abc.abstractmethod
    async def harm(self, kind: str, arguments: Mapping[str, Any] | None = None, *, deadline: float) -> None:
        """Have the page harm itself; each target has its own way to it."""

    def post_harm(self, kind: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Have the page harm itself; nobody waits for its word."""

        async def post() -> None:
            with contextlib.suppress(WebAccelError):
                await self.harm(kind, arguments, deadline=_UNHEARD_S)

        self.later(post())

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on with ``work`` in the background."""
        task = asyncio.ensure_future(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def roll_back_later(self) -> None:
        """Cancel what still goes on in the background."""
        tasks = list(self._later)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
