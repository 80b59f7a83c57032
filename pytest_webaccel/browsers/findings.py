"""From what the probe page saw to what the rest of the project believes.

Pure: no browser, no clock, no file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_webaccel.terms import Backend, Evidence, Lane, ProbeResult

if TYPE_CHECKING:
    from pytest_webaccel.browsers.locate import Installation

__all__ = ["failed", "is_software", "judge", "timed_out"]

#: Names by which software renderers give themselves away.
_SOFTWARE = re.compile(
    r"swiftshader|llvmpipe|lavapipe|softpipe|microsoft basic render|\bwarp\b|software|\bcpu\b", re.IGNORECASE
)
#: Characters of a page's text that are kept; it goes into tables and reports.
_TEXT = 400
_FEATURES = 200
_LIMITS = 200

#: WebNN's devices, and the one that lanes ask for.
_WEBNN_DEVICES = ("cpu", "gpu", "npu")
_WEBNN_LANE = "cpu"

_REMEDY: Mapping[Backend, str] = {
    Backend.WEBGPU: (
        "Install the browser that runs WebGPU without a GPU: `python -m pytest_webaccel install`; with a GPU, check "
        "its Vulkan driver."
    ),
    Backend.WEBNN: "Install the browser that brings WebNN: `python -m pytest_webaccel install`.",
    Backend.CPU: "Use a browser with WebAssembly SIMD: `python -m pytest_webaccel install`.",
}


def is_software(adapter: str, *, fallback: bool) -> bool:
    """Return whether an adapter computes on the CPU: it says so, or it bears a software renderer's name.

    An adapter that does not say what it is (an empty name) counts as software: hardware must be shown.
    """
    return fallback or not adapter.strip() or _SOFTWARE.search(adapter) is not None


def judge(installation: Installation, seen: object) -> tuple[ProbeResult, ...]:
    """Return one result for each backend from what ``probe.js`` resolved to.

    Raises ValueError when ``seen`` is not of that form.
    """
    if not isinstance(seen, Mapping):
        raise ValueError(f"the probe page answered {type(seen).__name__}, not an object")  # noqa: TRY004 - one error for every malformed answer
    findings = {backend: _finding(seen, backend) for backend in Backend}
    gpu = findings[Backend.WEBGPU]
    hardware = gpu["works"] is True and not is_software(str(gpu["adapter"]), fallback=gpu["fallback"] is True)
    evidence = {
        Backend.WEBGPU: Evidence.HARDWARE if hardware else Evidence.SOFTWARE,
        # Lanes take WebNN's cpu context, whatever else the browser offers.
        Backend.WEBNN: Evidence.SOFTWARE,
        Backend.CPU: Evidence.SOFTWARE,
    }
    findings[Backend.WEBNN] = _as_lanes_use_it(findings[Backend.WEBNN])
    return tuple(_result(installation, backend, finding, evidence[backend]) for backend, finding in findings.items())


def _as_lanes_use_it(webnn: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the WebNN finding for its ``cpu`` context, the one that lanes take."""
    devices = [device for device in _WEBNN_DEVICES if device in webnn["features"]]
    others = ", ".join(device for device in devices if device != _WEBNN_LANE)
    if webnn["works"] is True and _WEBNN_LANE not in devices:
        reason = f"lanes take WebNN's {_WEBNN_LANE} context, and only {others or 'none'} worked"
        return {**webnn, "works": False, "reason": reason}
    adapter = f"{_WEBNN_LANE} context" if _WEBNN_LANE in devices else ""
    return {**webnn, "adapter": f"{adapter} (also offered: {others})" if others else adapter}


def _finding(seen: Mapping[Any, Any], backend: Backend) -> Mapping[str, Any]:
    finding = seen.get(str(backend))
    wanted = {"works", "timedOut", "reason", "adapter", "fallback", "accelerated", "features", "limits"}
    if not isinstance(finding, Mapping) or not wanted <= set(finding):
        raise ValueError(f"the probe page said nothing usable about {backend}")
    if not isinstance(finding["features"], list) or not isinstance(finding["limits"], Mapping):
        raise ValueError(f"the probe page's features or limits of {backend} are malformed")  # noqa: TRY004 - likewise
    return finding


def _result(
    installation: Installation, backend: Backend, finding: Mapping[str, Any], evidence: Evidence
) -> ProbeResult:
    works = finding["works"] is True
    limits = {
        str(name)[:80]: int(value)
        for name, value in list(finding["limits"].items())[:_LIMITS]
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    return ProbeResult(
        lane=Lane(installation.browser, backend),
        works=works,
        evidence=evidence,
        version=installation.version,
        executable=str(installation.executable),
        adapter=str(finding["adapter"])[:_TEXT],
        features=tuple(str(feature)[:80] for feature in finding["features"][:_FEATURES]),
        limits=limits,
        reason="" if works else _sentence(str(finding["reason"])[:_TEXT]),
        remedy="" if works else _REMEDY[backend],
    )


def timed_out(seen: object) -> bool:
    """Return whether any answer of the page was a deadline; such a finding is not worth remembering."""
    return isinstance(seen, Mapping) and any(
        isinstance(finding, Mapping) and finding.get("timedOut") is True for finding in seen.values()
    )


def failed(lane: Lane, reason: str, remedy: str, installation: Installation | None = None) -> ProbeResult:
    """Return the result of a lane that could not even be tried."""
    return ProbeResult(
        lane=lane,
        works=False,
        evidence=Evidence.SOFTWARE,
        version=installation.version if installation else "",
        executable=str(installation.executable) if installation else "",
        reason=_sentence(reason),
        remedy=remedy,
    )


def _sentence(text: str) -> str:
    """Return ``text`` with a full stop, since a remedy follows it."""
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."
