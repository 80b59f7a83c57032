"""Our per-user cache: versioned folders that appear whole or not at all.

An entry is unpacked beside its final place and renamed into it, under a file lock, so that two
installations at once, or one that is interrupted, leave a usable cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_webaccel.errors import InstallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CACHE_VARIABLE", "Entry", "cache_root", "provide"]

#: Environment variable that moves the cache.
CACHE_VARIABLE = "PYTEST_WEBACCEL_CACHE"
_MANIFEST = "webaccel.json"
#: Seconds to wait for another installation of the same thing: a slow network must fit in.
_LOCK_DEADLINE = 900.0


def cache_root() -> Path:
    """Return the folder of the cache: PYTEST_WEBACCEL_CACHE, or the user's cache directory."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("pytest-webaccel", appauthor=False))


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the cache. ``main`` is its executable or main file, relative to ``folder``."""

    folder: Path
    version: str
    main: str
    source: str

    @classmethod
    def read(cls, folder: Path) -> Entry | None:
        """Return the entry at ``folder``; None when there is none or its manifest cannot be read."""
        try:
            data = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            entry = cls(folder, str(data["version"]), str(data["main"]), str(data["source"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return entry if (folder / entry.main).exists() else None

    def write(self, folder: Path) -> None:
        """Write the manifest into ``folder``, the last file of an entry."""
        text = json.dumps({"version": self.version, "main": self.main, "source": self.source})
        (folder / _MANIFEST).write_text(text, encoding="utf-8")


def provide(
    kind: str, name: str, *, version: str, main: str, source: str, fill: Callable[[Path], None], force: bool = False
) -> tuple[Entry, bool]:
    """Return the entry ``kind/name`` and whether it was made now.

    ``fill`` is called with an empty folder only when the entry is missing or ``force`` is set. Raises
    InstallError when the cache cannot be written; what ``fill`` raises passes through, and nothing
    half-made stays.
    """
    final = cache_root() / kind / name
    if not force and (entry := Entry.read(final)) is not None:
        return entry, False
    try:
        with _locked(final):
            if not force and (entry := Entry.read(final)) is not None:
                return entry, False
            return _make(final, Entry(final, version, main, source), fill), True
    except OSError as error:
        raise InstallError(_disk_failure(final, error)) from error


@contextlib.contextmanager
def _locked(final: Path) -> Iterator[None]:
    import filelock

    final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = filelock.FileLock(final.with_name(final.name + ".lock"), timeout=_LOCK_DEADLINE)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise InstallError(
            f"Another installation of {final.name} has held {lock.lock_file} for {_LOCK_DEADLINE:.0f} s. "
            "Wait for it, or end it and run `python -m pytest_webaccel install` again."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _make(final: Path, entry: Entry, fill: Callable[[Path], None]) -> Entry:
    for stale in final.parent.glob(f".{final.name}-*"):  # left by one that was killed; we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        fill(work)
        if not (work / entry.main).exists():
            raise InstallError(
                f"What was unpacked for {final.name} lacks {entry.main}; the package is not as expected."
            )
        entry.write(work)
        if final.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
            final.rename(retired / "old")
            work.rename(final)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return entry


def _disk_failure(final: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk is full: {final} could not be written ({error.strerror}). Free about 400 MB there, "
            f"or point {CACHE_VARIABLE} at another disk, and run the installation again."
        )
    return (
        f"{final} could not be written: {error}. "
        f"Make the folder writable, or point {CACHE_VARIABLE} at one that is, and run the installation again."
    )
