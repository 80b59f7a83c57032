"""Asking whether something is healthy, again and again, until a deadline that a hung page cannot outlast."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from pytest_webaccel.errors import ConfigurationError

__all__ = ["Answer", "Predicate", "ask", "bound", "checked_ms"]

Predicate = Callable[..., object]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking: ``healthy`` where the predicate was true in time, ``late`` where it was true after that.

    ``asked`` counts how often it was asked, ``ended_at`` is when asking ended, ``error`` what it raised last.
    """

    healthy: bool
    asked: int
    ended_at: float
    late: bool = False
    error: Exception | None = None

    def why_not(self) -> str:
        """Return in words why the app does not count as healthy."""
        if self.error is not None:
            words = " ".join(str(self.error).split())[:300]
            return f"the predicate, asked {self.asked} times, last raised {type(self.error).__name__}: {words}"
        if self.late:
            return "the predicate was true only after that"
        return f"the predicate, asked {self.asked} times, was never true"


def bound(predicate: object, page: Any) -> Callable[[], object]:
    """Return ``predicate`` as a function of nothing: one that asks for an argument gets the app's page.

    Raises ConfigurationError for what cannot be asked.
    """
    if not callable(predicate):
        raise ConfigurationError(f"the predicate {predicate!r} is no function; pass one that is true of a healthy app")
    try:
        parameters = inspect.signature(predicate).parameters.values()
    except (TypeError, ValueError):  # a function that was not written in Python does not say
        parameters = {}.values()
    wanted = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ]
    if len(wanted) > 1:
        raise ConfigurationError(f"the predicate {predicate!r} asks for {len(wanted)} arguments; it may take the page")
    return (lambda: predicate(page)) if wanted else predicate


def checked_ms(within_ms: object) -> float:
    """Return ``within_ms`` if it is a time to wait, in milliseconds; raises ConfigurationError."""
    if isinstance(within_ms, bool) or not isinstance(within_ms, int | float) or not 0 < within_ms <= 3_600_000:
        raise ConfigurationError(f"within_ms={within_ms!r} is no time from above 0 to 3600000 milliseconds")
    return float(within_ms)


def ask(
    predicate: Callable[[], object], *, until: float, clock: Callable[[], float], pause: Callable[[], object]
) -> Answer:
    """Ask ``predicate`` at least once, and again until it is true or ``until`` passed on ``clock``, in seconds.

    What it raises counts as not yet. Raises ConfigurationError for one whose answers must be awaited.
    """
    asked, error = 0, None
    while True:
        asked += 1
        try:
            answer, error = predicate(), None
        except Exception as raised:  # whatever a test's own code raises says the same: not yet
            answer, error = False, raised
        now = clock()
        if inspect.iscoroutine(answer):
            answer.close()
            raise ConfigurationError("the predicate is asynchronous; the page it is asked about is a synchronous one")
        if answer and now <= until:
            return Answer(True, asked, now)
        if now >= until:
            return Answer(False, asked, now, late=bool(answer), error=error)
        pause()
