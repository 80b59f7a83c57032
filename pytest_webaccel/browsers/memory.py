"""What probes found earlier, kept by everything that could change the answer.

A file that is torn, too long or not of the right form is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.terms import Backend, Lane, ProbeResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.browsers.locate import Installation

__all__ = ["graphics_driver", "key", "recall", "remember"]

#: Bytes of a remembered probe at most.
_LIMIT = 256 * 1024
_FORM = 2
_MODULES = frozenset({"amdgpu", "i915", "nouveau", "nvidia", "xe"})


def graphics_driver(root: Path = Path("/")) -> str:
    """Return what identifies this machine's graphics driver: module versions, device ids and the kernel."""
    parts = [platform.system(), platform.release()]
    for pattern in (
        "proc/driver/nvidia/version",
        "sys/module/*/version",
        "sys/class/drm/card*/device/vendor",
        "sys/class/drm/card*/device/device",
        "usr/share/vulkan/icd.d/*.json",
    ):
        for path in sorted(root.glob(pattern)):
            if pattern.startswith("sys/module") and path.parent.name not in _MODULES:
                continue
            with contextlib.suppress(OSError):
                parts.append(f"{path}={path.read_text(errors='replace')[:400].strip()}")
    # Someone who joins the render group gains the GPU without anything else changing.
    parts += [f"{path}={os.access(path, os.R_OK | os.W_OK)}" for path in sorted(root.glob("dev/dri/renderD*"))]
    return "\n".join(parts)


def key(installation: Installation, arguments: Sequence[str], script: str) -> str:
    """Return the name under which a probe of ``installation``, started with ``arguments``, is remembered."""
    try:
        status = installation.executable.stat()
        build = [status.st_mtime_ns, status.st_size]
    except OSError:
        build = [0, 0]
    facts = [
        _FORM,
        str(installation.browser),
        str(installation.executable),
        installation.version,
        build,
        sorted(installation.environment.items()),
        list(arguments),
        graphics_driver(),
        script,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _file(name: str) -> Path:
    return cache_root() / "probes" / f"{name}.json"


def recall(name: str, installation: Installation) -> tuple[ProbeResult, ...] | None:
    """Return the results remembered under ``name`` for ``installation``; None when there are none that hold."""
    try:
        with _file(name).open("rb") as stream:
            data = stream.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            return None
        results = tuple(ProbeResult.from_json(item) for item in json.loads(data)["results"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    if {result.lane for result in results} != {Lane(installation.browser, backend) for backend in Backend}:
        return None
    return results if all(result.executable == str(installation.executable) for result in results) else None


def remember(name: str, results: Sequence[ProbeResult]) -> None:
    """Keep ``results`` under ``name``. A cache that cannot be written costs time, not the run."""
    target = _file(name)
    text = json.dumps({"results": [result.to_json() for result in results]})
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".probe-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            Path(temporary).replace(target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
