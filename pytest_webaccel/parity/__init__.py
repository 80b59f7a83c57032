"""Parity: whether lanes give the same answers. Imports NumPy, so nothing imports it at start."""

from __future__ import annotations

from pytest_webaccel.parity.blame import Blame, NondeterministicError, find_blame
from pytest_webaccel.parity.compare import Comparison, Difference, compare, compare_all, message
from pytest_webaccel.parity.operators import model_tolerances
from pytest_webaccel.parity.reference import run_reference
from pytest_webaccel.parity.tolerance import EXACT, TOLERANCES, Tolerance, tolerance_for, ulp_distance

__all__ = [
    "EXACT",
    "TOLERANCES",
    "Blame",
    "Comparison",
    "Difference",
    "NondeterministicError",
    "Tolerance",
    "compare",
    "compare_all",
    "find_blame",
    "message",
    "model_tolerances",
    "run_reference",
    "tolerance_for",
    "ulp_distance",
]
