"""One style for every figure of the project, one colour for each concept, and the empty figure.

A predicted value is a line; a measured value is a marker with its spread. Figures are narrow and
their fonts large, so that they can be read on a phone (390 pixels) and in print; panels that are
compared are stacked. Figures are made without pyplot: nothing global changes, and none has to be
closed.
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

# Okabe and Ito's colour-blind-safe palette for the parts of speculation, and three more colours for
# what a pass waits for
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

# The colour of each quantity of a prediction, and of each bar of its waterfall.
CONCEPTS = {
    "step_s": "plain",
    "draft_step_s": "draft",
    "verify_step_s": "verify",
    "cycle_s": "cycle",
    "ideal": "plain",
    "acceptance": "tokens",
    "drafting": "draft",
    "wider verification": "verify",
    "overhead": "overhead",
    "speedup": "speedup",
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

WIDTH_IN = 5.2  # a phone then shows 75 pixels per inch, so 10 points are 10 pixels
SCREEN_DPI = 100  # pixels per inch on the page of a notebook
DPI = 150
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2, 3, 2)))


class NotebookFigure(Figure):
    """A figure that a notebook shows by itself, as a small PNG that is the same in every run.

    Its text form names the panels and their axes, for readers who cannot see it.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = (round(SCREEN_DPI * inches) for inches in self.get_size_inches())
        return png(self), {"width": width, "height": height}

    def __repr__(self) -> str:
        panels = "; ".join(panel(axes) for axes in self.axes if axes.get_xlabel())
        return f"figure: {panels}" if panels else "figure"


def panel(axes: Axes) -> str:
    """A panel in words: its title, what it shows, and against what."""
    title, x, y = axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()
    of = f"{y} against {x}" if y else x
    return f"{title}, {of}" if title else of


def png(figure: Figure, colours: int = 128) -> bytes:
    """The figure as a PNG with a small palette (a third of the bytes), without date or version."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    drawn.seek(0)
    with Image.open(drawn) as picture:
        flat = picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    flat.save(packed, format="png", optimize=True)
    return packed.getvalue()


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """`draw` in the project's style. The caller's matplotlib settings do not change."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inside


@styled
def subplots(panels: int = 1, *, height: float = 3.3) -> tuple[NotebookFigure, Any]:
    """An empty figure and its panels: one Axes, or an array of them, stacked.

    `height` is that of a panel, in inches.
    """
    figure = NotebookFigure(figsize=(WIDTH_IN, height * panels))
    return figure, figure.subplots(panels)


def shades(concept: str, count: int) -> list[str]:
    """`count` shades of a concept's colour, from the colour itself towards white, for several
    curves of one quantity (which also differ in their dashes)."""
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
    """A logarithmic x axis with ticks at powers of two, or of four if there are many."""
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
    """Draw a line at 1, which is plain decoding."""
    axes.axhline(1.0, color=COLOURS["plain"], linewidth=0.9)
