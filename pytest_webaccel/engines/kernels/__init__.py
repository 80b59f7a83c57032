"""Engine ``kernels``: this project's own kernels. It imports NumPy, so nothing imports it at start.

What runs lies in the folder ``kernels``, a folder a kernel; here is what is sent to a page for it.
"""

from __future__ import annotations

from pytest_webaccel.engines.kernels.manifest import Manifest, manifest
from pytest_webaccel.engines.kernels.matmul import matmul_nbits
from pytest_webaccel.engines.kernels.program import Program

__all__ = ["KERNELS", "Manifest", "Program", "manifest", "matmul_nbits"]

#: What makes the program of a kernel, by its name.
KERNELS = {"matmul_nbits": matmul_nbits}
