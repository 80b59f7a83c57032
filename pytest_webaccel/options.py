"""Flags, ini values and environment become one frozen :class:`Settings`.

Every option is written once, in :data:`OPTIONS`; its flag, its ini twin and its environment variable
follow from its name. A flag beats the environment, the environment beats the ini file.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.terms import Backend, Browser, Fault, FaultPlan, FaultPoint, Lane, Mode, Strategy
from pytest_webaccel.words import pick

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

__all__ = ["OPTIONS", "Option", "Settings", "add_options", "parse_fault"]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One option: ``name`` as in the flag, the :class:`Settings` field it fills, and how its text is read.

    ``parse`` takes the text and the folder that relative paths start from, and raises ValueError.
    """

    name: str
    field: str
    parse: Callable[[str, Path], Any]
    metavar: str | None
    help: str

    @property
    def flag(self) -> str:
        """The command line flag."""
        return f"--webaccel-{self.name}"

    @property
    def ini(self) -> str:
        """The ini key, which is also the key of the parsed flag."""
        return f"webaccel_{self.name.replace('-', '_')}"

    @property
    def environment(self) -> str:
        """The environment variable."""
        return f"PYTEST_{self.ini.upper()}"

    @property
    def is_switch(self) -> bool:
        """Whether the option is either on or off."""
        return self.metavar is None


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"{text!r} has an empty part; write words separated by single commas")
    return list(dict.fromkeys(parts))


def _lane(text: str) -> Lane:
    browser, separator, backend = text.partition(":")
    if not separator:
        raise ValueError(f"lane {text!r} is not of the form BROWSER:BACKEND, such as chromium:webgpu")
    try:
        return Lane(pick(Browser, browser), pick(Backend, backend))
    except ValueError as error:
        raise ValueError(f"lane {text!r}: {error}") from error


def parse_fault(text: str) -> FaultPlan:
    """Return the plan that ``FAULT`` or ``FAULT@POINT`` names; raises ValueError."""
    name, separator, point = text.partition("@")
    if not separator:
        return FaultPlan(pick(Fault, name))
    return FaultPlan(pick(Fault, name), pick(FaultPoint, point))


def _switch(text: str, _base: Path) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither yes nor no (known: {', '.join(sorted((_TRUE | _FALSE) - {''}))})")


def _path(text: str, base: Path) -> Path:
    if not text.strip():
        raise ValueError("the path is empty")
    return base / Path(text).expanduser()


def _seed(text: str, _base: Path) -> int:
    try:
        seed = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None
    if not 0 <= seed < 2**64:
        raise ValueError(f"{text!r} is outside 0 to 2**64 - 1")
    return seed


