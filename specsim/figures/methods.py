"""One number for each drafting method: predicted as a line with its band, measured as a marker."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from specsim.figures.style import COLOURS, styled


@dataclass(frozen=True, slots=True)
class Row:
    """The number of one method: `predicted` with its 80 % band, `measured` with its spread."""

    label: str
    predicted: float
    low: float | None = None
    high: float | None = None
    measured: float | None = None
    spread: tuple[float, float] | None = None


@styled
def by_method(axes: Axes, rows: Sequence[Row], concept: str, label: str, title: str = "") -> None:
    """One line of the figure for each method, the first at the top. The line at 1 is plain
    decoding."""
    colour, highest = COLOURS[concept], 1.0
    for place, row in enumerate(rows):
        ends = [row.predicted]
        if row.low is not None and row.high is not None:
            axes.barh(
                place, row.high - row.low, 0.5, left=row.low, color=colour, alpha=0.2, linewidth=0
            )
            ends.append(row.high)
        axes.vlines(row.predicted, place - 0.33, place + 0.33, color=colour, linewidth=2.2)
        if row.measured is not None:
            low, high = row.spread or (row.measured, row.measured)
            spread = [[row.measured - low], [high - row.measured]]
            axes.errorbar(
                [row.measured], [place], xerr=spread, fmt="o", color=COLOURS["plain"], capsize=2
            )
            ends += [row.measured, high]
        highest = max(highest, *ends)
    axes.plot([], [], color=colour, linewidth=2.2, label="predicted")
    if any(row.measured is not None for row in rows):
        axes.plot([], [], "o", color=COLOURS["plain"], label="measured")
    axes.axvline(1.0, color=COLOURS["plain"], linewidth=0.9)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.08 * highest)
    axes.set_xlabel(label)
    axes.set_title(title, pad=22 if title else None)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2)
