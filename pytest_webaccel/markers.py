"""Markers become requirements on a lane and plans for faults."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.faults.plans import plans_of
from pytest_webaccel.terms import (
    ACCELERATED,
    Backend,
    Browser,
    Evidence,
    Family,
    Fault,
    FaultPlan,
    FaultPoint,
    Lane,
    Level,
    ProbeResult,
    Strategy,
)
from pytest_webaccel.words import pick, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pytest

__all__ = ["Requirement", "check", "fault_choices", "fault_plans", "requirement"]

Word = TypeVar("Word", bound=enum.StrEnum)


@dataclasses.dataclass(frozen=True, slots=True)
class Requirement:
    """What a test asks of its lane; an empty tuple asks for nothing."""

    browsers: tuple[Browser, ...] = ()
    backends: tuple[Backend, ...] = ()
    features: tuple[str, ...] = ()
    families: tuple[Family, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    @property
    def family(self) -> str:
        """The model family as a row stores it: one word, or several with commas."""
        return ",".join(self.families)

    @property
    def accelerated(self) -> bool:
        """Whether an accelerated lane could satisfy this at all."""
        return not self.backends or not ACCELERATED.isdisjoint(self.backends)

    def names(self, lane: Lane) -> bool:
        """Whether ``lane`` is one of those asked for, whatever was probed."""
        return (not self.browsers or lane.browser in self.browsers) and (
            not self.backends or lane.backend in self.backends
        )

    def objection(self, result: ProbeResult) -> str:
        """Return why a lane does not do, in words for a person; empty when it does."""
        if not result.works:
            return " ".join(part for part in (result.reason or "it does not work here", result.remedy) if part)
        if missing := [feature for feature in self.features if feature not in result.features]:
            return f"the test needs {', '.join(missing)}, which {result.adapter or 'the adapter'} does not report"
        if self.evidence and result.evidence not in self.evidence:
            return f"the test needs evidence {' or '.join(self.evidence)}; this lane's is {result.evidence}"
        return ""

    def __str__(self) -> str:
        """Return the requirement as the marker would write it."""
        parts = {
            "browser": self.browsers,
            "backend": self.backends,
            "features": self.features,
            "evidence": self.evidence,
        }
        return ", ".join(f"{name} {' or '.join(words)}" for name, words in parts.items() if words) or "any lane"


def requirement(node: pytest.Item) -> Requirement:
    """Return what the test's ``webaccel`` markers ask; the marker nearest to the test wins, argument by argument.

    Raises ConfigurationError naming the test, the marker and the bad argument.
    """
    merged: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers("webaccel"))):
        with _blame(node, marker):
            merged.update(_requirement_arguments(marker))
    return Requirement(**merged)


def _requirement_arguments(marker: pytest.Mark) -> dict[str, Any]:
    if marker.args:
        raise ValueError(f"takes no positional arguments, got {', '.join(map(repr, marker.args))}")
    kinds: Mapping[str, tuple[str, type[enum.StrEnum] | None]] = {
        "browser": ("browsers", Browser),
        "backend": ("backends", Backend),
        "features": ("features", None),
        "family": ("families", Family),
        "evidence": ("evidence", Evidence),
    }
    found: dict[str, Any] = {}
    for name, value in marker.kwargs.items():
        if name not in kinds:
            raise ValueError(unknown("argument", name, list(kinds)))
        field, kind = kinds[name]
        words = _words(name, value)
        found[field] = words if kind is None else tuple(_word(kind, name, word) for word in words)
    return found


def fault_plans(node: pytest.Item) -> tuple[FaultPlan, ...]:
    """Return the plans of the test's ``fault`` markers, outermost first, those of a level all.

    Raises ConfigurationError naming the test, the marker and the bad argument.
    """
    return tuple(plan for choice in fault_choices(node) for plan in choice)


def fault_choices(node: pytest.Item) -> tuple[tuple[FaultPlan, ...], ...]:
    """Return, for each of the test's ``fault`` markers, outermost first, the plans to choose one from.

    That is one plan where the marker names a fault, several where it names a level. Raises ConfigurationError naming
    the test, the marker and the bad argument.
    """
    choices = []
    for marker in reversed(list(node.iter_markers("fault"))):
        with _blame(node, marker):
            choices.append(_plan(*marker.args, **marker.kwargs))
    return tuple(choices)


def _plan(
    name: str, recovery: str | None = None, at: str = FaultPoint.MID_REQUEST, times: int = 1
) -> tuple[FaultPlan, ...]:
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise ValueError(f"times={times!r} is not a whole number from 1")
    if not isinstance(name, str):
        raise TypeError(f"name={name!r} is not a word (known: {', '.join([*Fault, *Level])})")
    how = None if recovery is None else _word(Strategy, "recovery", recovery)
    return plans_of(name, _word(FaultPoint, "at", at), times, how)


def check(item: pytest.Item) -> None:
    """Raise ConfigurationError when a marker of ours on ``item`` cannot be meant.

    Also when a fault is planned for a test that uses no lane: it would never fire, and the test would
    be green for nothing.
    """
    fixtures: Sequence[str] = getattr(item, "fixturenames", ())
    ours = any(name.startswith("webaccel") for name in fixtures) or item.get_closest_marker("webaccel") is not None
    faults = [marker.args[0] if marker.args else None for marker in item.iter_markers("fault")]
    if not ours and not any(isinstance(name, str) and name in {*Fault, *Level} for name in faults):
        return  # a marker of somebody else's that happens to be called fault
    requirement(item)
    plans = fault_plans(item)
    if plans and not any(name.startswith("webaccel") for name in fixtures):
        raise ConfigurationError(
            f"{item.nodeid}: @pytest.mark.fault({str(plans[0].fault)!r}) on a test that uses no lane, so nothing would "
            "break; take the fixture webaccel (or webaccel_pool) in the test, or drop the marker"
        )
    if plans and "webaccel_page" in fixtures and not {"webaccel", "webaccel_pool"} & set(fixtures):
        raise ConfigurationError(
            f"{item.nodeid}: @pytest.mark.fault({str(plans[0].fault)!r}) on a test of an app: a planned fault strikes "
            "a webaccel.run(...), and the app runs by itself, so nothing would break; take the fixture webaccel_faults "
            f"and call webaccel_faults.inject({str(plans[0].fault)!r}) at the moment that you mean"
        )


class _blame:  # noqa: N801 - reads as a statement at its two uses
    """Turn a ValueError or TypeError inside into a ConfigurationError that names test and marker."""

    def __init__(self, node: pytest.Item, marker: pytest.Mark) -> None:
        self.node, self.marker = node, marker

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | TypeError):
            text = str(error)
            if "_plan()" in text:  # Python's own words for arguments that do not fit
                text = f"{text.replace('_plan()', 'fault()')}; it is fault{inspect.signature(_plan)}".split(" -> ")[0]
            raise ConfigurationError(f"{self.node.nodeid}: @pytest.mark.{_written(self.marker)}: {text}") from error


def _written(marker: pytest.Mark) -> str:
    arguments = [repr(value) for value in marker.args]
    arguments += [f"{name}={value!r}" for name, value in marker.kwargs.items()]
    return f"{marker.name}({', '.join(arguments)})"


def _words(name: str, value: object) -> tuple[str, ...]:
    words = tuple(_each(value))
    if not words or not all(isinstance(word, str) and word for word in words):
        raise ValueError(f"{name}={value!r} is neither a word nor a list of words")
    return words


def _each(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | set | frozenset):
        yield from sorted(value, key=str) if isinstance(value, set | frozenset) else value


def _word(kind: type[Word], name: str, text: object) -> Word:
    if not isinstance(text, str):
        raise TypeError(f"{name}={text!r} is not a word (known: {', '.join(kind)})")
    return pick(kind, text, name)
