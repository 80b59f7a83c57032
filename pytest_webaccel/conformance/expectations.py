"""What is known not to pass, by lane, build and version of the engine, so that a run fails for news alone.

One line a test, as web-platform-tests keep their metadata; a section for each lane, build and version::

    [chromium:webgpu jsep 1.30.0]
    # seen with onnx 1.23.2 on chromium 153.0.8010.0, software
    fell_back    test_abs
    unsupported  test_adagrad   # what the engine said
    wrong_answer test_dft       ## what somebody found out

What a section was seen with is said where a result is not as expected, if it is not the same now. What no line names is
expected to agree. Where the version that runs has no section, that of the newest one before it
stands in. ``python -m pytest_webaccel expectations`` takes over what a run found.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.parity.verdict import Kind
from pytest_webaccel.words import pick

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pytest_webaccel.rows import ConformanceRow

__all__ = ["AGREES", "Expectation", "Expectations", "Place", "Seen", "updated"]

_SECTION = re.compile(r"\[(\S+) (\S+) (\S+)\]")
_SEEN = re.compile(r"# seen with (.+?) on (.+), (\w+)")
_LINE = re.compile(r"(\S+)\s+(\S+)(?:\s+(##?)\s*(.*))?")
_MOST_REASON = 100
#: What onnxruntime says before it comes to the point: that it failed, and where in its source.
_PREAMBLE = re.compile(
    r"^(?:Can't create a session\. ERROR_CODE: \d+, ERROR_MESSAGE: |failed to call OrtRun\(\)\. )?"
    r"(?:/\S+\.(?:cc|h):\d+ .*?\)(?: const)? (?=[A-Z!]))?"
)

_HEADER = """\
# What the node tests of onnx are known not to pass, by [lane build version of onnxruntime-web]; all else agrees.
# Taken over from a run with: python -m pytest_webaccel expectations DB FILE. What stands behind # is what the engine
# said; a reason of your own behind ## is kept as long as the word at the line's begin holds.
"""


class Place(NamedTuple):
    """Where a result holds: a lane as text, a build and a version of the engine."""

    lane: str
    build: str
    version: str

    def __str__(self) -> str:
        """Return the place as a section names it, without its brackets."""
        return f"{self.lane} {self.build} {self.version}"


class Seen(NamedTuple):
    """What results were seen with: whose tests, in which browser, on what grade of evidence."""

    suite: str
    browser: str
    evidence: str

    def __str__(self) -> str:
        """Return it as a section says it."""
        return f"{self.suite} on {self.browser}, {self.evidence}"


@dataclasses.dataclass(frozen=True, slots=True)
class Expectation:
    """How a test is expected to end, and why; ``by_hand`` where somebody wrote that."""

    kind: Kind
    reason: str = ""
    by_hand: bool = False


#: What is expected where nothing else is said.
AGREES = Expectation(Kind.AGREES)


@dataclasses.dataclass(frozen=True, slots=True)
class Expectations:
    """Expectations by place, then by test; :data:`AGREES` is left out. ``seen`` is by place, where it is known."""

    places: Mapping[Place, Mapping[str, Expectation]]
    seen: Mapping[Place, Seen] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Expectations:
        """Return the expectations in a file; raises ConfigurationError naming file and line."""
        try:
            return cls.parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"expectations {path}: {error}. To begin a file of your own: python -m pytest_webaccel expectations "
                f"DB {path.name}, with the database of a run."
            ) from error

    @classmethod
    def parse(cls, text: str, source: str = "text") -> Expectations:
        """Return the expectations in ``text``, which came from ``source``; raises ConfigurationError."""
        places: dict[Place, dict[str, Expectation]] = {}
        seen: dict[Place, Seen] = {}
        section: dict[str, Expectation] | None = None
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.strip()
            if not line or line.startswith("#"):
                if places and (told := _SEEN.fullmatch(line)) is not None:
                    seen[list(places)[-1]] = Seen(*told.groups())
                continue
            where = f"expectations {source}, line {number}"
            if line.startswith("["):
                if (head := _SECTION.fullmatch(line)) is None:
                    raise ConfigurationError(f"{where}: {line!r} is not [LANE BUILD VERSION]")
                place = Place(*head.groups())
                if place in places:
                    raise ConfigurationError(f"{where}: section [{place}] is there twice")
                section = places[place] = {}
                continue
            if (match := _LINE.fullmatch(line)) is None:
                raise ConfigurationError(f"{where}: {line!r} is not KIND TEST # REASON")
            if section is None:
                raise ConfigurationError(f"{where}: it stands before the first [LANE BUILD VERSION]")
            if match[2] in section:
                raise ConfigurationError(f"{where}: {match[2]} is there twice in its section")
            try:
                section[match[2]] = Expectation(pick(Kind, match[1], "kind"), match[4] or "", match[3] == "##")
            except ValueError as error:
                raise ConfigurationError(f"{where}: {error}") from None
        return cls(places, seen)

    def __str__(self) -> str:
        """Return the file's text; :meth:`parse` reads it back."""
        parts = [_HEADER]
        for place in sorted(self.places):
            parts.append(f"\n[{place}]\n")
            parts += [f"# seen with {self.seen[place]}\n"] if place in self.seen else []
            found = self.places[place]
            parts += [_written(name, found[name]) for name in sorted(found, key=lambda name: (found[name].kind, name))]
        return "".join(parts)

    def stand_in(self, place: Place) -> Place | None:
        """Return the section that holds for ``place``: its own, else that of the newest version before; or None."""
        if place in self.places:
            return place
        mine = _order(place.version)
        older = [
            other
            for other in self.places
            if (other.lane, other.build) == (place.lane, place.build) and _order(other.version) < mine
        ]
        return max(older, key=lambda other: _order(other.version), default=None)

    def of(self, place: Place, test: str) -> Expectation:
        """Return what ``test`` is expected to do at ``place``."""
        section = self.stand_in(place)
        return AGREES if section is None else self.places[section].get(test, AGREES)


