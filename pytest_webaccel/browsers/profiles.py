"""Profile folders that never outlive their owner for long.

A profile is a folder of mode 0700 in the temporary directory. Its name holds the owner's process id,
and the owner holds a lock on a file inside. Whoever starts a browser next removes the profiles whose
owner is gone, so that a worker that was killed with SIGKILL leaves nothing behind either.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from pytest_webaccel.errors import BrowserError

__all__ = ["Profile", "sweep"]

_NAME = re.compile(r"webaccel-(?P<pid>\d+)-(?P<created>\d+)-\w+")
_LOCK = "owner.lock"
#: Seconds between two tries to remove a folder into which a dying process still writes.
_RETRY = 0.02
#: A folder without a lock file is left alone this long, in seconds: its owner may be about to take the lock.
_GRACE = 60.0


class Profile:
    """A browser's own folder, made now and locked by this process.

    Raises BrowserError when the temporary directory cannot be written.
    """

    def __init__(self) -> None:
        pid = os.getpid()
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=f"webaccel-{pid}-{_created(pid) or 0}-"))
            self._lock = os.open(self._folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.path = self._folder / "profile"
            self.path.mkdir(mode=0o700)
        except OSError as error:
            raise BrowserError(
                f"No browser profile could be made in {tempfile.gettempdir()}: {error}. "
                "Free some space there, or point TMPDIR at a folder that can be written."
            ) from error

    @property
    def folder(self) -> Path:
        """The folder that is removed; :attr:`path`, the browser's part of it, lies inside."""
        return self._folder

    async def remove(self, *, deadline: float) -> bool:
        """Remove the folder, trying again until ``deadline`` seconds passed; return whether it is gone."""
        until = time.monotonic() + deadline
        while True:
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                shutil.rmtree(self._folder, ignore_errors=True)
            gone = not self._folder.exists()
            if gone or time.monotonic() >= until:
                break
            await asyncio.sleep(_RETRY)
        self._unlock()
        return gone

    def discard(self) -> None:
        """Remove the folder at once, where nothing writes into it any more."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _created(pid: int) -> int | None:
    """Return when process ``pid`` was created, in ms since the epoch; None when there is none."""
    import psutil  # only a run that starts browsers pays for this import

    try:
        return int(psutil.Process(pid).create_time() * 1000)
    except psutil.Error:
        return None


def sweep(parent: Path | None = None) -> list[Path]:
    """Remove profiles in ``parent`` (the temporary directory) whose owner is dead; return those removed.

    Only folders of this user are touched. A folder is kept while its owner's lock is held, because the
    owner may live in another process namespace, where its process id means nothing to us.
    """
    removed = []
    for folder in sorted((parent or Path(tempfile.gettempdir())).glob("webaccel-*")):
        match = _NAME.fullmatch(folder.name)
        if match is None or not _abandoned(folder, int(match["pid"]), match["created"]):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            removed.append(folder)
    return removed


def _abandoned(folder: Path, pid: int, created: str) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    if folder.is_symlink() or not folder.is_dir() or status.st_uid != os.getuid():
        return False
    seen = _created(pid)
    # The create time is derived from the boot time, which may be off by a tick from one look to the next.
    if seen is not None and abs(seen - int(created)) < 2000:
        return False
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - status.st_mtime > _GRACE
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
