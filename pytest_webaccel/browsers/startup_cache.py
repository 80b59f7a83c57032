"""What Firefox compiles of its own scripts at a first start, kept for the next profiles.

A new profile makes Firefox read and compile its interface anew, about half of its start. The folder it keeps the
result in holds nothing of any page; it is copied into new profiles of the same build. A copy that does not fit is
ignored by Firefox, so it can cost time but never change what a run does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_webaccel.browsers.install.cache import cache_root

if TYPE_CHECKING:
    from pytest_webaccel.browsers.locate import Installation

__all__ = ["is_kept", "keep", "restore"]

_FOLDER = "startupCache"
#: Without it, Firefox takes the profile for one of another build and throws the folder away.
_BUILD = "compatibility.ini"
#: Bytes at most; what is larger is not what it should be.
_LIMIT = 128 * 1024 * 1024
#: Builds for which something is kept, about 17 MiB each.
_BUILDS = 4


def _place(installation: Installation) -> Path:
    """Return where the folder for this build is kept; a build is known by its application.ini and its program."""
    program = installation.executable.resolve()
    facts = [str(program), installation.version]
    for path in (program, program.with_name("application.ini"), program.with_name("omni.ja")):
        with contextlib.suppress(OSError):
            status = path.stat()
            facts += [path.name, str(status.st_mtime_ns), str(status.st_size)]
    return cache_root() / "firefox" / "startup" / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def is_kept(installation: Installation) -> bool:
    """Return whether there is something to restore for this build."""
    return (_place(installation) / _BUILD).is_file()


def restore(installation: Installation, profile: Path) -> None:
    """Copy what is kept for this build into a new profile. A copy that fails costs time, not the run."""
    kept = _place(installation)
    if not is_kept(installation):
        return
    try:
        shutil.copytree(kept / _FOLDER, profile / _FOLDER)
        shutil.copyfile(kept / _BUILD, profile / _BUILD)
    except (OSError, shutil.Error):
        shutil.rmtree(profile / _FOLDER, ignore_errors=True)
        (profile / _BUILD).unlink(missing_ok=True)


def keep(installation: Installation, profile: Path) -> None:
    """Keep what a Firefox that ended in good order left in ``profile``. A cache that cannot be written does no harm."""
    source = profile / _FOLDER
    if not source.is_dir() or not (profile / _BUILD).is_file():
        return
    target = _place(installation)
    with contextlib.suppress(OSError, shutil.Error):
        files = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
        if not files or sum(path.stat().st_size for path in files) > _LIMIT:
            return
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        work = Path(tempfile.mkdtemp(prefix=".startup-", dir=target.parent))
        try:
            shutil.copytree(source, work / _FOLDER)
            shutil.copyfile(profile / _BUILD, work / _BUILD)
            # Two at once: the first one wins, the other finds a folder that is not empty.
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        _forget_old(target.parent)


def _forget_old(parent: Path) -> None:
    """Remove what is kept for builds that were not used lately, all but a few."""
    kept = sorted((path for path in parent.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in kept[:-_BUILDS]:
        shutil.rmtree(path, ignore_errors=True)
