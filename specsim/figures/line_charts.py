"""Predicted lines with measured markers, over any axes, one shade for each curve."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from specsim.checks import ArrayLike
from specsim.figures.style import (
    COLOURS,
    DASHES,
    by_decades,
    by_doubling,
    shades,
    styled,
    with_unit_line,
)

Spread = tuple[float, float, float, float]  # x, the middle value, its low and high end


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One predicted line. `low` and `high` are its 80 % band. `measured` holds its measured points:
    (x, y), or (x, y, low, high) where the spread is known."""

    label: str
    x: ArrayLike
    y: ArrayLike
    concept: str = "speedup"
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    measured: Sequence[tuple[float, float] | Spread] = ()


@styled
def curves(
    axes: Axes,
    lines: Sequence[Curve],
    x: str,
    y: str,
    *,
    doubling: bool = True,
    log_y: bool = False,
    title: str = "",
    unit_line: bool = False,
) -> None:
    """Draw `lines` over one x axis. `x` and `y` are the axis labels, with units.

    Curves of one concept share its colour and differ in shade and dash. `doubling` makes the x axis
    logarithmic in powers of two. `unit_line` draws a line at 1, which is plain decoding.
    """
    if unit_line:
        with_unit_line(axes)
    seen: Counter[str] = Counter()
    of_concept = Counter(line.concept for line in lines)
    any_measured = False
    for line in lines:
        colour = shades(line.concept, of_concept[line.concept])[seen[line.concept]]
        dash = DASHES[seen[line.concept] % len(DASHES)]
        seen[line.concept] += 1
        if line.low is not None and line.high is not None:
            axes.fill_between(
                np.asarray(line.x), line.low, line.high, color=colour, alpha=0.18, linewidth=0
            )
        axes.plot(line.x, line.y, color=colour, linestyle=dash, label=line.label)
        for point in line.measured:
            markers(axes, [point], colour)
            any_measured = True
    if doubling:
        by_doubling(axes, np.concatenate([np.ravel(np.asarray(line.x, float)) for line in lines]))
    if log_y:
        axes.set_yscale("log")
        by_decades(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)
    if any_measured:
        axes.plot([], [], "o", color=COLOURS["overhead"], label="measured")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title)
    axes.legend()


def markers(axes: Axes, points: Sequence[tuple[float, float] | Spread], colour: str) -> None:
    """Draw measured points, each with its spread where it is known."""
    for point in points:
        x, middle = point[0], point[1]
        spread = None
        if len(point) == 4:
            spread = ([middle - point[2]], [point[3] - middle])
        axes.errorbar([x], [middle], spread, fmt="o", color=colour, capsize=2, clip_on=False)
