"""Reading a word of the vocabulary, with an answer that helps when it is not one."""

from __future__ import annotations

import difflib
import enum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["pick", "unknown"]

Word = TypeVar("Word", bound=enum.StrEnum)


def pick(kind: type[Word], text: str, what: str = "") -> Word:
    """Return the member of ``kind`` spelt ``text``.

    Raises ValueError naming ``what`` was read (the enum's name by default), the known words and the nearest one.
    """
    known = [str(word) for word in kind]
    if text.strip() not in known:
        raise ValueError(unknown(what or kind.__name__.lower(), text, known))
    return kind(text.strip())


def unknown(what: str, text: str, known: Iterable[str]) -> str:
    """Return the sentence for a word that is not one of ``known``."""
    known = list(known)
    near = difflib.get_close_matches(text.strip().lower(), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {text.strip()!r} (known: {', '.join(known)}){hint}"