def _number(text: str, low: float, high: float, unit: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not low <= number <= high:  # also refuses nan
        raise ValueError(f"{text!r} is outside {low:g} to {high:g} {unit}".rstrip())
    return number


OPTIONS: tuple[Option, ...] = (
    Option(
        "browser",
        "browsers",
        lambda text, _: tuple(pick(Browser, part) for part in _parts(text)),
        "NAME[,NAME]",
        "Browsers to use: chromium, chrome, edge, firefox, webkit, or fake (no browser at all: proves logic, never "
        "performance). Default: every browser found in which something works.",
    ),
    Option(
        "backend",
        "backends",
        lambda text, _: tuple(pick(Backend, part) for part in _parts(text)),
        "NAME[,NAME]",
        "Backends to use: webgpu, webnn, cpu. Default: every one that the probe saw work.",
    ),
    Option(
        "lanes",
        "lanes",
        lambda text, _: tuple(_lane(part) for part in _parts(text)),
        "BROWSER:BACKEND[,...]",
        "Exactly these lanes, such as chromium:webgpu,chromium:cpu. One that this machine lacks shows as skipped "
        "tests with the reason.",
    ),
    Option(
        "mode",
        "mode",
        lambda text, _: pick(Mode, text),
        "MODE",
        "basic (default): each test as written; comparative: each test with a fault under every recovery strategy.",
    ),
    Option(
        "fault",
        "faults",
        lambda text, _: tuple(parse_fault(part) for part in _parts(text)),
        "FAULT[@POINT][,...]",
        "Faults to cause in every test on a lane, such as browser_crash@mid_request,device_lost. Points: before, "
        "mid_request (default).",
    ),
    Option(
        "recovery",
        "recovery",
        lambda text, _: pick(Strategy, text),
        "STRATEGY",
        "How to recover where a test does not say: simple, coordinated (default), none.",
    ),
    Option("db", "db", _path, "FILE", "DuckDB file that keeps every run's results. Default: none is written."),
    Option("report", "report", _path, "FILE", "Write the report as one HTML file; needs no pytest-html."),
    Option(
        "seed", "seed", _seed, "N", "Seed of everything random here. Default: a new one, printed so it can be repeated."
    ),
    Option(
        "strict",
        "strict",
        _switch,
        None,
        "Fail, instead of skip, a test whose lane is not to be had, and fail on silent fallback to the CPU.",
    ),
    Option(
        "min-success",
        "min_success",
        lambda text, _: _number(text, 0, 1, ""),
        "RATE",
        "Gate: fail the run when less than this share (0 to 1) of the caused faults was recovered from.",
    ),
    Option(
        "max-recovery-ms",
        "max_recovery_ms",
        lambda text, _: _number(text, 0, 1e9, "ms"),
        "MS",
        "Gate: fail the run when the 95th percentile of recovery times is above this many milliseconds.",
    ),
    Option(
        "ort",
        "ort",
        _path,
        "DIR",
        "Your own onnxruntime-web, the package's folder or its dist/: the version you ship is the one tested.",
    ),
    Option("executable", "executable", _path, "FILE", "Browser binary to start instead of the one found."),
    Option("headed", "headed", _switch, None, "Show the browsers' windows."),
    Option(
        "doctor", "doctor", _switch, None, "Print what browsers and lanes there are, what is missing and why, and exit."
    ),
)

_BY_FIELD = {option.field: option for option in OPTIONS}


def add_options(parser: pytest.Parser) -> None:
    """Declare every flag and its ini twin."""
    group = parser.getgroup("webaccel", "models in real browsers: lanes, faults, recovery, evidence")
    for option in OPTIONS:
        text = f"{option.help} [{option.ini}, {option.environment}]"
        if option.is_switch:
            group.addoption(
                option.flag, dest=option.ini, default=None, action=argparse.BooleanOptionalAction, help=text
            )
        else:
            group.addoption(option.flag, dest=option.ini, default=None, metavar=option.metavar, help=text)
        parser.addini(option.ini, option.help, default=None)


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What one run was asked to do.

    ``None`` in ``browsers``, ``backends`` and ``lanes`` means: whatever works here. ``min_success`` is
    a share from 0 to 1, ``max_recovery_ms`` milliseconds. ``given`` names the fields that somebody set.
    """

    browsers: tuple[Browser, ...] | None = None
    backends: tuple[Backend, ...] | None = None
    mode: Mode = Mode.BASIC
    faults: tuple[FaultPlan, ...] = ()
    recovery: Strategy = Strategy.COORDINATED
    lanes: tuple[Lane, ...] | None = None
    db: Path | None = None
    report: Path | None = None
    seed: int = 0
    strict: bool = False
    min_success: float | None = None
    max_recovery_ms: float | None = None
    ort: Path | None = None
    headed: bool = False
    doctor: bool = False
    executable: Path | None = None
    given: frozenset[str] = frozenset()

    @classmethod
    def from_config(cls, config: pytest.Config, environment: Mapping[str, str] = os.environ) -> Settings:
        """Return the settings of a pytest run; a seed is drawn when none is given.

        Raises ConfigurationError naming the source, the bad value and the known words.
        """
        values: dict[str, Any] = {"seed": random.SystemRandom().randrange(2**32)}
        given = set()
        for option in OPTIONS:
            found = _find(option, config, environment)
            if found is None:
                continue
            source, raw, base = found
            try:
                values[option.field] = raw if isinstance(raw, bool) else option.parse(str(raw), base)
            except ValueError as error:
                raise ConfigurationError(f"{source}: {error}") from error
            given.add(option.field)
        return cls(**values, given=frozenset(given))

    @property
    def wanted_lanes(self) -> tuple[Lane, ...]:
        """The lanes that are wholly named by these settings; empty when any half is left open."""
        if self.lanes is not None:
            return self.lanes
        if self.browsers is None or self.backends is None:
            return ()
        return tuple(Lane(browser, backend) for browser in self.browsers for backend in self.backends)

    def admits(self, lane: Lane) -> bool:
        """Whether ``lane`` is within what these settings restrict the run to."""
        if self.lanes is not None and lane not in self.lanes:
            return False
        if self.browsers is not None and lane.browser not in self.browsers:
            return False
        return self.backends is None or lane.backend in self.backends

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-safe dict that :meth:`from_json` reads back, in another process."""
        data = dataclasses.asdict(self)
        for name in ("db", "report", "ort", "executable"):
            data[name] = None if data[name] is None else str(data[name])
        data["lanes"] = None if self.lanes is None else [str(lane) for lane in self.lanes]
        for name in ("browsers", "backends"):
            data[name] = None if data[name] is None else [str(word) for word in data[name]]
        data["faults"] = [_plan_to_json(plan) for plan in self.faults]
        return {**data, "mode": str(self.mode), "recovery": str(self.recovery), "given": sorted(self.given)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """Return the settings that :meth:`to_json` wrote; raises KeyError or ValueError on anything else."""
        values = dict(data)
        for name in ("db", "report", "ort", "executable"):
            values[name] = None if data[name] is None else Path(data[name])
        for name, read in (("browsers", Browser), ("backends", Backend), ("lanes", Lane.parse)):
            values[name] = None if data[name] is None else tuple(read(word) for word in data[name])
        values["faults"] = tuple(_plan_from_json(plan) for plan in data["faults"])
        return cls(
            **{
                **values,
                "mode": Mode(data["mode"]),
                "recovery": Strategy(data["recovery"]),
                "given": frozenset(data["given"]),
            }
        )


def _plan_to_json(plan: FaultPlan) -> dict[str, Any]:
    recovery = None if plan.recovery is None else str(plan.recovery)
    return {"fault": str(plan.fault), "at": str(plan.at), "times": plan.times, "recovery": recovery}


def _plan_from_json(data: Mapping[str, Any]) -> FaultPlan:
    recovery = None if data["recovery"] is None else Strategy(data["recovery"])
    return FaultPlan(Fault(data["fault"]), FaultPoint(data["at"]), int(data["times"]), recovery)


def _find(option: Option, config: pytest.Config, environment: Mapping[str, str]) -> tuple[str, object, Path] | None:
    """Return where the option was set, its raw value and the folder its relative paths start from."""
    flag = config.getoption(option.ini, default=None)
    if flag is not None:
        return option.flag, flag, config.invocation_params.dir
    text = environment.get(option.environment)
    if text:
        return f"environment variable {option.environment}", text, config.invocation_params.dir
    ini = config.getini(option.ini)
    if ini:
        where = config.inipath
        return (
            f"{option.ini} in {where.name if where else 'the ini file'}",
            ini,
            where.parent if where else config.rootpath,
        )
    return None
