"""The report as one HTML file that needs nothing else: no script, no style sheet, no network."""

from __future__ import annotations

import uuid
from pathlib import Path

from pytest_webaccel.errors import HistoryError
from pytest_webaccel.report.data import ReportData
from pytest_webaccel.report.parts import text
from pytest_webaccel.report.section import section

__all__ = ["from_database", "page", "write"]

_PAGE_STYLE = """
:root{color-scheme:light dark}
body{margin:0;background:#fff}
main{max-width:980px;margin:0 auto;padding:24px 24px 64px}
h1{font:600 26px/1.3 system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;margin:0;color:#1b1f24}
@media(prefers-color-scheme:dark){body{background:#14181d}h1{color:#e8ebef}
.webaccel{--wa-ink:#e8ebef;--wa-soft:#9aa5b1;--wa-line:#343c46;--wa-paper:#14181d;--wa-band:#1d232a}
.webaccel .wa-hardware,.webaccel .wa-good{color:#3fc99a}.webaccel .wa-software{color:#6db9ee}
.webaccel .wa-fake,.webaccel .wa-bad{color:#ff9a5c}}
@media print{main{max-width:none;padding:0}}
"""

#: Nothing is loaded and nothing runs, whatever text came into the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page(data: ReportData, *, png: bool = False) -> str:
    """Return the whole HTML document for ``data``."""
    title = f"pytest-webaccel: run {data.run.run_id}" if data.run else "pytest-webaccel: a run"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title></head><body><main><h1>pytest-webaccel</h1>"
        # The page's style comes after the section's own, which it adapts to a dark screen.
        f"{section(data, png=png)}<style>{_PAGE_STYLE}</style></main></body></html>\n"
    )


def write(data: ReportData, path: Path, *, png: bool = False) -> Path:
    """Write the report to ``path``, whole or not at all, and return its absolute path.

    Missing folders are created. Raises HistoryError when the file cannot be written.
    """
    target = Path(path).absolute()
    document = page(data, png=png).encode("utf-8", "replace")
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_bytes(document)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise HistoryError(
            f"The report {target} cannot be written: {error.strerror or error}. "
            "Name another file with --webaccel-report."
        ) from error
    return target


def from_database(database: Path, path: Path, run_id: str | None = None) -> Path:
    """Write the report of one run in ``database`` (the latest without ``run_id``) and return its path."""
    return write(ReportData.from_database(database, run_id), path)
