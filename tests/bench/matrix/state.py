"""What has been measured so far: one line of JSON a trial, appended at once, so that a rerun goes on where one ended.

The first line says on what; a file of another machine or browser build is refused, since figures of two must not be
mixed. A line that was cut short by a crash is dropped.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from tests.bench.matrix.design import Cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

__all__ = ["FAILED", "RECOVERED", "VOID", "Log", "Result", "State", "StateError", "parted", "read", "spent"]

RECOVERED, FAILED, VOID = "recovered", "failed", "void"

#: How often a trial is tried in which the fault could not be caused or did nothing.
TRIES = 3


class StateError(Exception):
    """A state file that cannot be gone on with."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one trial came to; times are milliseconds, from the moment of the fault.

    ``outcome`` is ``recovered``, ``failed``, or ``void`` where the fault was not caused or did nothing, which says
    nothing of the strategy. ``deadline_ms`` is the part of ``detect_ms`` that is a deadline somebody configured,
    ``budget_ms`` what a failed one was given, ``took_s`` the whole trial in seconds, preparing and mending included.
    """

    trial: str
    strategy: str
    fault: str
    lane: str
    point: str
    spare: bool
    outcome: str
    total_ms: float = 0.0
    undisturbed_ms: float = 0.0
    deadline_ms: float = 0.0
    detect_ms: float = 0.0
    reassign_ms: float = 0.0
    load_ms: float = 0.0
    restore_ms: float = 0.0
    replay_ms: float = 0.0
    attempts: int = 0
    duplicated: int = 0
    lost: int = 0
    wrong: int = 0
    cpu_ms: float = 0.0
    memory_bytes: int = 0
    rungs: str = ""
    symptom: str = ""
    variant: str = ""
    detail: str = ""
    evidence: str = ""
    later: str = ""
    budget_ms: float = 0.0
    took_s: float = 0.0
    at: str = ""
    commit: str = ""

    @property
    def cell(self) -> Cell:
        """The cell it belongs to."""
        return Cell(self.strategy, self.fault, self.lane, self.point, self.spare)

    @property
    def recovered(self) -> bool:
        """Whether the right answer came, once, and the lane was whole again."""
        return self.outcome == RECOVERED

    @property
    def net_ms(self) -> float:
        """Time of recovery alone: less the request's own undisturbed time, and a configured deadline."""
        return max(self.total_ms - self.undisturbed_ms - self.deadline_ms, 0.0)

    @property
    def after_detection_ms(self) -> float:
        """Time from the moment the damage was seen, less the request's own undisturbed time."""
        return max(self.total_ms - self.detect_ms - self.undisturbed_ms, 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return it as an entry, without what is empty; microseconds are enough."""
        data = {name: value for name, value in dataclasses.asdict(self).items() if value or name in _ALWAYS}
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in data.items()}


_ALWAYS = frozenset({"trial", "strategy", "fault", "lane", "point", "spare", "outcome"})
_NAMES = frozenset(field.name for field in dataclasses.fields(Result))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except ValueError:
            data = None
        if isinstance(data, dict):
            yield data
        elif number <= 1:
            raise StateError(f"{path} is no state file: its first line is not JSON. Name another with --state.")


def read(path: Path) -> tuple[dict[str, Any], list[Result]]:
    """Return what a state file was measured on, and its results in order."""
    header, entries = parted(path)
    return header, [_result(entry) for entry in entries if "trial" in entry]


def spent(results: Sequence[Result]) -> set[str]:
    """Return the trials that need not be done again: those that said something, and those that never will."""
    tries: dict[str, int] = {}
    for result in results:
        tries[result.trial] = tries.get(result.trial, 0) + (1 if result.outcome == VOID else TRIES)
    return {trial for trial, count in tries.items() if count >= TRIES}


def parted(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what a state file was measured on, and its entries as they are."""
    entries = list(_lines(path))
    header: dict[str, Any] = next((entry["header"] for entry in entries if "header" in entry), {})
    return header, [entry for entry in entries if "header" not in entry]


def _result(entry: Mapping[str, Any]) -> Result:
    return Result(**{name: value for name, value in entry.items() if name in _NAMES})


def _differs(there: Any, here: Any) -> bool:
    """Whether two things are not the same; of two mappings, in what both name: a run may have one lane more."""
    if isinstance(there, dict) and isinstance(here, dict):
        return any(there[name] != here[name] for name in there.keys() & here.keys())
    return bool(there != here)


def _identity(entry: Mapping[str, Any], key: str) -> str:
    return f"{key} {entry[key]}" if key in entry else json.dumps(entry, sort_keys=True)


class Log:
    """An open file of entries, one a line; one process at a time writes to it. ``entries`` are those so far.

    ``about`` is what the figures depend on. With ``keep`` false only what was there at the start is in ``entries``:
    what measures this process's memory must not grow. Raises StateError where the file is of something else, or in use.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], *, keep: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.about = dict(about)
        self._keep = keep
        self.entries: list[dict[str, Any]] = []
        self._lock = FileLock(f"{path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StateError(f"{path} is being written by another process; wait for it, or name another file") from None
        try:
            self._open(about)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, about: Mapping[str, Any]) -> None:
        fresh = not self.path.exists() or not self.path.stat().st_size
        if not fresh:
            header, self.entries = parted(self.path)
            if other := [key for key in about if _differs(header.get(key), about[key])]:
                told = "; ".join(f"{key}: {header.get(key)!r} there, {about[key]!r} here" for key in other)
                raise StateError(
                    f"{self.path} was measured on something else ({told}). Figures of two must not be mixed: name "
                    "another file with --state, or move that one away."
                )
        self._file = self.path.open("a", encoding="utf-8")
        if fresh:
            self._write(json.dumps({"header": dict(about)}))
        elif not self.path.read_bytes().endswith(b"\n"):
            self._file.write("\n")  # what a crash cut short stays a line of its own, which nobody can read

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file and let others write to it."""
        self._file.close()
        self._lock.release()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Append an entry; once this returns it is on the disk."""
        self._write(json.dumps(entry))
        if self._keep:
            self.entries.append(dict(entry))

    def merge(self, path: Path, *, key: str) -> int:
        """Take over what another process found and this file lacks, by ``key`` where an entry has it; return how many.

        Raises StateError where that was measured on something else, or found something else of the same: nothing is
        taken over then.
        """
        about, entries = parted(path)
        if about != self.about:
            raise StateError(f"{path} is of something else ({about}, here {self.about}): only parts of one are joined")
        known = {_identity(entry, key): entry for entry in self.entries}
        for entry in entries:
            if key in entry and known.get(_identity(entry, key), entry) != entry:
                raise StateError(
                    f"{path} says otherwise of {key} {entry[key]} than {self.path}: which of them is right?"
                )
        fresh = [entry for entry in entries if _identity(entry, key) not in known]
        for entry in fresh:
            self._write(json.dumps(entry))
        self.entries += fresh
        return len(fresh)

    def whole(self) -> list[dict[str, Any]]:
        """Return all entries, as they are on the disk."""
        return parted(self.path)[1]

    def _write(self, line: str) -> None:
        self._file.write(f"{line}\n")
        self._file.flush()
        os.fsync(self._file.fileno())


class State(Log):
    """A log of the matrix's trials."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        super().__init__(path, about)
        self.results = [_result(entry) for entry in self.entries if "trial" in entry]

    def add(self, result: Result) -> None:
        """Append a result; once this returns it is on the disk."""
        self.append(result.to_json())
        self.results.append(result)

    def done(self) -> set[str]:
        """Return the trials that need not be done again."""
        return spent(self.results)
