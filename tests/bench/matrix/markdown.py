"""The matrix as Markdown, for ``docs/results.md``. Pure; nobody types a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_webaccel.terms import Fault, Strategy
from tests.bench.matrix.design import TWO_FAULTS, Arm
from tests.bench.matrix.targets import compare

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.bench.matrix.state import Result

__all__ = ["OLDER", "section"]

#: What the older system of the same aim published: success rate in per cent, recovery time in ms.
OLDER: Mapping[str, tuple[tuple[int, int], ...]] = {
    "simple": ((92, 350), (80, 850), (85, 650), (70, 1050)),
    "progressive": ((97, 280), (95, 480), (94, 420), (89, 720)),
    "coordinated": ((99, 320), (98, 520), (96, 450), (94, 680)),
    "parallel": ((95, 270), (90, 520), (92, 390), (86, 650)),
}
_OLDER_FAULTS = (
    ("connection loss", str(Fault.CONNECTION_LOST)),
    ("browser crash", str(Fault.BROWSER_CRASH)),
    ("component timeout", str(Fault.COMPONENT_TIMEOUT)),
    ("multiple failures", TWO_FAULTS),
)

_FULL = (
    *("fault", "lane", "strategy", "spare", "n", "recovered", "success_low", "success_high"),
    *("net_p50_ms", "net_low_ms", "net_high_ms", "p50_ms", "p95_ms", "p99_ms", "detect_p50_ms"),
    *("cpu_ms", "memory_bytes", "attempts", "in_force", "censored", "void", "rungs"),
)
#: Title of each kind of target, with whether it was met, and whether the interval leaves no doubt of that.
_SORTED = (
    ("Missed", False, True),
    ("Missed at the median; the interval reaches over the target", False, False),
    ("Not measured", None, True),
    ("Met at the median; the interval reaches over the target", True, False),
    ("Met", True, True),
)
_PHASES = ("detect", "reassign", "load", "restore", "replay")


#: What is said above each part.
_FIGURE = "![Which share had recovered after how long, by fault and strategy](images/recovery-matrix.svg)"
_PEER_WORDS = (
    "**Beside the relaunching fixture that users of Playwright write by hand.** Medians of the time to "
    "recover; a ratio of 0.4 is 60 % less. In one process, without pytest between, which favours the fixture."
)
_COLD_WORDS = (
    "**The bare cold start** that recoveries without a spare are held against: another browser, the model "
    "loaded in it, its first answer."
)
_OLDER_WORDS = (
    "**Beside the table that an older system of the same aim published.** No measurement stood behind its "
    "figures. Success and median time to recover, ours net and, in brackets, whole: with the request's own time, and "
    "with the deadline by which a hang is seen (1 s for `component_timeout`). Ours for `coordinated` are with a warm "
    "spare (two for two faults). `two_faults` stands for its multiple failures."
)
_SESSION_WORDS = (
    "**Peers as they come.** pytest-playwright with pytest-rerunfailures, and pytest-xdist: the test that was "
    "struck, and the four that came after it in the same session."
)
_PHASE_WORDS = "**Where the time goes** with a warm spare, in ms at the median."
_CELL_WORDS = (
    "**Every cell.** `net` is the time from the fault to the right answer, less the request's own undisturbed "
    "time and, where only a deadline sees the fault, that deadline; `p50` to `p99` are the whole time. A trial "
    "that failed counts as longer than every other, so a percentile among failures is empty. `success_low`, "
    "`success_high`: Wilson's 95 % interval. `detect_p50_ms`: from the fault to the damage seen. `cpu_ms`: what "
    "browsers and the worker used from fault to answer. `memory_bytes`: what browsers then held beyond what they held "
    "before, so at least that much was needed. Both are empty where nobody measured them. `in_force`: "
    "trials whose rungs are those of the strategy named. `void`: the fault was not caused, or did nothing."
)


def section(data: Mapping[str, Any], results: Sequence[Result]) -> str:
    """Return everything that stands between the marks of the recovery matrix."""
    rows = data["rows"]
    peer = ("fault", "lane", "coordinated, spare", "playwright_rerun", "ratio", "95 % interval")
    blocks = (
        _about(data),
        _FIGURE,
        _targets(data["targets"]),
        _PEER_WORDS,
        _table(peer, _peer(rows, results)),
        _COLD_WORDS,
        _table(("lane", "n", "p50_ms", "p95_ms", "start", "load", "answer"), _cold(rows)),
        _OLDER_WORDS,
        _table(("strategy", *(name for name, _ in _OLDER_FAULTS)), _older(rows)),
        _SESSION_WORDS,
        _table(("peer", "fault", "lane", "sessions", "recovered", "p50_ms", "later"), _sessions(rows)),
        _PHASE_WORDS,
        _table(("fault", "lane", *_PHASES, "undisturbed", "deadline"), _phases(rows)),
        _CELL_WORDS,
        _table(_FULL, ([row.get(name) for name in _FULL] for row in rows)),
        _kinds(rows),
        _left_out(data["excluded"]),
    )
    return "\n\n".join(block for block in blocks if block)


def _about(data: Mapping[str, Any]) -> str:
    machine = data["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lanes = "; ".join(f"{name}: {about}" for name, about in machine["lanes"].items())
    trials = sum(row["n"] for row in data["rows"])
    part = "" if data["whole"] else " The run is not whole: it was ended before every cell had its trials."
    commits = ", ".join(data["commits"]) or "unknown"
    return (
        f"{trials} trials, seed {data['seed']}, commit {commits}. {machine['cores']} cores "
        f"({machine['processor']}), {machine['memory_gib']} GiB, Python {machine['python']}, {packages}. {lanes}."
        f"{part} The rows are in [data/recovery.json](data/recovery.json)."
    )


def _targets(targets: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for title, met, shown in _SORTED:
        fitting = [one for one in targets if (one["met"], one["shown"]) == (met, shown)]
        lines = [f"- {one['what']}: {one['wanted']}{_found(one)}" for one in fitting]
        if lines:
            parts.append(f"**{title}**\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _found(one: Mapping[str, Any]) -> str:
    return f"; found {one['found']}" if one["found"] else ""


def _peer(rows: Sequence[Mapping[str, Any]], results: Sequence[Result]) -> Iterator[list[Any]]:
    medians = {(row["strategy"], row["fault"], row["lane"], row["spare"]): row["net_p50_ms"] for row in rows}
    for (fault, lane), one in compare(results, Strategy.COORDINATED, Arm.RERUN, spare=True).items():
        if one is None:
            continue
        ours = medians[Strategy.COORDINATED, fault, lane, True]
        theirs = medians[Arm.RERUN, fault, lane, False]
        yield [fault, lane, ours, theirs, one.value, f"{one.low:.3f} to {one.high:.3f}"]


def _cold(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[Any]]:
    for row in rows:
        if row["strategy"] == Arm.COLD:
            parts = [row[f"{phase}_p50_ms"] for phase in ("reassign", "load", "replay")]
            yield [row["lane"], row["n"], row["p50_ms"], row["p95_ms"], *parts]


def _older(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for strategy, published in OLDER.items():
        theirs = [f"{success} % / {time} ms" for success, time in published]
        yield [f"{strategy}, published, not measured", *theirs]
        ours = [_measured(rows, strategy, fault) for _, fault in _OLDER_FAULTS]
        yield [f"{strategy}, measured here", *ours]


def _measured(rows: Sequence[Mapping[str, Any]], strategy: str, fault: str) -> str:
    spare = strategy == Strategy.COORDINATED
    found = [row for row in rows if (row["strategy"], row["fault"], row["spare"]) == (strategy, fault, spare)]
    if not found:
        return "not measured"
    row = found[0]
    time = "more than half failed"
    if row["net_p50_ms"] is not None:
        time = f"{row['net_p50_ms']:.0f} ms ({row['p50_ms']:.0f} ms)"
    return f"{row['success']:.1%} / {time} ({row['recovered']} of {row['n']})"


def _sessions(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[Any]]:
    for row in rows:
        if row["strategy"] in Arm.SESSIONS:
            names = [row[name] for name in ("strategy", "fault", "lane", "n", "recovered", "p50_ms")]
            yield [*names, row["later"]]


def _phases(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[Any]]:
    for row in rows:
        if row["strategy"] == Strategy.COORDINATED and row["spare"]:
            names = (*_PHASES, "undisturbed", "deadline")
            yield [row["fault"], row["lane"], *(row[f"{name}_p50_ms"] for name in names)]


def _kinds(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"- {row['strategy']}{', spare' if row['spare'] else ''}, {row['fault']}, {row['lane']}: "
        + "; ".join(
            f"{kind} {one['recovered']} of {one['n']}"
            + (f", {_cell(one['net_p50_ms'])} ms" if one["net_p50_ms"] else "")
            for kind, one in row["variants"].items()
        )
        for row in rows
        if row["variants"] and row["strategy"] in {*Arm.OURS, Arm.RERUN}
    ]
    return "**Kinds within a cell**, net medians:\n\n" + "\n".join(lines) if lines else ""


def _left_out(excluded: Sequence[Mapping[str, Any]]) -> str:
    if not excluded:
        return ""
    lines = [f"- {one['strategy']}, {one['fault']}, {one['lane']}: {one['reason']}" for one in excluded]
    return "**Cells that cannot be**, and why:\n\n" + "\n".join(lines)


def _table(header: Sequence[str], lines: Iterator[Sequence[Any]]) -> str:
    body = [f"| {' | '.join(_cell(value) for value in line)} |" for line in lines]
    if not body:
        return "Not measured."
    return "\n".join([f"| {' | '.join(header)} |", f"| {' | '.join('---' for _ in header)} |", *body])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value).replace("|", "\\|")
