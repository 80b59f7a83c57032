"""DuckDB's errors in words: what failed, why, and what to do next, in one paragraph."""

from __future__ import annotations

import errno
import re
from pathlib import Path

__all__ = ["explain"]

_LOCK = re.compile(r"Conflicting lock is held in (?P<program>.*?) \(PID (?P<pid>\d+)\)")
_NEWER = re.compile(r"newer version of DuckDB|storage version|version number \d+", re.IGNORECASE)


def explain(path: Path, error: Exception) -> str:
    """Return one paragraph that says why the database at ``path`` could not be used."""
    text = " ".join(str(error).split())
    if "lock" in text.lower() and "could not set" in text.lower():
        return f"The database {path} is locked by another process{_holder(text)}. {_LOCKED_ADVICE}"
    if "not a valid DuckDB database" in text:
        return f"The file {path} is not a DuckDB database. Move it away, or name another file with --webaccel-db."
    if path.is_dir():
        return f"The database {path} is a folder. Name a file in it with --webaccel-db={path / 'history.duckdb'}."
    if _is(error, text, errno.ENOSPC, "no space left") or _is(error, text, errno.EDQUOT, "quota exceeded"):
        return f"The disk that holds the database {path} is full. Make room and run again."
    if _is(error, text, errno.EROFS, "read-only"):
        return f"The database {path} cannot be written: it is read-only. Name another file with --webaccel-db."
    if _is(error, text, errno.EACCES, "permission denied"):
        return f"The database {path} cannot be used: permission denied. Name another file with --webaccel-db."
    if _NEWER.search(text):
        return f"The database {path} was written by another version of DuckDB: {text}. Upgrade duckdb to read it."
    return f"The database {path} cannot be used: {text.rstrip('.')}. Name another file with --webaccel-db."


_LOCKED_ADVICE = (
    "DuckDB lets one process at a time open a database that is being written. "
    "Wait for it to end or close it, or give each run a file of its own with --webaccel-db."
)


def _holder(text: str) -> str:
    found = _LOCK.search(text)
    return f", {Path(found['program']).name} with process id {found['pid']}" if found else ""


def _is(error: Exception, text: str, number: int, words: str) -> bool:
    return (isinstance(error, OSError) and error.errno == number) or words in text.lower()