def updated(known: Expectations, rows: Iterable[ConformanceRow]) -> Expectations:
    """Return ``known`` with what ``rows`` found in place of what was expected of those tests; others stay.

    A place that is new begins with what stood in for it. A reason by hand stays where its kind does. What a section was
    seen with changes where all of its lines were looked at.
    """
    places = {place: dict(section) for place, section in known.places.items()}
    seen = dict(known.seen)
    ran: dict[Place, set[str]] = {}
    for row in rows:
        place = Place(row.lane, row.build, row.version)
        if place not in places:
            older = known.stand_in(place)
            places[place] = {} if older is None else dict(known.places[older])
        if row.suite and row.browser:
            seen[place] = Seen(row.suite, row.browser, str(row.evidence))
            ran.setdefault(place, set()).add(row.case)
        section, kind = places[place], Kind(row.kind)
        if kind is Kind.AGREES:
            section.pop(row.case, None)
        elif not (there := section.get(row.case, AGREES)).by_hand or there.kind is not kind:
            section[row.case] = Expectation(kind, _reason(row.detail))
    for place, cases in ran.items():
        if set(places[place]) - cases:  # lines that it did not look at were seen with something else
            seen.pop(place)
            if place in known.seen:
                seen[place] = known.seen[place]
    return Expectations(places, seen)


def _written(name: str, one: Expectation) -> str:
    mark = "##" if one.by_hand else "#"
    return f"{one.kind:<12} {name}{f'  {mark} {one.reason}' if one.reason else ''}\n"


def _reason(detail: str) -> str:
    """Return the first words of ``detail`` on one line, without what changes from run to run."""
    words = re.sub(r"0x[0-9a-f]+|\bbytes-[0-9a-f]{8}\b", "...", " ".join(detail.split()))
    words = _PREAMBLE.sub("", words)
    return words if len(words) <= _MOST_REASON else f"{words[: _MOST_REASON - 3]}..."


def _order(version: str) -> tuple[Any, ...]:
    """Return what versions are sorted by, as semver has it: ``1.30.0-dev`` comes before ``1.30.0``."""
    plain, _, build = version.partition("+")
    release, _, early = plain.partition("-")
    return _parts(release), early == "", _parts(early), _parts(build)


def _parts(text: str) -> tuple[tuple[int, int | str], ...]:
    """Return numbers as numbers, and before words; of nothing, nothing."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"[.\-]", text) if part)
