"""Low-bit weights: quantised, packed, and carried to and from ONNX. It imports NumPy, so nothing imports it at start.

How bits lie in words is in :mod:`~pytest_webaccel.engines.packing.layout`, what is stored of a matrix in
:mod:`~pytest_webaccel.engines.packing.packed`.
"""

from __future__ import annotations

from pytest_webaccel.engines.packing.calibrated import calibrated
from pytest_webaccel.engines.packing.layout import BITS, GROUPS, pack, unpack
from pytest_webaccel.engines.packing.mixed import mix
from pytest_webaccel.engines.packing.nbits import NBits, from_matmul_nbits, to_matmul_nbits
from pytest_webaccel.engines.packing.packed import Packed
from pytest_webaccel.engines.packing.quantise import Search, quantise

__all__ = [
    "BITS",
    "GROUPS",
    "NBits",
    "Packed",
    "Search",
    "calibrated",
    "from_matmul_nbits",
    "mix",
    "pack",
    "quantise",
    "to_matmul_nbits",
    "unpack",
]
