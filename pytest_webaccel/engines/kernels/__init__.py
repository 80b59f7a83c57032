"""Engine ``kernels``: this project's own kernels. It imports NumPy, so nothing imports it at start.

What runs lies in the folder ``kernels``, a folder a kernel; here is what is sent to a page for it.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pytest_webaccel.engines.kernels.attention import attention
from pytest_webaccel.engines.kernels.dispatch import Dispatch, Target
from pytest_webaccel.engines.kernels.embedding import embedding
from pytest_webaccel.engines.kernels.manifest import Manifest, manifest
from pytest_webaccel.engines.kernels.matmul import matmul_nbits
from pytest_webaccel.engines.kernels.plan import Computation, Plan
from pytest_webaccel.engines.kernels.program import Program, Tensor
from pytest_webaccel.engines.kernels.rows import add, gelu, layer_norm, mean_pool, rope, self_attention, silu, softmax
from pytest_webaccel.engines.kernels.state import State
from pytest_webaccel.engines.kernels.weights import Resident
from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "KEPT",
    "KERNELS",
    "Computation",
    "Dispatch",
    "Manifest",
    "Plan",
    "Program",
    "Resident",
    "State",
    "Target",
    "Tensor",
    "manifest",
    "program",
]

#: What makes the program of a kernel, by its name.
KERNELS: Mapping[str, Callable[..., Program]] = {
    "add": add,
    "attention": attention,
    "embedding": embedding,
    "gelu": gelu,
    "layer_norm": layer_norm,
    "matmul_nbits": matmul_nbits,
    "mean_pool": mean_pool,
    "rope": rope,
    "self_attention": self_attention,
    "silu": silu,
    "softmax": softmax,
}

#: Inputs that are weights, by kernel: a tuner has them stay on the device, as a model would.
KEPT: Mapping[str, tuple[str, ...]] = {
    "embedding": ("table",),
    "layer_norm": ("weight", "bias"),
    "matmul_nbits": ("weights",),
}


def program(name: str, inputs: Mapping[str, Any], constants: Mapping[str, int] | None = None) -> Program:
    """Return the program of the kernel ``name``.

    Raises ConfigurationError for a kernel that there is not, or inputs that it does not take.
    """
    if name not in KERNELS:
        raise ConfigurationError(f"there is no kernel {name!r} (known: {', '.join(KERNELS)})")
    try:
        given = inspect.signature(KERNELS[name]).bind(**inputs, constants=constants)
    except TypeError as error:
        raise ConfigurationError(f"kernel {name}: {error}") from None
    return KERNELS[name](*given.args, **given.kwargs)
