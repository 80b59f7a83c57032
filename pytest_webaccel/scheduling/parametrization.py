"""Gives tests their lanes: one item a lane that fits, and one skipped item for each that was asked for in vain."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.markers import Requirement, fault_plans, requirement
from pytest_webaccel.scheduling.session import session_of
from pytest_webaccel.terms import MENDING, ON_REQUEST, Mode, ProbeResult, Strategy

if TYPE_CHECKING:
    from pytest_webaccel.options import Settings

__all__ = ["Choice", "choices", "generate", "granted"]


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What one item gets: a lane, or why it has none. ``problem`` is a marker that cannot be meant."""

    name: str
    probe: ProbeResult | None = None
    objection: str = ""
    problem: str = ""


def choices(wanted: Requirement, table: tuple[ProbeResult, ...], settings: Settings) -> list[Choice]:
    """Return the items of a test that asks for ``wanted``, at least one.

    Lanes that were asked for by name, in the marker or the settings, show up also where they do not
    work; others only where they do.
    """
    named = bool(wanted.browsers or wanted.backends or settings.lanes or settings.browsers or settings.backends)
    found = []
    reasons = []
    for probe in table:
        if not wanted.names(probe.lane):
            continue
        objection = wanted.objection(probe)
        if objection:
            reasons.append(f"{probe.lane}: {objection}")
        if not objection or named:
            found.append(Choice(str(probe.lane), probe, objection))
    if found:
        return found
    asleep = [browser for browser in wanted.browsers if browser in ON_REQUEST]
    unasked = f"{' and '.join(asleep)} joins a run only where --webaccel-browser or --webaccel-lanes names it"
    absent = unasked if asleep else "this run has no such lane; --webaccel-lanes and the like may leave it out"
    why = "; ".join(reasons) or absent
    return [Choice("no-lane", None, f"no lane for {wanted}: {why}")]


def generate(metafunc: pytest.Metafunc) -> None:
    """Parametrise a test that uses a lane: over lanes, in comparative mode over strategies, over engines if several."""
    session = session_of(metafunc.config)
    names = set(metafunc.fixturenames)
    by_itself = (
        "webaccel_page" in names and "webaccel" not in names
    )  # an app has an engine of its own, and mends itself
    if "webaccel_ort" in names and len(session.settings.ort) > 1 and not by_itself:
        from pytest_webaccel.browsers.install.ort import ort_versions

        copies = session.settings.ort
        metafunc.parametrize("webaccel_ort", copies, ids=[f"ort{name}" for name in ort_versions(copies)], indirect=True)
    if "webaccel_lane" not in names:
        return
    try:
        items = choices(requirement(metafunc.definition), session.table, session.settings)
        faulty = bool(fault_plans(metafunc.definition))
    except ConfigurationError as error:
        items, faulty = [Choice("misconfigured", problem=str(error))], False
    metafunc.parametrize("webaccel_lane", items, ids=[item.name for item in items], indirect=True)
    if session.settings.mode is Mode.COMPARATIVE and (faulty or session.settings.faults) and not by_itself:
        strategies = [strategy for strategy in Strategy if strategy in MENDING]
        metafunc.parametrize("webaccel_strategy", strategies, ids=list(map(str, strategies)), indirect=True)


def granted(choice: Choice, *, strict: bool) -> ProbeResult:
    """Return the lane of an item; skips, or fails under ``strict``, where there is none."""
    if choice.problem:
        pytest.fail(choice.problem, pytrace=False)
    if choice.objection or choice.probe is None:
        if strict:
            pytest.fail(f"--webaccel-strict: {choice.objection}", pytrace=False)
        pytest.skip(choice.objection)
    return choice.probe
