"""The matrix as a figure: for each fault, which share had recovered after how long. The same trials, the same file."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.report.palette import INK, STRATEGIES
from pytest_webaccel.report.picture import drawing
from tests.bench.matrix.design import Arm
from tests.bench.matrix.summary import by_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.matrix.design import Cell
    from tests.bench.matrix.state import Result

__all__ = ["ecdf", "svg"]

_COLUMNS = 4
#: Points of a curve at most: more would not be seen, and the file is read by people who pay for bytes.
_POINTS = 60
_DRAWN = (*Arm.OURS[1:], Arm.WORKER_RESTART, Arm.RERUN)
_COLOURS = {**STRATEGIES, Arm.RERUN: INK}
#: Below this many milliseconds there is nothing to tell apart.
_LEAST_MS = 1.0


def ecdf(trials: Sequence[Result]) -> tuple[list[float], list[float]]:
    """Return times and the share of all trials that had recovered by then; those that failed never do."""
    times = sorted(max(trial.net_ms, _LEAST_MS) for trial in trials if trial.recovered)
    if not times:
        return [], []
    picked = sorted({round(index) for index in np.linspace(0, len(times) - 1, min(_POINTS, len(times)))})
    return [times[index] for index in picked], [(index + 1) / len(trials) for index in picked]


def svg(results: Sequence[Result]) -> str:
    """Return the figure as an SVG document."""
    from matplotlib.figure import Figure

    groups = {cell: trials for cell, trials in by_cell(results).items() if cell.strategy in _DRAWN}
    panels = sorted({(cell.fault, cell.lane) for cell in groups})
    lines = max(math.ceil(len(panels) / _COLUMNS), 1)
    with drawing():
        figure = Figure(figsize=(11.0, 2.1 * lines + 0.9), layout="constrained")
        axes = list(np.ravel(figure.subplots(lines, _COLUMNS, sharex=True, sharey=True)))
        for axis, (fault, lane) in zip(axes, panels, strict=False):
            here = {cell: trials for cell, trials in groups.items() if (cell.fault, cell.lane) == (fault, lane)}
            _panel(axis, f"{fault}\n{lane}", here)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis in axes[max(len(panels) - _COLUMNS, 0) : len(panels)]:
            axis.tick_params(labelbottom=True)
        _legend(figure, axes[: len(panels)])
        figure.supxlabel("ms from the fault to the right answer, less the request's own time and a set deadline")
        figure.supylabel("share recovered; x: failed, drawn where it was given up")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode("utf-8")


def _panel(axis: Any, title: str, here: dict[Cell, list[Result]]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_title(title, fontsize=8)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelsize=8)
    axis.set_ylim(-0.03, 1.06)
    axis.grid(visible=True, color="#e3e5e8", linewidth=0.5)
    for cell, trials in here.items():
        colour, name = _COLOURS[cell.strategy], _name(cell)
        times, shares = ecdf(trials)
        style = {"color": colour, "linestyle": "--" if cell.spare else "-", "linewidth": 1.4}
        if times:
            axis.step([times[0], *times], [0.0, *shares], where="post", label=name, **style)
        failed = [trial for trial in trials if not trial.recovered]
        if failed:
            reached = shares[-1] if shares else 0.0
            at = max(max(trial.budget_ms for trial in failed), _LEAST_MS)
            axis.plot([at], [reached], "x", color=colour, markersize=5, label=None if times else name)


def _name(cell: Cell) -> str:
    return f"{cell.strategy}, warm spare" if cell.spare else cell.strategy


def _legend(figure: Any, axes: Sequence[Any]) -> None:
    named: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        named.update({label: handle for handle, label in zip(handles, labels, strict=True) if label not in named})
    if named:
        order = sorted(named, key=lambda name: (_DRAWN.index(name.partition(",")[0]), name))
        figure.legend(
            [named[name] for name in order], order, loc="outside upper center", ncols=min(len(named), 7), fontsize=8
        )
