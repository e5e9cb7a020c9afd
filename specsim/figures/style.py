"""One style for every figure of the project, one colour per concept, and the sheet it is drawn on.

Predicted is a line, measured a marker with its spread. Sheets are narrow and their type large, so
that they read on a phone (390 pixels) and in print; what is compared stands one below the other.
They are drawn without pyplot, so that nothing global is touched and none has to be closed.
"""

import io
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

from specsim.checks import ArrayLike

P = ParamSpec("P")
R = TypeVar("R")

# Okabe and Ito's colour-blind-safe palette for what speculation does, and three more for what a
# pass waits for
COLOURS = {
    "plain": "#000000",
    "draft": "#E69F00",
    "verify": "#0072B2",
    "cycle": "#CC79A7",
    "tokens": "#009E73",
    "speedup": "#D55E00",
    "overhead": "#6E6E6E",
    "weights": "#56B4E9",
    "kv": "#B8A000",
    "compute": "#882255",
}

STYLE: dict[str, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "figure.constrained_layout.use": True,
}

WIDTH_IN = 5.2  # 390 pixels of a phone are then 75 an inch, and 10 points 10 pixels
SCREEN_DPI = 100  # what an inch is on the page of a notebook
DPI = 150
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2, 3, 2)))


class Sheet(Figure):
    """A figure that a notebook shows by itself, small and alike from run to run.

    Its text form names the panels and their axes, for those who cannot see it.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = (round(SCREEN_DPI * inches) for inches in self.get_size_inches())
        return png(self), {"width": width, "height": height}

    def __repr__(self) -> str:
        panels = "; ".join(panel(axes) for axes in self.axes if axes.get_xlabel())
        return f"figure: {panels}" if panels else "figure"


def panel(axes: Axes) -> str:
    """A panel in words: what it is of, and against what."""
    title, x, y = axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()
    of = f"{y} against {x}" if y else x
    return f"{title}, {of}" if title else of


def png(figure: Figure, colours: int = 128) -> bytes:
    """The figure as a PNG of a small palette, without date and version: a third of the bytes."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    drawn.seek(0)
    with Image.open(drawn) as picture:
        flat = picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    flat.save(packed, format="png", optimize=True)
    return packed.getvalue()


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """`draw` in the house style, whatever the caller's."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inside


@styled
def sheet(panels: int = 1, *, height: float = 3.3, columns: int = 1) -> tuple[Sheet, Any]:
    """An empty sheet and its panels: one Axes, or an array of them, one below the other.

    `height` is that of a panel, in inches; `columns` above 1 is for wide pages only.
    """
    rows = -(-panels // columns)
    figure = Sheet(figsize=(WIDTH_IN * columns, height * rows))
    axes = figure.subplots(rows, columns)
    return figure, axes


def shades(concept: str, count: int) -> list[str]:
    """`count` shades of a concept's colour, from the colour itself towards white: for several
    curves of one thing, which differ in their dashes too."""
    red, green, blue = to_rgb(COLOURS[concept])
    step = min(0.25, 0.6 / max(count - 1, 1))
    lightness = [step * i for i in range(count)]
    return [
        to_hex([part + (1 - part) * light for part in (red, green, blue)]) for light in lightness
    ]


def plain_number(value: float, _position: int = 0) -> str:
    """0.25, 512, 2k (of 1024), 20k (of 1000): an axis label without an exponent."""
    if value >= 1024 and value % 1024 == 0:
        return f"{value / 1024:g}k"
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


def by_doubling(axes: Axes, values: ArrayLike) -> None:
    """A logarithmic x axis with a tick at powers of two, or of four where there are many."""
    axes.set_xscale("log", base=2)
    low, high = float(np.min(values)), float(np.max(values))
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(base=2 if high / low <= 300 else 4))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(plain_number))


def by_decades(axis: Axis) -> None:
    """Ticks at 1, 2, 5, 10 … of a logarithmic axis, written out."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(plain_number))
    axis.set_minor_locator(NullLocator())


def with_unit_line(axes: Axes) -> None:
    """The line at 1: what plain decoding does."""
    axes.axhline(1.0, color=COLOURS["plain"], linewidth=0.9)
