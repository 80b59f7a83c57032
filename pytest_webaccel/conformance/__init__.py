"""Operator conformance: the ONNX backend's node tests on every lane.

``pytest --pyargs pytest_webaccel.conformance -n 2`` runs them all; ``-k`` picks some. What is known to fail stands in a
file of expectations (:mod:`~pytest_webaccel.conformance.expectations`), so that only news fails.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["EXPECTATIONS"]

#: What is expected of the pinned onnxruntime-web in the pinned Chromium.
EXPECTATIONS = Path(__file__).with_name("expectations.txt")
