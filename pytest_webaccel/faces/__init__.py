"""What tests hold in their hands: synchronous faces of a lease, of the pool and of the faults."""

from __future__ import annotations

from pytest_webaccel.faces.arguments import Manner
from pytest_webaccel.faces.faults import Faults
from pytest_webaccel.faces.lane import WebAccel
from pytest_webaccel.faces.pool import PoolFace

__all__ = ["Faults", "Manner", "PoolFace", "WebAccel"]
