"""Rows that could not be stored, kept in a spool beside the database until it can be opened."""

from __future__ import annotations

import glob
import logging
import os
import re
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_webaccel.errors import HistoryError
from pytest_webaccel.history.spool import Spool, SpoolContents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.rows import Row

__all__ = ["files", "save", "settle"]

_log = logging.getLogger(__name__)


def save(database: Path, rows: Sequence[Row], run_id: str) -> str:
    """Write ``rows`` beside ``database``, or where that fails into the temporary folder.

    Returns a sentence that says where they are and how they get into the database. Never raises.
    """
    if not rows:
        return "The run had no rows to store."
    name = f"{database.name}.rescue-{_safe(run_id)}.jsonl"
    failure: Exception | None = None
    for folder in (database.parent, Path(tempfile.gettempdir())):
        try:
            path = _write(folder / name, rows)
        except (HistoryError, OSError) as error:
            failure = failure or error
        else:
            beside = folder == database.parent
            how = (
                "the next run with this database takes them in"
                if beside
                else f"move that file beside {database} and the next run takes them in"
            )
            return f"The run's {len(rows)} rows are kept in {path}; {how}."
    return f"The run's {len(rows)} rows could not be kept in a file either: {failure}"


def files(database: Path) -> list[Path]:
    """Return the files of rescued rows beside ``database``, in a fixed order."""
    pattern = f"{glob.escape(database.name)}.rescue-*.jsonl"
    return sorted(path for path in database.parent.glob(pattern) if path.is_file() and not path.is_symlink())


def settle(path: Path, contents: SpoolContents) -> None:
    """Remove ``path``, whose rows are stored; one with damaged lines is renamed and kept instead."""
    try:
        if contents.invalid or contents.torn:
            kept = path.with_name(path.name + ".damaged")
            path.replace(kept)
            _log.warning("%s: lines that are not rows were left out (%s)", kept, contents.problem or "a torn last line")
        else:
            path.unlink()
    except OSError as error:
        _log.warning("%s: its rows are stored, but it cannot be removed: %s", path, error.strerror or error)


def _write(path: Path, rows: Sequence[Row]) -> Path:
    """Write a new file and give it its name only when it is whole; an earlier file is never overwritten."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with Spool(draft) as spool:
            for row in rows:
                spool.append(row)
        target = path
        while True:
            try:
                os.link(draft, target)
            except FileExistsError:
                target = path.with_name(f"{path.name.removesuffix('.jsonl')}-{uuid.uuid4().hex[:8]}.jsonl")
            else:
                return target
    finally:
        draft.unlink(missing_ok=True)


def _safe(run_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", run_id)[:64] or "run"
