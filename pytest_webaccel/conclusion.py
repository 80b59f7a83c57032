"""The end of a run, in the controller: the rows are stored, the report drawn, the gates looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.errors import WebAccelError
from pytest_webaccel.history.store import record
from pytest_webaccel.report import gates, standalone, terminal
from pytest_webaccel.report.data import ReportData

if TYPE_CHECKING:
    import pytest

    from pytest_webaccel.scheduling.recording import Recorder

__all__ = ["conclude", "report_data"]


def report_data(recorder: Recorder, exit_status: int) -> ReportData:
    """Return what the reports draw."""
    recorder.gather()
    lost = recorder.undecodable
    return ReportData.from_rows(
        recorder.rows(exit_status),
        probes=recorder.session.table if recorder.session.probed else (),
        notes=[f"{lost} rows could not be read and are left out"] if lost else [],
    )


def conclude(config: pytest.Config, recorder: Recorder, exit_status: int) -> tuple[list[str], list[str]]:
    """Store the run and write its report; return the summary's lines, and messages that make the run fail."""
    settings = recorder.session.settings
    recorder.gather()
    rows = recorder.rows(exit_status)
    if config.getoption("collectonly", False):
        return [], []
    messages = gates.check(rows, min_success=settings.min_success, max_recovery_ms=settings.max_recovery_ms)
    if not recorder.used:
        return [], messages
    if message := recorder.nothing_accelerated(narrowed=_narrowed(config)):
        messages.append(message)
    if message := recorder.nobody_suffers():
        messages.append(message)
    status = 1 if messages and exit_status in {0, 5} else exit_status
    stored = report = None
    if settings.db is not None:
        try:
            record(settings.db, recorder.rows(status), recorder.session.run_id)
            stored = settings.db
        except WebAccelError as error:
            messages.append(str(error))
    data = report_data(recorder, status)
    if settings.report is not None:
        try:
            report = standalone.write(data, settings.report)
        except WebAccelError as error:
            messages.append(str(error))
    lines = terminal.lines(data, database=stored, report=report)
    for more in config.hook.pytest_webaccel_summary(data=data):
        lines += more or []
    return lines, messages


def _narrowed(config: pytest.Config) -> bool:
    """Whether the user picked some of the tests rather than all: by word, mark, id, file or what failed last."""
    options = ("keyword", "markexpr", "deselect", "lf", "failedfirst", "stepwise")
    if any(config.getoption(option, None) for option in options):
        return True
    return any("::" in argument or argument.endswith(".py") for argument in config.args)
