"""The table of lanes: what really works on this machine, within what the run was asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_webaccel.errors import WebAccelError
from pytest_webaccel.terms import Backend, Browser, Evidence, Lane, ProbeResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_webaccel.options import Settings

__all__ = ["fake_table", "lane_of", "lane_table", "summary", "weakest"]

_TOKEN = re.compile(rf"(?:^|[\[-])((?:{'|'.join(Browser)}):(?:{'|'.join(Backend)}))(?=[\]-]|$)")
_GRADES = (Evidence.FAKE, Evidence.SOFTWARE, Evidence.HARDWARE)


def fake_table() -> tuple[ProbeResult, ...]:
    """Return the lanes of the fake browser, which need no probe: it does what it says."""
    return tuple(
        ProbeResult(lane=Lane(Browser.FAKE, backend), works=True, evidence=Evidence.FAKE, version="fake")
        for backend in Backend
    )


def lane_table(settings: Settings) -> tuple[ProbeResult, ...]:
    """Return every lane that ``settings`` admit, working or not, the fake ones only where asked for.

    Real browsers are probed (from the cache where that still holds). Never raises for a machine on
    which nothing works: a probe that could not be done at all is the reason in every one of its lanes.
    """
    asked = _asked_browsers(settings)
    table: tuple[ProbeResult, ...] = ()
    if asked is None or asked - {Browser.FAKE}:
        table = _probe(settings, None if asked is None else tuple(sorted(asked - {Browser.FAKE})))
    if asked is not None and Browser.FAKE in asked:
        table += fake_table()
    known = {result.lane for result in table}
    table += tuple(_missing(lane) for lane in settings.wanted_lanes if lane not in known)
    return tuple(result for result in table if settings.admits(result.lane))


def _asked_browsers(settings: Settings) -> set[Browser] | None:
    if settings.lanes is not None:
        return {lane.browser for lane in settings.lanes}
    return None if settings.browsers is None else set(settings.browsers)


def _probe(settings: Settings, browsers: tuple[Browser, ...] | None) -> tuple[ProbeResult, ...]:
    from pytest_webaccel.browsers import probe

    try:
        return tuple(probe.lanes_table(browsers, executable=settings.executable, headed=settings.headed))
    except WebAccelError as error:
        return tuple(
            ProbeResult(Lane(browser, backend), works=False, evidence=Evidence.SOFTWARE, reason=str(error))
            for browser in browsers or (Browser.CHROMIUM,)
            for backend in Backend
        )


def _missing(lane: Lane) -> ProbeResult:
    return ProbeResult(
        lane,
        works=False,
        evidence=Evidence.SOFTWARE,
        reason=f"{lane.browser} has no {lane.backend} lane on this machine.",
        remedy="python -m pytest_webaccel doctor shows what there is.",
    )


def lane_of(nodeid: str) -> Lane | None:
    """Return the lane whose token is in the bracket of a test id, as in ``test_x[chromium:webgpu-foo]``."""
    _, bracket, rest = nodeid.partition("[")
    found = _TOKEN.search(bracket + rest) if bracket else None
    return Lane.parse(found.group(1)) if found else None


def weakest(grades: Iterable[Evidence]) -> Evidence:
    """Return the weakest of ``grades``: fake, then software, then hardware; fake when there are none."""
    return min(grades, key=_GRADES.index, default=Evidence.FAKE)


def summary(table: tuple[ProbeResult, ...]) -> str:
    """Return one line that names the working lanes with their evidence, or says why there is none."""
    working = [result for result in table if result.works]
    if working:
        return ", ".join(
            f"{result.lane} ({result.evidence}{', ' + result.adapter if result.adapter else ''})" for result in working
        )
    reasons = {" ".join(part for part in (result.reason, result.remedy) if part): None for result in table}
    return "no lane works here: " + ("; ".join(list(reasons)[:3]) or "no browser was found")
