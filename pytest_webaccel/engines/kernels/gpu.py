"""Programs as WebGPU computes them: shaders whose constants are ``override``s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.engines.kernels.dispatch import Dispatch, spread
from pytest_webaccel.engines.kernels.manifest import manifest
from pytest_webaccel.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_webaccel.engines.kernels.dispatch import Operand, Target
    from pytest_webaccel.engines.kernels.program import Output

__all__ = ["on_webgpu", "require_tile", "too_large"]

#: Bytes of a workgroup's own memory that every device has.
_SHARED_BYTES = 16_384


def on_webgpu(
    kernel: str,
    target: Target,
    inputs: Mapping[str, Operand],
    outputs: Mapping[str, Output],
    uniform: Sequence[int],
    form: Mapping[str, int],
    given: Mapping[str, int],
    workgroups: tuple[int, int, int] | None = None,
) -> Dispatch:
    """Return how WebGPU computes a program: a shader that binds the inputs, the outputs, and ``uniform``.

    Without ``workgroups`` an invocation computes one of ``uniform[0]`` parts; how many invocations a row of workgroups
    has is told behind that number then. ``form`` are constants of the shader, ``given`` the tunable ones that were
    asked for. Raises ConfigurationError for one of these that there is not.
    """
    made = manifest(kernel)
    chosen = made.constants(given or made.untuned(target))
    told = tuple(uniform)
    if workgroups is None:
        stride, workgroups = spread(told[0], chosen["WORKGROUP"])
        told = (told[0], stride, *told[1:])
    return Dispatch(
        kernel=made.name,
        source=made.digest,
        code=made.code,
        entry=made.entry,
        constants={**form, **chosen},
        chosen=chosen,
        form=form,
        bindings=(*inputs, *outputs, "uniform"),
        inputs=inputs,
        outputs=outputs,
        uniform=told,
        workgroups=workgroups,
    )


def require_tile(kernel: str, chosen: Mapping[str, int], most: int) -> None:
    """Raise ConfigurationError for a tile of more than ``most`` elements, or too large for invocations to share it."""
    if reason := too_large(chosen, most):
        raise ConfigurationError(f"kernel {kernel}: {reason}")


def too_large(chosen: Mapping[str, int], most: int) -> str:
    """Return why a tile is too large; empty where it is not."""
    tile = chosen["TILE_ROWS"] * chosen["TILE_COLUMNS"]
    shared = 4 * chosen["WORKGROUP"] * tile
    if tile > most:
        return f"a tile of {tile} elements is more than {most}"
    if chosen["SPLIT"] > 1 and shared > _SHARED_BYTES:
        return (
            f"invocations that share a tile keep {shared:,} bytes, more than the {_SHARED_BYTES:,} that every device "
            f"has for a workgroup (maxComputeWorkgroupStorageSize)"
        )
    return ""
