"""Programs as a page computes them on the CPU, by functions of ``kernels/built``: WebAssembly, made from C."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.engines.kernels.dispatch import Dispatch
from pytest_webaccel.engines.kernels.manifest import manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_webaccel.engines.kernels.dispatch import Operand
    from pytest_webaccel.engines.kernels.program import Output

__all__ = ["on_cpu"]


def on_cpu(
    kernel: str,
    inputs: Mapping[str, Operand],
    outputs: Mapping[str, Output],
    uniform: Sequence[int],
    form: Mapping[str, int],
    given: Mapping[str, int],
) -> Dispatch:
    """Return how a CPU computes a program: a function of the inputs, the outputs, and ``uniform`` with constants.

    ``form`` has the constants by name; their order is in the manifest. Raises ConfigurationError where tunable ones are
    ``given``: there are none.
    """
    made = manifest(kernel, "cpu")
    return Dispatch(
        kernel=made.name,
        source=made.digest,
        code="",
        entry=made.entry,
        constants=made.constants(given),
        bindings=(*inputs, *outputs, "uniform"),
        inputs=inputs,
        outputs=outputs,
        uniform=(*uniform, *(form[name] for name in made.fixed)),
        workgroups=(1, 1, 1),
        form=form,
    )
