"""Says what there is, what works, and for what is missing the one thing to do."""

from __future__ import annotations

import dataclasses
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pytest_webaccel.browsers import Installation, drivable, find_all
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.browsers.install.ort import ort_dist, ort_version
from pytest_webaccel.browsers.probe import lanes_table, probe_sync
from pytest_webaccel.browsers.settings import chromium_settings, has_gpu
from pytest_webaccel.errors import InstallError
from pytest_webaccel.terms import Browser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.terms import ProbeResult

__all__ = ["Examination", "doctor", "examine"]

_SHOWN_LIMITS = (
    "maxBufferSize",
    "maxStorageBufferBindingSize",
    "maxComputeWorkgroupSizeX",
    "maxComputeInvocationsPerWorkgroup",
    "operators_cpu",
    "operators_gpu",
    "operators_npu",
)


@dataclasses.dataclass(frozen=True)
class Examination:
    """What was found. ``healthy`` is true when a browser's accelerated lane works and onnxruntime-web is there."""

    installations: tuple[Installation, ...]
    lanes: tuple[ProbeResult, ...]
    ort: str
    ort_folder: str
    ort_remedy: str

    @property
    def healthy(self) -> bool:
        """Whether tests can run on an accelerated lane of a browser."""
        lanes = [result.lane for result in self.lanes if result.works and result.lane.browser is not Browser.DENO]
        return not self.ort_remedy and any(lane.accelerated for lane in lanes)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-safe form."""
        return {
            "plugin": _plugin_version(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "gpu_device_found": has_gpu(),
            "cache": str(cache_root()),
            "browsers": [
                {
                    "browser": str(found.browser),
                    "version": found.version,
                    "source": found.source,
                    "executable": str(found.executable),
                    "supported": drivable(found.browser),
                }
                for found in self.installations
            ],
            "lanes": [result.to_json() for result in self.lanes],
            "onnxruntime_web": {"version": self.ort, "folder": self.ort_folder, "remedy": self.ort_remedy},
            "healthy": self.healthy,
        }

    def to_text(self) -> str:
        """Return the form for people, plain text, no line depends on colour."""
        lines = [
            f"pytest-webaccel {_plugin_version()}, Python {platform.python_version()}, {platform.platform()}",
            f"GPU device: {'found' if has_gpu() else 'none found, software adapters are used'}",
            f"cache: {cache_root()}",
            "",
            "Browsers",
            *_browser_lines(self.installations),
            "",
            "Lanes",
            *_lane_lines(self.lanes),
            "",
            "onnxruntime-web",
            f"  {self.ort_remedy}" if self.ort_remedy else f"  {self.ort}  {self.ort_folder}",
        ]
        if any(setting.flag == "--no-sandbox" for setting in chromium_settings()):
            lines += ["", "Chromium runs without its sandbox, because this user is root."]
        verdict = "ready" if self.healthy else "not ready: see what is missing above"
        return "\n".join([*lines, "", f"Verdict: {verdict}"])


def _plugin_version() -> str:
    try:
        return metadata.version("pytest-webaccel")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _browser_lines(installations: Sequence[Installation]) -> list[str]:
    if not installations:
        return ["  none found. Run `python -m pytest_webaccel install`."]
    return _columns(
        [
            (
                str(found.browser),
                found.version or "unknown version",
                found.source,
                str(found.executable),
                "" if drivable(found.browser) else "found; lanes for it are not supported in this version",
            )
            for found in installations
        ]
    )


def _lane_lines(results: Sequence[ProbeResult]) -> list[str]:
    lines: list[str] = []
    heads = _columns(
        [
            (
                str(result.lane),
                "works" if result.works else "no",
                str(result.evidence) if result.works else "-",
                result.adapter if result.works else result.reason,
            )
            for result in results
        ]
    )
    for head, result in zip(heads, results, strict=True):
        lines.append(head)
        if not result.works:
            lines.append(f"      to do: {result.remedy}")
            continue
        if result.features:
            lines.append(f"      features: {', '.join(result.features)}")
        limits = [f"{name} {result.limits[name]}" for name in _SHOWN_LIMITS if name in result.limits]
        if limits:
            lines.append(f"      limits: {', '.join(limits)}")
    return lines


def examine(*, refresh: bool = False) -> Examination:
    """Look for browsers, probe their lanes (``refresh``: forget what is remembered) and onnxruntime-web."""
    installations = find_all()
    results = list(lanes_table(refresh=refresh))
    tried = {result.executable for result in results}
    others = [found for found in installations if str(found.executable) not in tried and drivable(found.browser)]
    for other in others:  # a second Chromium is probed too, so that the choice between them can be seen
        results += [_named(result, other) for result in probe_sync([other], refresh=refresh)]
    try:
        folder = ort_dist(None)
    except InstallError as error:
        return Examination(installations, tuple(results), "", "", str(error))
    return Examination(installations, tuple(results), ort_version(folder), str(folder), "")


def _named(result: ProbeResult, installation: Installation) -> ProbeResult:
    """Say of which executable a further result of the same lane is."""
    shown = f"{result.adapter} " if result.adapter else ""
    return dataclasses.replace(result, adapter=f"{shown}({installation.source}: {installation.executable})")


def doctor(*, refresh: bool = False) -> str:
    """Return the examination as text."""
    return examine(refresh=refresh).to_text()
