"""Puts the figures that benchmarks wrote into ``docs/results.md``: ``python -m tests.bench.publish FILE...``.

A table there is whatever the files say, so nobody types a figure; several files of one benchmark are one table. With
the recovery matrix come its figure, its rows under ``docs/data``, and its trials beside them, packed, where they are
small enough to be kept: unpacked, they are a state file that ``python -m tests.bench.recovery --state`` goes on with
on such a machine. The faults of a soak are kept likewise, and the rows of all implementations of kernels.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Any

from tests.bench.matrix.figure import svg
from tests.bench.matrix.markdown import section
from tests.bench.matrix.state import parted, read

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results.md"
TRIALS = ROOT / "build" / "bench" / "recovery.jsonl"
FAULTS = ROOT / "build" / "bench" / "soak.jsonl"
#: Bytes up to which packed trials are kept.
MOST_BYTES = 2_000_000


def table(data: dict[str, Any]) -> str:
    """Return machine, lanes, summary and rows of one benchmark as Markdown."""
    rows = data["rows"]
    apart = len({row.get("lane") for row in rows}) > 1
    columns = [name for name in dict.fromkeys(key for row in rows for key in row) if apart or name != "lane"]
    lines = [digest(data), "", f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    lines += [f"| {' | '.join(cell(row.get(column)) for column in columns)} |" for row in rows]
    return "\n".join(lines)


def digest(data: dict[str, Any]) -> str:
    """Return machine, lanes and summary of one benchmark as Markdown."""
    machine = data["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lanes = "; ".join(f"{name}: {about}" for name, about in machine["lanes"].items())
    lines = [
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, Python {machine['python']}, "
        f"{packages}. {lanes + '.' if lanes else ''}".strip(),
        *([""] if data.get("summary") else []),
        *(f"- {line}" for line in data.get("summary", ())),
    ]
    return "\n".join(lines)


def cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def put(text: str, name: str, body: str) -> str:
    """Return ``text`` with what stands between the marks of ``name`` replaced."""
    opening, closing = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    if opening not in text:
        raise SystemExit(f"{RESULTS} has no place for {name}")
    before, rest = text.split(opening, 1)
    after = rest.split(closing, 1)[1]
    return f"{before}{opening}\n{body}\n{closing}{after}"


def impersonal(data: Any) -> Any:
    """Return JSON data without what names the machine it comes from: home folders, kernel, host."""
    text = json.dumps(data).replace(str(Path.home()), "~").replace(str(ROOT), ".")
    told = json.loads(text)
    if isinstance(told, dict) and isinstance(told.get("machine"), dict):
        told["machine"].pop("system", None)
    return told


def packed(header: dict[str, Any], entries: list[dict[str, Any]]) -> bytes:
    """Return a state file, packed; the same entries, the same bytes."""
    lines = "".join(json.dumps(impersonal(entry)) + "\n" for entry in [{"header": header}, *entries])
    return gzip.compress(lines.encode(), mtime=0)


def publish_matrix(data: dict[str, Any], trials: Path) -> str:
    """Write the matrix's figure and data; return its Markdown."""
    header, results = read(trials)
    if header.get("seed") != data["seed"] or sum(row["n"] + row["void"] for row in data["rows"]) != len(results):
        raise SystemExit(f"{trials} does not hold the trials of these rows: name the right file with --trials")
    folder = RESULTS.parent / "data"
    folder.mkdir(exist_ok=True)
    data = impersonal(data)
    (folder / "recovery.json").write_text(json.dumps(data, indent=1) + "\n")
    (RESULTS.parent / "images" / "recovery-matrix.svg").write_text(svg(results))
    keep(packed(header, [result.to_json() for result in results]), folder / "recovery-trials.jsonl.gz")
    return section(data, results)


def keep(whole: bytes, path: Path) -> None:
    """Write what was measured, packed, unless it is too much for a repository."""
    if len(whole) <= MOST_BYTES:
        path.write_bytes(whole)
    else:
        path.unlink(missing_ok=True)
        print(f"{path.name} would have {len(whole)} bytes: more than {MOST_BYTES}, so it is left out")


def publish_soak(data: dict[str, Any], faults: Path) -> str:
    """Write the faults of a soak, from which it can go on; return its Markdown."""
    header, entries = parted(faults)
    if sum("number" in entry for entry in entries) != data["rows"][0]["n"]:
        raise SystemExit(f"{faults} does not hold the faults of this row: name the right file with --faults")
    keep(packed(header, entries), RESULTS.parent / "data" / "soak-faults.jsonl.gz")
    return table(data)


def publish_kernels(data: dict[str, Any]) -> str:
    """Write all implementations' rows; return the Markdown of ours, each with the better peer."""
    (RESULTS.parent / "data" / "kernels.json").write_text(json.dumps(impersonal(data), indent=1) + "\n")
    ours = [row for row in data["rows"] if row["implementation"] == "ours"]
    return table({**data, "rows": ours})


def publish_alone(data: dict[str, Any]) -> str:
    """Write the rows; return the Markdown of what they come to."""
    (RESULTS.parent / "data" / "kernels-alone.json").write_text(json.dumps(impersonal(data), indent=1) + "\n")
    return digest(data)


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return two runs of one benchmark, on other lanes or adapters of one machine, as one."""
    machine = first["machine"]
    if any(machine[key] != value for key, value in second["machine"].items() if key != "lanes"):
        raise SystemExit(f"the two runs of {first['benchmark']} are from machines that differ")
    lanes = {**machine["lanes"], **second["machine"]["lanes"]}
    both = {key: [*first.get(key, []), *second.get(key, [])] for key in ("summary", "rows")}
    return {**first, "machine": {**machine, "lanes": lanes}, **both}


def publish(paths: list[str], trials: Path = TRIALS, faults: Path = FAULTS) -> None:
    text = RESULTS.read_text()
    told: dict[str, dict[str, Any]] = {}
    for path in paths:
        data = json.loads(Path(path).read_text())
        name = data["benchmark"]
        told[name] = joined(told[name], data) if name in told else data
    for name, data in told.items():
        match name:
            case "recovery":
                body = publish_matrix(data, trials)
            case "soak":
                body = publish_soak(data, faults)
            case "kernels":
                body = publish_kernels(data)
            case "kernels_alone":
                body = publish_alone(data)
            case _:
                body = table(data)
        text = put(text, name, body)
    RESULTS.write_text(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.publish")
    parser.add_argument("files", nargs="+", help="what benchmarks wrote with --out")
    parser.add_argument("--trials", type=Path, default=TRIALS, help="the state file of the recovery matrix")
    parser.add_argument("--faults", type=Path, default=FAULTS, help="the state file of the soak")
    options = parser.parse_args(sys.argv[1:])
    publish(options.files, options.trials, options.faults)
