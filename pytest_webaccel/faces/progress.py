"""Progress of long work, shown while a test runs."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

__all__ = ["progress"]

_log = logging.getLogger(__name__)


def progress(config: pytest.Config) -> Callable[[str], None]:
    """Return what takes a line at a time: it goes to the log and, unless ``-q`` was given, to the terminal at once.

    A worker of pytest-xdist has no terminal; there the log is all.
    """
    reporter = config.pluginmanager.getplugin("terminalreporter")
    capture = config.pluginmanager.getplugin("capturemanager")

    def tell(line: str) -> None:
        _log.info("%s", line)
        if reporter is None or reporter.verbosity < 0:
            return
        with capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext():
            reporter.write_line(f"webaccel: {line}")

    return tell
