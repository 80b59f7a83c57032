"""Flags, ini values and environment become one frozen :class:`Settings`.

Every option is declared once, in :data:`pytest_webaccel.declarations.OPTIONS`; its flag, its ini twin and
its environment variable follow from its name. A flag beats the environment, the environment beats the ini file.
"""

from __future__ import annotations

import dataclasses
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_webaccel.declarations import OPTIONS, Option
from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.faults.plans import plans_of
from pytest_webaccel.terms import Backend, Browser, Fault, FaultPlan, FaultPoint, Lane, Mode, Strategy
from pytest_webaccel.words import pick

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

__all__ = ["Settings", "parse_faults"]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


#: Warm spares of a lane at most: each is a whole browser.
_MOST_SPARES = 4


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


def parse_faults(text: str) -> tuple[FaultPlan, ...]:
    """Return the plan that ``FAULT`` or ``FAULT@POINT`` names, or those of a level; raises ValueError."""
    name, separator, point = text.partition("@")
    return plans_of(name, pick(FaultPoint, point)) if separator else plans_of(name)


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


def _app(text: str, base: Path) -> str:
    if not text.strip():
        raise ValueError("neither a folder nor an address is given")
    return text.strip() if "://" in text else str(_path(text, base))


def _seed(text: str, _base: Path) -> int:
    try:
        seed = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None
    if not 0 <= seed < 2**64:
        raise ValueError(f"{text!r} is outside 0 to 2**64 - 1")
    return seed


def _spares(text: str, _base: Path) -> int:
    if text.strip() not in {str(number) for number in range(_MOST_SPARES + 1)}:
        raise ValueError(f"{text!r} is not a whole number from 0 to {_MOST_SPARES}")
    return int(text)


def _number(text: str, low: float, high: float, unit: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not low <= number <= high:  # also refuses nan
        raise ValueError(f"{text!r} is outside {low:g} to {high:g} {unit}".rstrip())
    return number


def _budget(text: str, _base: Path) -> float:
    seconds = _number(text, 0, 86_400, "seconds")
    if seconds == 0:
        raise ValueError("0 seconds leave no time to recover; to see what faults do without it, use recovery none")
    return seconds


#: How the text of each option is read, by the field it fills: from the text and the folder that relative paths
#: start from. Each raises ValueError.
_PARSERS: Mapping[str, Callable[[str, Path], Any]] = {
    "browsers": lambda text, _: tuple(pick(Browser, part) for part in _parts(text)),
    "backends": lambda text, _: tuple(pick(Backend, part) for part in _parts(text)),
    "lanes": lambda text, _: tuple(_lane(part) for part in _parts(text)),
    "mode": lambda text, _: pick(Mode, text),
    "faults": lambda text, _: tuple(dict.fromkeys(plan for part in _parts(text) for plan in parse_faults(part))),
    "recovery": lambda text, _: pick(Strategy, text),
    "budget_s": _budget,
    "spares": _spares,
    "db": _path,
    "report": _path,
    "seed": _seed,
    "strict": _switch,
    "min_success": lambda text, _: _number(text, 0, 1, ""),
    "max_recovery_ms": lambda text, _: _number(text, 0, 1e9, "ms"),
    "cases": _path,
    "expectations": _path,
    "ort": _path,
    "app": _app,
    "executable": _path,
    "headed": _switch,
    "doctor": _switch,
}


#: Fields that hold a path, or nothing.
_PATHS = ("db", "report", "cases", "expectations", "executable")


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What one run was asked to do.

    ``None`` in ``browsers``, ``backends`` and ``lanes`` means: whatever works here. ``min_success`` is
    a share from 0 to 1, ``max_recovery_ms`` milliseconds, ``budget_s`` seconds of one recovery. ``ort`` are copies of
    onnxruntime-web, the pinned one where there is none. ``given`` names the fields that somebody set.
    """

    browsers: tuple[Browser, ...] | None = None
    backends: tuple[Backend, ...] | None = None
    mode: Mode = Mode.BASIC
    faults: tuple[FaultPlan, ...] = ()
    recovery: Strategy = Strategy.COORDINATED
    budget_s: float = 120.0
    spares: int = 0
    lanes: tuple[Lane, ...] | None = None
    db: Path | None = None
    report: Path | None = None
    seed: int = 0
    strict: bool = False
    min_success: float | None = None
    max_recovery_ms: float | None = None
    cases: Path | None = None
    expectations: Path | None = None
    ort: tuple[Path, ...] = ()
    app: str | None = None
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
                values[option.field] = _read(option, raw, base)
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
        for name in _PATHS:
            data[name] = None if data[name] is None else str(data[name])
        data["ort"] = [str(path) for path in self.ort]
        data["lanes"] = None if self.lanes is None else [str(lane) for lane in self.lanes]
        for name in ("browsers", "backends"):
            data[name] = None if data[name] is None else [str(word) for word in data[name]]
        data["faults"] = [_plan_to_json(plan) for plan in self.faults]
        return {**data, "mode": str(self.mode), "recovery": str(self.recovery), "given": sorted(self.given)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """Return the settings that :meth:`to_json` wrote; raises KeyError or ValueError on anything else."""
        values = dict(data)
        for name in _PATHS:
            values[name] = None if data[name] is None else Path(data[name])
        values["ort"] = tuple(Path(path) for path in data["ort"])
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


def _read(option: Option, raw: object, base: Path) -> Any:
    """Return the value of an option from what was found of it; raises ValueError."""
    if isinstance(raw, bool):
        return raw
    parse = _PARSERS[option.field]
    if not option.many:
        return parse(str(raw), base)
    texts = raw if isinstance(raw, list) else str(raw).split(os.pathsep)
    return tuple(dict.fromkeys(parse(str(text), base) for text in texts))


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
