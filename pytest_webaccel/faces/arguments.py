"""Arguments that tests give: words of the vocabulary, and the deadlines where a test says none."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, TypeVar

from pytest_webaccel.errors import ConfigurationError, WebAccelError
from pytest_webaccel.terms import Strategy
from pytest_webaccel.words import pick

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_webaccel.faces.choices import Choices

__all__ = ["DEADLINE_S", "SEARCH_S", "Manner", "strategy", "word"]

Word = TypeVar("Word", bound=enum.StrEnum)

#: Seconds that a load or a run may take when the test does not say.
DEADLINE_S = 60.0

#: Seconds after which a search for the operator to blame looks for nothing smaller.
SEARCH_S = 600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Manner:
    """How a test wants its lanes: ``strict`` fails on a silent fallback, ``family`` is that of its models.

    Cases to file are written below ``cases``; None: nowhere. ``choices`` are constants of tuned kernels. ``tell`` is
    given the progress of long work, a line at a time.
    """

    strict: bool = False
    family: str = ""
    cases: Path | None = None
    choices: Choices | None = None
    tell: Callable[[str], None] = lambda line: None


def word(kind: type[Word], text: object, what: str, error: type[WebAccelError]) -> Word:
    """Return the word of the vocabulary spelt ``text``; raises ``error`` with those that are known."""
    if not isinstance(text, str):
        raise error(f"{what}={text!r} is not a word (known: {', '.join(kind)})")
    try:
        return pick(kind, text, what)
    except ValueError as wrong:
        raise error(str(wrong)) from None


def strategy(text: str | None) -> Strategy | None:
    """Return the strategy spelt ``text``; None where none was named."""
    return None if text is None else word(Strategy, text, "recovery", ConfigurationError)
