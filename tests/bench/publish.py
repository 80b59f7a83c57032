"""Puts the figures that benchmarks wrote into ``docs/results.md``: ``python -m tests.bench.publish FILE...``.

A table there is whatever the file says, so nobody types a figure.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "docs" / "results.md"


def table(data: dict[str, Any]) -> str:
    """Return machine, lanes and rows of one benchmark as Markdown."""
    machine, rows = data["machine"], data["rows"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lanes = "; ".join(f"{name}: {about}" for name, about in machine["lanes"].items())
    columns = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "lane"]
    lines = [
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, Python {machine['python']}, "
        f"{packages}. {lanes + '.' if lanes else ''}".strip(),
        "",
        f"| {' | '.join(columns)} |",
        f"| {' | '.join('---' for _ in columns)} |",
    ]
    lines += [f"| {' | '.join(cell(row.get(column)) for column in columns)} |" for row in rows]
    return "\n".join(lines)


def cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def publish(paths: list[str]) -> None:
    text = RESULTS.read_text()
    for path in paths:
        data = json.loads(Path(path).read_text())
        name = data["benchmark"]
        opening, closing = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
        if opening not in text:
            raise SystemExit(f"{RESULTS} has no place for {name}")
        before, rest = text.split(opening, 1)
        after = rest.split(closing, 1)[1]
        text = f"{before}{opening}\n{table(data)}\n{closing}{after}"
    RESULTS.write_text(text)


if __name__ == "__main__":
    publish(sys.argv[1:])
