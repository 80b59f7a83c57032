"""Ctrl-C in the middle of a session of pytest."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["interrupted"]

_APPEARS_S = 60.0
_ENDS_S = 60.0


def interrupted(pytester: pytest.Pytester, seen: str, arguments: Sequence[str]) -> int:
    """Run pytest, send Ctrl-C once a file called ``seen`` is there, and wait for its end; return its process id.

    Nothing of it goes on, whatever happens: a session that does not end would slow down every test after this one.
    """
    said = pytester.path / "said.txt"
    plugins = [word for plugin in pytester.plugins for word in ("-p", str(plugin))]
    # Hypothesis is first imported when the session ends, which CPython 3.11 may fail to do after an interrupt in one of
    # Playwright's greenlets ("AST constructor recursion depth mismatch"); that is neither's concern here.
    without = ["-p", "no:hypothesispytest", "-p", "no:cacheprovider"]
    command = [*pytester._getpytestargs(), *plugins, *without, *arguments]
    with said.open("w") as out:
        process = pytester.popen(command, start_new_session=True, stdout=out, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + _APPEARS_S
            while not (pytester.path / seen).exists():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
                assert process.poll() is None, said.read_text()
                assert time.monotonic() < until, f"{seen} never appeared: {said.read_text()}"
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
            process.wait(_ENDS_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(_ENDS_S)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, said.read_text()
    return int(process.pid)
