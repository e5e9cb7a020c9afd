"""Published numbers against their predictions: passes and speedups, the roofline beside."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from specsim.figures.style import COLOURS, NotebookFigure, by_decades, styled, subplots

# The three ways to predict that are drawn, by the key of a row: the mark and the colour of each.
WAYS = {
    "ideal": ("roofline", ".", "overhead"),
    "without_source": ("without the row's source", "o", "speedup"),
}


@styled
def published(document: Mapping[str, Any]) -> NotebookFigure:
    """`validation.report()`: a panel of all passes, one of all speedups; on the line is right.

    A prediction is the one whose constants were fitted without the row's source. In the panel of
    speedups the dashed lines are at 1: left of and below them speculation costs time.
    """
    figure, (times, gains) = subplots(2, height=3.4)
    passes = [row for row in document["rows"] if row["scored"]]
    measured = [1e3 * row["measured_s"] for row in passes]
    errors = {"ideal": "error_ideal", "without_source": "error_without_source"}
    for way, error in errors.items():
        predicted = [m * (1 + row[error]) for m, row in zip(measured, passes, strict=True)]
        _scatter(times, measured, predicted, way)
    _right(times, "time of a plain step, ms", "plain steps")
    speedups = document["speedups"]
    told = [row["published"] for row in speedups]
    for way in WAYS:
        _scatter(gains, told, [row[way] for row in speedups], way)
    for line in (gains.axvline, gains.axhline):
        line(1.0, color=COLOURS["plain"], linewidth=0.8, linestyle="--")
    _right(gains, "speedup", "speedups")
    times.legend(loc="upper left")
    return figure


def _scatter(axes: Axes, x: Sequence[float], y: Sequence[float], way: str) -> None:
    label, mark, colour = WAYS[way]
    size = {".": 3.0, "o": 4.0}[mark]
    axes.plot(
        x, y, mark, color=COLOURS[colour], markersize=size, label=label,
        markeredgewidth=0.5, fillstyle="none" if mark == "o" else "full",
    )  # fmt: skip


def _right(axes: Axes, what: str, title: str) -> None:
    """The line of right predictions, both axes alike."""
    lines = [np.asarray(ends, float) for line in axes.lines for ends in line.get_data()]
    drawn = np.concatenate(lines).tolist()
    low, high = min(v for v in drawn if v > 0) / 1.15, max(drawn) * 1.15
    axes.plot([low, high], [low, high], color=COLOURS["plain"], linewidth=0.9)
    axes.set(
        xscale="log", yscale="log", xlim=(low, high), ylim=(low, high),
        xlabel=f"published {what}", ylabel=f"predicted {what}",
    )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        by_decades(axis)
    axes.set_title(title)
