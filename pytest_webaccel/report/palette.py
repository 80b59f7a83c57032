"""Colours that figures and HTML share: the Okabe-Ito palette, told apart under colour-blindness."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FAILED", "FALLBACK", "INK", "KINDS", "MARKERS", "OTHER", "PHASES", "STRATEGIES"]

#: Text and axes. In SVG it becomes ``currentColor``, so that a figure follows a dark page.
INK = "#1b1f24"

FAILED = "#D55E00"
OTHER = "#8A8F98"
FALLBACK = "#CC79A7"

STRATEGIES: Mapping[str, str] = {
    "simple": "#E69F00",
    "coordinated": "#1F7FBF",
    "progressive": "#009E73",
    "parallel": "#56B4E9",
    "none": OTHER,
    "worker_restart": "#B0A000",
}

#: A marker a strategy, so that colour is never the only difference.
MARKERS: Mapping[str, str] = {
    "simple": "o",
    "coordinated": "D",
    "progressive": "^",
    "parallel": "s",
    "none": "v",
    "worker_restart": "P",
}

PHASES: Mapping[str, str] = {
    "detect": "#D55E00",
    "reassign": "#E69F00",
    "load": "#56B4E9",
    "restore": "#CC79A7",
    "replay": "#009E73",
    "other": OTHER,
}

#: How a conformance test ended.
KINDS: Mapping[str, str] = {
    "agrees": "#009E73",
    "fell_back": FALLBACK,
    "unsupported": OTHER,
    "not_asked": "#D6DBE1",
    "failed": "#E69F00",
    "wrong_answer": FAILED,
    "not_finite": "#8C2D04",
    "crashed": INK,
    "timed_out": "#56B4E9",
}
