"""Append-only files of rows, one JSON line each, that outlive the process that writes them.

A line reaches the kernel in one ``write`` on an ``O_APPEND`` descriptor, so what was appended is
there after a SIGKILL. Only a machine that loses power may lose the last lines: nothing is fsynced.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pytest_webaccel.errors import HistoryError
from pytest_webaccel.history.columns import row_problem
from pytest_webaccel.rows import Row, decode_row, encode_row

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["MAX_LINE_BYTES", "Spool", "SpoolContents", "read_spool", "scan_spool"]

#: Longest line, newline included, that is written or read.
MAX_LINE_BYTES = 1 << 20

_log = logging.getLogger(__name__)


class Spool:
    """Writer of one spool file, open until :meth:`close`; the folder is created where missing."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending (mode 0600); raises HistoryError when that cannot be done."""
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            self._descriptor = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise HistoryError(f"The spool {self.path} cannot be opened: {error.strerror or error}.") from error
        self._torn = _ends_torn(self._descriptor)

    def append(self, row: Row) -> None:
        """Append ``row``. Raises HistoryError when the row is too long or the disk takes no more."""
        line = encode_row(row).encode("ascii") + b"\n"
        if len(line) > MAX_LINE_BYTES:
            raise HistoryError(
                f"A row of table {row.table!r} is {len(line)} bytes long; the spool {self.path} takes at most "
                f"{MAX_LINE_BYTES} bytes a row. Shorten its text."
            )
        # A line that an earlier write tore is ended first, so that it spoils no line but itself.
        data = b"\n" + line if self._torn else line
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            raise HistoryError(f"The spool {self.path} cannot be written: {error.strerror or error}.") from error
        self._torn = written != len(data)
        if self._torn:
            raise HistoryError(f"The spool {self.path} took {written} of {len(data)} bytes: the disk is full.")

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Spool:
        """Return the spool itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


@dataclasses.dataclass(frozen=True, slots=True)
class SpoolContents:
    """What a spool held: its rows, and how many lines were not rows.

    ``torn`` tells that the file ends inside a line, as it does after a kill in the middle of a
    write; that line is not counted in ``invalid``. ``problem`` is the first thing wrong, in words.
    """

    rows: list[Row]
    invalid: int = 0
    torn: bool = False
    problem: str = ""


def scan_spool(path: Path) -> SpoolContents:
    """Return what ``path`` holds. Never raises: a missing file is an empty one."""
    rows: list[Row] = []
    problems: list[str] = []
    torn = False
    try:
        with Path(path).open("rb") as stream:
            while line := stream.readline(MAX_LINE_BYTES):
                whole = line.endswith(b"\n")
                if not whole and len(line) == MAX_LINE_BYTES:
                    _skip_line(stream)
                    problems.append(f"a line longer than {MAX_LINE_BYTES} bytes")
                elif line.strip():
                    problem = _take(line, rows)
                    # A last line without its newline may still be whole; only a damaged one is torn.
                    torn = bool(problem) and not whole
                    if problem and whole:
                        problems.append(problem)
    except FileNotFoundError:
        return SpoolContents([])
    except OSError as error:
        problems.append(f"the file cannot be read: {error.strerror or error}")
    return SpoolContents(rows, len(problems), torn, problems[0] if problems else "")


def read_spool(path: Path) -> list[Row]:
    """Return the rows in ``path``; what is not a row is left out, counted and logged as a warning."""
    contents = scan_spool(path)
    if contents.invalid:
        _log.warning("spool %s: %d invalid lines left out; the first: %s", path, contents.invalid, contents.problem)
    return contents.rows


def _take(line: bytes, rows: list[Row]) -> str:
    """Append the row in ``line`` to ``rows``; return what is wrong with it, or nothing."""
    try:
        row = decode_row(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return str(error)
    if problem := row_problem(row):
        return problem
    rows.append(row)
    return ""


def _skip_line(stream: IO[bytes]) -> None:
    """Read on to the end of the line, in bounded pieces."""
    while (piece := stream.readline(MAX_LINE_BYTES)) and not piece.endswith(b"\n"):
        pass


def _ends_torn(descriptor: int) -> bool:
    """Whether the file's last byte is something other than a newline."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
