"""Circuit breakers and backoff: what keeps failing is left alone for a while, and tried again with care.

The states are those of Nygard's pattern ("Release It!", 2007): ``closed`` lets everything through,
``open`` nothing, ``half_open`` one trial. Pauses grow exponentially with full jitter (Brooker,
"Exponential Backoff And Jitter", 2015). Time and chance are passed in.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["Backoff", "Breaker", "BreakerState", "Breakers"]


class BreakerState(enum.StrEnum):
    """Life of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclasses.dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between tries, in seconds: a random share of ``first_s`` doubled each time, ``cap_s`` at most."""

    first_s: float = 0.1
    cap_s: float = 30.0

    def ceiling(self, failures: int) -> float:
        """Return the longest pause after ``failures`` failures in a row."""
        return min(self.cap_s, self.first_s * 2.0 ** min(max(failures - 1, 0), 32))

    def pause(self, failures: int, chance: random.Random) -> float:
        """Return the pause after ``failures`` failures in a row."""
        return chance.uniform(0.0, self.ceiling(failures))


class Breaker:
    """One circuit. ``threshold`` failures in a row open it; ``clock()`` is monotonic seconds.

    It stays open for between half and all of a backoff's ceiling, which grows with each failed trial.
    """

    def __init__(
        self,
        name: str,
        clock: Callable[[], float],
        chance: random.Random,
        *,
        threshold: int = 3,
        backoff: Backoff | None = None,
    ) -> None:
        if threshold < 1:
            raise ValueError(f"breaker {name}: threshold is {threshold}; it must be 1 or more")
        self.name = name
        self.failures = 0
        self.opened = 0
        self._clock = clock
        self._chance = chance
        self._threshold = threshold
        self._backoff = backoff or Backoff(first_s=5.0, cap_s=60.0)
        self._until = 0.0
        self._trial = False
        self._open = False

    @property
    def state(self) -> BreakerState:
        """Where it is now."""
        if not self._open:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._trial or self._clock() >= self._until else BreakerState.OPEN

    @property
    def allows(self) -> bool:
        """Whether a try would be let through now."""
        return self.state is not BreakerState.OPEN and not self._trial

    @property
    def wait_s(self) -> float:
        """Seconds until a trial is let through; 0 when one would be now."""
        return max(0.0, self._until - self._clock()) if self._open else 0.0

    def begin(self) -> bool:
        """Ask for a try; True lets it through, and its end must be told by one of the calls below."""
        if not self.allows:
            return False
        self._trial = self.state is BreakerState.HALF_OPEN
        return True

    def succeeded(self) -> None:
        """The try went well: all is closed again."""
        self.failures = 0
        self._open = self._trial = False

    def failed(self) -> None:
        """The try failed: enough of them in a row, or the one trial, open the circuit."""
        self.failures += 1
        if self._trial or self.failures >= self._threshold:
            if not self._open or self._trial:
                self.opened += 1
            ceiling = self._backoff.ceiling(self.failures - self._threshold + 1)
            self._until = self._clock() + self._chance.uniform(ceiling / 2, ceiling)
            self._open = True
        self._trial = False

    def gave_up(self) -> None:
        """The try was broken off from outside and proves nothing either way."""
        self._trial = False


class Breakers:
    """A breaker for each lane and each browser, made when first asked for."""

    def __init__(self, clock: Callable[[], float], chance: random.Random) -> None:
        self._clock = clock
        self._chance = chance
        self._all: dict[str, Breaker] = {}

    def of(self, name: str) -> Breaker:
        """Return the breaker of the lane or browser called ``name``."""
        if name not in self._all:
            self._all[name] = Breaker(name, self._clock, self._chance)
        return self._all[name]

    def statistics(self) -> dict[str, dict[str, object]]:
        """Return each breaker's state and counts."""
        return {
            name: {"state": str(breaker.state), "failures": breaker.failures, "opened": breaker.opened}
            for name, breaker in self._all.items()
        }
