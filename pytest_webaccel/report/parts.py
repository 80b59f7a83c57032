"""Small pieces of HTML. Everything that is text goes through :func:`text`, here and nowhere else."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pytest_webaccel.report.palette import FAILED, PHASES
from pytest_webaccel.terms import Evidence, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_webaccel.rows import RecoveryRow

__all__ = [
    "MOST_ROWS",
    "STYLE",
    "badge",
    "bar",
    "details",
    "key",
    "left_out",
    "milliseconds",
    "outcome",
    "phase_bar",
    "phase_key",
    "table",
    "text",
]

#: Rows of one table in a report; a longer one would be read by nobody.
MOST_ROWS = 500

#: Scoped to ``.webaccel``, so that the page it stands in keeps its looks.
STYLE = """
.webaccel{--wa-ink:#1b1f24;--wa-soft:#59636e;--wa-line:#d6dbe1;--wa-paper:#fff;--wa-band:#f5f7f9;
font:14px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;color:var(--wa-ink);
text-align:left;max-width:980px}
.webaccel h2{font-size:20px;line-height:1.3;margin:1.6em 0 .5em;color:inherit}
.webaccel h3{font-size:15px;margin:1.6em 0 .4em;color:inherit}
.webaccel p{margin:.4em 0;color:inherit}
.webaccel code{font:12px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.webaccel table{border-collapse:collapse;margin:.5em 0 1em;font-size:13px;width:100%}
.webaccel th,.webaccel td{text-align:left;vertical-align:top;padding:4px 10px 4px 0;
border-bottom:1px solid var(--wa-line);overflow-wrap:break-word;color:inherit}
.webaccel thead th{color:var(--wa-soft);font-weight:600;border-bottom-width:2px;overflow-wrap:normal}
.webaccel dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:.6em 0}
.webaccel dt{color:var(--wa-soft)}.webaccel dd{margin:0;overflow-wrap:anywhere}
.webaccel figure{margin:1em 0 .4em;break-inside:avoid}
.webaccel figcaption{font-weight:600;margin-bottom:.2em}
.webaccel figure svg,.webaccel figure img{display:block;max-width:100%;height:auto;color:var(--wa-ink)}
.webaccel details{margin:.2em 0 1em}.webaccel summary{cursor:pointer;color:var(--wa-soft)}
.webaccel .wa-badge{display:inline-block;white-space:nowrap;padding:0 8px;border-radius:9px;
font-size:12px;font-weight:600;border:1px solid currentColor}
.webaccel .wa-hardware{color:#00734f}.webaccel .wa-software{color:#005a8e}.webaccel .wa-fake{color:#b34a00}
.webaccel .wa-good{color:#00734f;font-weight:600}.webaccel .wa-bad{color:#b34a00;font-weight:600}
.webaccel .wa-soft{color:var(--wa-soft)}
.webaccel .wa-note{background:var(--wa-band);border-left:4px solid var(--wa-line);padding:8px 12px;margin:.8em 0}
.webaccel .wa-lane{overflow-wrap:normal;word-break:normal}
.webaccel .wa-key{white-space:nowrap;margin-right:12px}
@media print{.webaccel{max-width:none}.webaccel tr{break-inside:avoid}}
"""


def text(value: object) -> str:
    """Return ``value`` escaped for HTML, in content and in quoted attributes alike."""
    # A lone surrogate, as a test id can carry, would fail where the page is written as UTF-8.
    return escape(str(value).encode("utf-8", "replace").decode("utf-8"), quote=True)


def badge(evidence: Evidence) -> str:
    """Return the mark of a grade of evidence."""
    return f'<span class="wa-badge wa-{text(evidence)}">{text(evidence)} evidence</span>'


def outcome(word: str) -> str:
    """Return an outcome of a test or a recovery, coloured and in words."""
    good = word in {Outcome.RECOVERED, "passed"}
    plain = word in {"skipped", "xfailed"}
    return f'<span class="{"wa-good" if good else "wa-soft" if plain else "wa-bad"}">{text(word)}</span>'


def milliseconds(value: float) -> str:
    """Return a time in ms with as many digits as it deserves."""
    return f"{value:,.1f} ms" if abs(value) < 10 else f"{value:,.0f} ms"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, ready: bool = False) -> str:
    """Return a table. Cells are escaped, unless ``ready`` says that they are HTML of this module."""
    head = "".join(f"<th scope='col'>{text(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell if ready else text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def details(summary: str, inner: str) -> str:
    """Return HTML ``inner`` that is folded until asked for; it needs no script."""
    return f"<details><summary>{text(summary)}</summary>{inner}</details>"


def left_out(total: int) -> str:
    """Return a paragraph that says how many of ``total`` rows a table does not show; empty where it shows all."""
    return f"<p>{total - MOST_ROWS} more are in the database.</p>" if total > MOST_ROWS else ""


def phase_bar(row: RecoveryRow, width: int = 220) -> str:
    """Return where the time of one recovery went, as a small SVG bar ``width`` pixels wide."""
    parts = phases(row)
    total = max(row.total_ms, sum(parts.values()))
    if not 0 < total < float("inf"):
        return ""
    words = ", ".join(f"{name} {milliseconds(value)}" for name, value in parts.items())
    return bar(parts, PHASES, words, width=width, total=total)


def bar(
    parts: Mapping[str, float], colours: Mapping[str, str], words: str, *, width: int = 120, total: float = 0.0
) -> str:
    """Return ``parts`` of ``total`` (their sum by default) side by side as a small SVG bar, which ``words`` tell."""
    whole = max(total, sum(parts.values()))
    pieces, start = [], 0.0
    for name, value in parts.items():
        size = width * value / whole
        pieces.append(f'<rect x="{start:.2f}" y="0" width="{size:.2f}" height="10" fill="{colours[name]}"/>')
        start += size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="10" viewBox="0 0 {width} 10" role="img" '
        f'aria-label="{text(words)}"><title>{text(words)}</title>'
        f'<rect width="{width}" height="10" fill="{FAILED}" fill-opacity="0.08"/>{"".join(pieces)}</svg>'
    )


def phases(row: RecoveryRow) -> dict[str, float]:
    """Return the phases of ``row`` that took time, in ms; what no phase accounts for is ``other``."""
    named = {name: float(getattr(row, f"{name}_ms")) for name in PHASES if name != "other"}
    found = {name: value for name, value in named.items() if 0 < value < float("inf")}
    rest = row.total_ms - sum(found.values())
    return {**found, "other": rest} if 0.05 < rest < float("inf") else found


def phase_key(names: Iterable[str] = PHASES) -> str:
    """Return the legend of the phase bars."""
    return key({name: PHASES[name] for name in names})


def key(colours: Mapping[str, str]) -> str:
    """Return the legend of bars in ``colours``."""
    return "".join(
        f'<span class="wa-key"><svg width="10" height="10" role="presentation">'
        f'<rect width="10" height="10" fill="{colour}"/></svg> {text(name)}</span>'
        for name, colour in colours.items()
    )
