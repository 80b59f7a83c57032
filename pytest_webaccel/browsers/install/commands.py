"""Runs other installers (npm, playwright, apt-get) with a deadline, and ends them whole."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

from pytest_webaccel.errors import InstallError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ["Finished", "run"]

#: Seconds between two calls of ``tick``.
_TICK = 0.2
#: Bytes of output that are read back.
_OUTPUT = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended: its exit status and what it wrote, at most 1 MiB each."""

    status: int
    output: str
    errors: str


def run(
    arguments: Sequence[str],
    *,
    deadline: float,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    tick: Callable[[int], None] | None = None,
) -> Finished:
    """Run ``arguments`` in ``folder`` and return how it ended.

    ``tick`` is called with the process id five times a second meanwhile. Raises InstallError when the
    command cannot be started or does not end within ``deadline`` seconds; its process group is killed
    then, and on Ctrl-C.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            raise InstallError(f"{arguments[0]} could not be started: {error}. Check that it is installed.") from error
        until = time.monotonic() + deadline
        try:
            while process.poll() is None:
                if time.monotonic() >= until:
                    raise InstallError(
                        f"`{' '.join(arguments)}` did not end within {deadline:.0f} s and was stopped. "
                        "Check the network, then run `python -m pytest_webaccel install` again."
                    )
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_TICK)
                if tick is not None and process.returncode is None:
                    tick(process.pid)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        texts = []
        for stream in (output, errors):
            stream.seek(0)
            texts.append(stream.read(_OUTPUT).decode(errors="replace"))
    return Finished(process.returncode, *texts)
