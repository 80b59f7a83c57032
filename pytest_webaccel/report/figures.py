"""The static figures of a report. Each shows one grade of evidence; none mixes two.

Every function returns a :class:`Picture`, or None when there is nothing to show. Times are
milliseconds. matplotlib is imported when the first figure is drawn, without pyplot or its state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_webaccel.report.data import Cell, ReportData, recovered
from pytest_webaccel.report.palette import FAILED, FALLBACK, INK, MARKERS, PHASES, STRATEGIES
from pytest_webaccel.report.picture import Picture, drawing, label
from pytest_webaccel.report.statistics import Censored, summarise, summarise_censored, wilson
from pytest_webaccel.terms import Evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pytest_webaccel.rows import RecoveryRow

__all__ = ["durations", "pictures", "recovery_phases", "recovery_times", "success_board"]

_WIDTH = 9.0
_ROW = 0.42
#: Most dots drawn in one row; of more, an even choice over the sorted sample.
_MOST_DOTS = 300
#: Most rows in one figure; the table beside it has them all.
_MOST_ROWS = 40
_PHASE_NAMES = ("detect", "reassign", "load", "restore", "replay")


def pictures(data: ReportData) -> list[Picture]:
    """Return every figure that ``data`` has something for, grade by grade."""
    drawers: tuple[Callable[[ReportData, Evidence], Picture | None], ...] = (
        success_board,
        recovery_times,
        recovery_phases,
        durations,
    )
    found = (drawer(data, grade) for grade in data.grades for drawer in drawers)
    return [picture for picture in found if picture is not None]


def recovery_times(data: ReportData, evidence: Evidence) -> Picture | None:
    """Return recovery time by fault and strategy: samples, medians, and what failed as crosses.

    What failed is censored: in medians, their intervals and percentiles it is longer than all that recovered.
    """
    cells = data.cells(evidence)
    if not cells:
        return None
    rows = tuple(_time_words(cell) for cell in cells)
    with drawing():
        figure, axes = _canvas(min(len(cells), _MOST_ROWS), evidence)
        shown = cells[:_MOST_ROWS]
        _time_axis(axes, [time for cell in shown for time in [*_finite(cell.times), *_failed_times(cell)]])
        left = axes.get_xlim()[0]
        for position, cell in enumerate(shown):
            colour = STRATEGIES.get(cell.strategy, FALLBACK)
            _strip(axes, position, _finite(cell.times), len(cell.failed), colour, MARKERS.get(cell.strategy, "o"))
            _crosses(axes, position, [max(time, left) for time in _failed_times(cell)])
            axes.annotate(_time_note(cell), (1.01, position), xycoords=("axes fraction", "data"), va="center", size=8)
        _row_names(axes, [f"{label(cell.fault)}\n{label(cell.strategy)}" for cell in shown])
        _group_lines(axes, [cell.fault for cell in shown])
        axes.set_xlabel("recovery time of the original request, ms")
        _time_legend(axes, any(_failed_times(cell) for cell in shown))
    alt = "Recovery time by fault and strategy. " + " ".join(f"{row[0]} with {row[1]}: {row[3]}." for row in rows)
    header = ("fault", "strategy", "n", "recovery time", "95 % interval of the median", "p95", "failed", "unknown")
    return Picture("recovery-times", "Recovery time by fault and strategy", evidence, alt, header, rows, figure)


def success_board(data: ReportData, evidence: Evidence) -> Picture | None:
    """Return the success rate of each fault under each strategy, with its Wilson interval."""
    cells = data.cells(evidence)
    if not cells:
        return None
    faults = list(dict.fromkeys(cell.fault for cell in cells))[:_MOST_ROWS]
    strategies = list(dict.fromkeys(cell.strategy for cell in cells))
    rows = tuple((cell.fault, cell.strategy, *_rate_words(cell)) for cell in cells)
    with drawing():
        figure, axes = _canvas(len(faults), evidence, row=0.72, right=0.4, bottom=0.35)
        for cell in cells:
            if cell.fault in faults:
                _board_cell(axes, strategies.index(cell.strategy), faults.index(cell.fault), cell)
        axes.set_xlim(0, len(strategies))
        axes.set_ylim(len(faults), 0)
        axes.set_xticks([position + 0.5 for position in range(len(strategies))], [label(name) for name in strategies])
        axes.set_yticks([position + 0.5 for position in range(len(faults))], [label(name) for name in faults])
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=9)
        axes.set_xlabel("share of faults recovered; bar: its 95 % Wilson interval, from 0 to 100 %", size=8, labelpad=2)
        axes.xaxis.set_label_position("bottom")
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    alt = "Success rate by fault and strategy. " + " ".join(
        f"{row[0]} with {row[1]}: {row[3]}, {row[4]}." for row in rows
    )
    header = ("fault", "strategy", "recovered of n", "success rate", "95 % Wilson interval")
    return Picture("success-board", "Success rate by fault and strategy", evidence, alt, header, rows, figure)


def recovery_phases(data: ReportData, evidence: Evidence) -> Picture | None:
    """Return where recovery time went: the mean of each phase over the recovered tries, stacked."""
    cells = tuple(cell for cell in data.cells(evidence) if any(_whole(row) for row in recovered(cell.rows)))
    if not cells:
        return None
    means = [_phase_means([row for row in recovered(cell.rows) if _whole(row)]) for cell in cells]
    counts = [sum(_whole(row) for row in recovered(cell.rows)) for cell in cells]
    rows = tuple(
        (cell.fault, cell.strategy, str(n), *(_ms(mean[name]) for name in PHASES), _ms(sum(mean.values())))
        for cell, mean, n in zip(cells, means, counts, strict=True)
    )
    with drawing():
        shown = cells[:_MOST_ROWS]
        figure, axes = _canvas(len(shown), evidence)
        widest = max(sum(mean.values()) for mean in means[: len(shown)]) or 1.0
        axes.set_xlim(0, widest * 1.02)
        for position, mean in enumerate(means[: len(shown)]):
            _stack(axes, position, mean, widest)
            note = f"{_ms(sum(mean.values()))}   n={counts[position]}"
            axes.annotate(note, (1.01, position), xycoords=("axes fraction", "data"), va="center", size=8)
        _row_names(axes, [f"{label(cell.fault)}\n{label(cell.strategy)}" for cell in shown])
        _group_lines(axes, [cell.fault for cell in shown])
        axes.set_xlabel("mean time of each phase over the recovered tries, ms")
        _phase_legend(axes, means)
    alt = "Mean time in each phase of recovery. " + " ".join(
        f"{row[0]} with {row[1]}: "
        + ", ".join(f"{name} {text}" for name, text in zip(PHASES, row[3:], strict=False))
        + "."
        for row in rows
    )
    header = ("fault", "strategy", "n", *PHASES, "total")
    return Picture("recovery-phases", "Where recovery time went", evidence, alt, header, rows, figure)


def durations(data: ReportData, evidence: Evidence) -> Picture | None:
    """Return how long the passed tests took on each lane."""
    samples: dict[str, list[float]] = {}
    for test in data.tests:
        if test.evidence == evidence and test.lane and test.outcome == "passed" and math.isfinite(test.duration_ms):
            samples.setdefault(test.lane, []).append(test.duration_ms)
    if not samples:
        return None
    lanes = sorted(samples)
    summaries = {lane: summarise(samples[lane]) for lane in lanes}
    rows = tuple(
        (lane, str(summaries[lane].n), _ms(summaries[lane].median), _ms(summaries[lane].p95)) for lane in lanes
    )
    with drawing():
        shown = lanes[:_MOST_ROWS]
        figure, axes = _canvas(len(shown), evidence)
        _time_axis(axes, [value for lane in shown for value in samples[lane]])
        for position, lane in enumerate(shown):
            _strip(axes, position, samples[lane], 0, STRATEGIES["coordinated"], "o")
            note = f"{_ms(summaries[lane].median)}   n={summaries[lane].n}"
            axes.annotate(note, (1.01, position), xycoords=("axes fraction", "data"), va="center", size=8)
        _row_names(axes, [label(lane) for lane in shown])
        axes.set_xlabel("duration of passed tests, ms (bar: median)")
    alt = "Duration of passed tests by lane. " + " ".join(f"{row[0]}: median {row[2]}, n={row[1]}." for row in rows)
    return Picture("durations", "Test durations by lane", evidence, alt, ("lane", "n", "median", "p95"), rows, figure)


# Drawing


def _canvas(
    rows: int, evidence: Evidence, row: float = _ROW, right: float = 1.75, bottom: float = 0.55
) -> tuple[Figure, Axes]:
    """Return an empty figure with room for ``rows`` rows; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    top, left = 0.42, 1.75
    height = max(rows, 2) * row + top + bottom
    figure = Figure(figsize=(_WIDTH, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes(
        (left / _WIDTH, bottom / height, (_WIDTH - left - right) / _WIDTH, (height - top - bottom) / height)
    )
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis="x", color=INK, alpha=0.14, linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_alpha(0.4)
    if evidence is Evidence.FAKE:
        centre = (left + (_WIDTH - left - right) / 2) / _WIDTH
        figure.text(
            centre, 0.5, "FAKE BROWSER - NOT MEASURED", size=24, weight="bold", color=FAILED, alpha=0.22,
            ha="center", va="center", rotation=8, zorder=10,
        )  # fmt: skip
    return figure, axes


def _row_names(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 2) - 0.5, -0.5)


def _group_lines(axes: Axes, groups: Sequence[str]) -> None:
    for position in range(1, len(groups)):
        if groups[position] != groups[position - 1]:
            axes.axhline(position - 0.5, color=INK, alpha=0.25, linewidth=0.7)


def _time_axis(axes: Axes, times: Sequence[float]) -> None:
    """Make the axis logarithmic where the sample is wide, and give it round ends."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    positive = [time for time in times if time > 0]
    if positive and max(positive) / min(positive) > 20:
        axes.set_xscale("log")
        axes.set_xlim(min(positive) / 1.4, max(positive) * 1.4)
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, max(positive, default=1.0) * 1.08)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _strip(axes: Axes, position: int, times: Sequence[float], failures: int, colour: str, marker: str) -> None:
    """Draw one sample: a dot a value, a bar at the median, a band for the median's interval, where they are known."""
    if not times:
        return
    summary = summarise_censored(times, failures)
    if summary.median_interval is not None:
        low, high = summary.median_interval.low, summary.median_interval.high
        axes.fill_betweenx([position - 0.3, position + 0.3], low, high, color=colour, alpha=0.25, linewidth=0)
    chosen = _thin(times)
    # A golden-ratio sequence spreads the dots evenly and the same way each time.
    heights = [position + ((number * 0.618034) % 1.0 - 0.5) * 0.42 for number in range(len(chosen))]
    dots: dict[str, Any] = {"s": 17, "marker": marker, "color": colour, "alpha": 0.85, "linewidths": 0}
    axes.scatter(chosen, heights, **dots)
    if summary.median is not None:
        ends = [position - 0.34, position + 0.34]
        axes.plot([summary.median] * 2, ends, color=INK, linewidth=1.8, solid_capstyle="butt")


def _crosses(axes: Axes, position: int, times: Sequence[float]) -> None:
    """Draw tries that did not recover where they were given up: the true time is longer, or never."""
    chosen = _thin(times)
    heights = [position + ((number * 0.618034) % 1.0 - 0.5) * 0.42 for number in range(len(chosen))]
    axes.scatter(chosen, heights, s=30, marker="x", color=FAILED, linewidths=1.5, clip_on=False, zorder=4)


def _stack(axes: Axes, position: int, mean: dict[str, float], widest: float) -> None:
    start = 0.0
    for name, colour in PHASES.items():
        width = mean[name]
        if width <= 0:
            continue
        axes.barh(position, width, left=start, height=0.6, color=colour, linewidth=0)
        text = f"{width:.0f}"
        if width / widest > 0.018 * len(text) + 0.012:
            axes.text(start + width / 2, position, text, ha="center", va="center", size=7.5, color="#101418")
        start += width


def _board_cell(axes: Axes, column: int, line: int, cell: Cell) -> None:
    from matplotlib.patches import Rectangle

    n, good = len(cell.rows), cell.recovered
    interval = wilson(good, n)
    ink = "#101418"
    axes.add_patch(Rectangle((column + 0.02, line + 0.05), 0.96, 0.9, facecolor=_tint(good / n), linewidth=0))
    axes.text(column + 0.07, line + 0.36, f"{good / n:.0%}", size=14, weight="bold", va="center", color=ink)
    words = f"{good} of {n}\n{interval.low:.0%} to {interval.high:.0%}"
    axes.text(column + 0.93, line + 0.36, words, size=7.5, va="center", ha="right", color=ink, linespacing=1.35)
    track = 0.86
    axes.add_patch(Rectangle((column + 0.07, line + 0.74), track, 0.06, facecolor="#ffffff", alpha=0.75, linewidth=0))
    start, width = column + 0.07 + track * interval.low, track * (interval.high - interval.low)
    axes.add_patch(
        Rectangle((start, line + 0.74), max(width, 0.004), 0.06, facecolor="#33414f", alpha=0.55, linewidth=0)
    )
    point = column + 0.07 + track * good / n
    axes.plot([point, point], [line + 0.68, line + 0.86], color=ink, linewidth=2, solid_capstyle="butt")


def _tint(rate: float) -> str:
    """Return a light colour from vermilion (0) over white-yellow to blue (1), apart for every kind of sight."""
    stops = ((0xF4, 0xB3, 0x8A), (0xF6, 0xE8, 0xC3), (0xA6, 0xCF, 0xEA))
    place = min(max(rate, 0.0), 1.0) * 2
    first = min(int(place), 1)
    mixed = (round(a + (b - a) * (place - first)) for a, b in zip(stops[first], stops[first + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _time_legend(axes: Axes, failures: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], marker="o", linestyle="", color="#8A8F98", markersize=4.5, label="one fault"),
        Line2D([], [], color=INK, linewidth=1.8, label="median"),
        Patch(facecolor="#8A8F98", alpha=0.35, label="95 % interval of the median"),
    ]
    if failures:
        handles.append(
            Line2D([], [], marker="x", linestyle="", color=FAILED, markersize=6, label="not recovered, given up here")
        )
    _legend(axes, handles)


def _phase_legend(axes: Axes, means: Sequence[dict[str, float]]) -> None:
    from matplotlib.patches import Patch

    used = [name for name in PHASES if any(mean[name] > 0 for mean in means)]
    _legend(axes, [Patch(facecolor=PHASES[name], label=name) for name in used])


def _legend(axes: Axes, handles: list[Any]) -> None:
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(handles), frameon=False, fontsize=8,
        borderaxespad=0.2, handlelength=1.4, columnspacing=1.4,
    )  # fmt: skip


# Figures in words


def _finite(times: Sequence[float]) -> list[float]:
    return [time for time in times if math.isfinite(time) and time >= 0]


def _failed_times(cell: Cell) -> list[float]:
    """Return when tries were given up; one that was given no time is drawn nowhere."""
    return [time for time in _finite([row.total_ms for row in cell.failed]) if time > 0]


def _censored(cell: Cell) -> Censored:
    return summarise_censored(_finite(cell.times), len(cell.failed))


def _whole(row: RecoveryRow) -> bool:
    return all(math.isfinite(value) and value >= 0 for value in (row.total_ms, *_parts(row).values()))


def _parts(row: RecoveryRow) -> dict[str, float]:
    return {name: float(getattr(row, f"{name}_ms")) for name in _PHASE_NAMES}


def _phase_means(rows: Sequence[RecoveryRow]) -> dict[str, float]:
    means = {name: sum(_parts(row)[name] for row in rows) / len(rows) for name in _PHASE_NAMES}
    total = sum(row.total_ms for row in rows) / len(rows)
    return {**means, "other": max(0.0, total - sum(means.values()))}


def _phase_words(texts: Sequence[str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in zip((*PHASES, "total"), texts, strict=True))


def _thin(times: Sequence[float]) -> list[float]:
    ordered = sorted(times)
    if len(ordered) <= _MOST_DOTS:
        return list(times)
    step = (len(ordered) - 1) / (_MOST_DOTS - 1)
    return [ordered[round(number * step)] for number in range(_MOST_DOTS)]


def _ms(value: float) -> str:
    if value < 10:
        return f"{value:.1f} ms"
    return f"{value:,.0f} ms"


def _time_note(cell: Cell) -> str:
    median = _censored(cell).median
    parts = [_ms(median)] if median is not None else []
    parts.append(f"n={len(cell.rows)}")
    parts += [f"{count} {word}" for count, word in ((len(cell.failed), "failed"), (cell.unknown, "unknown")) if count]
    return "   ".join(parts)


def _time_words(cell: Cell) -> tuple[str, ...]:
    found, counts = _censored(cell), (str(len(cell.failed)), str(cell.unknown))
    names = (cell.fault, cell.strategy, str(len(cell.rows)))
    if not _finite(cell.times):
        return (*names, "none recovered", "", "", *counts)
    if found.median is None:
        return (*names, "half or more failed", "", "", *counts)
    interval = found.median_interval
    wide = "one value only" if len(cell.times) < 2 else "open: too many failed"
    told = f"{_ms(interval.low)} to {_ms(interval.high)}" if interval else wide
    return (*names, f"median {_ms(found.median)}", told, "" if found.p95 is None else _ms(found.p95), *counts)


def _rate_words(cell: Cell) -> tuple[str, str, str]:
    n, good = len(cell.rows), cell.recovered
    interval = wilson(good, n)
    return f"{good} of {n}", f"{good / n:.1%}", f"{interval.low:.1%} to {interval.high:.1%}"
