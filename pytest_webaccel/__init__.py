"""Tests for models in real browsers: WebGPU, WebNN and WebAssembly lanes, faults, recovery, evidence."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
