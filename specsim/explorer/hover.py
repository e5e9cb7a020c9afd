"""Values under the pointer: areas over a picture, each with a text that a browser shows there.

An area is an SVG shape with a `<title>`: no script, so it works in every notebook. `areas`
says what is where; `as_svg` lays it over the picture.
"""

import html
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from specsim.explorer.figure_canvas import HEIGHT, WIDTH
from specsim.explorer.panels import (
    Panel,
    RooflinePanel,
    SpeedupMapPanel,
    SpeedupVsGammaPanel,
    WaterfallPanel,
)
from specsim.explorer.panels.roofline import points, si
from specsim.explorer.panels.waterfall import BARS
from specsim.explorer.scenarios import PredictedScenario
from specsim.explorer.sentences import milliseconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COARSE = 16  # cells along an axis of a map
AROUND_PX = 14  # half the width of the area around a point


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle in CSS pixels of the picture, from its top left corner, and what it says."""

    x: float
    y: float
    width: float
    height: float
    text: str


def areas(panel: Panel, shown: PredictedScenario) -> list[Area]:
    """What a pointer finds on a panel that shows the scenario."""
    if isinstance(panel, SpeedupVsGammaPanel):
        return _gammas(panel, shown)
    if isinstance(panel, RooflinePanel):
        return _passes(panel, shown)
    if isinstance(panel, WaterfallPanel):
        return _factors(panel, shown)
    if isinstance(panel, SpeedupMapPanel) and shown.drafter is not None:
        return _cells(panel, shown)
    return []


def as_svg(found: list[Area]) -> str:
    """The areas as a picture that covers another one of the same shape."""
    shapes = "".join(
        f'<rect x="{each.x:.1f}" y="{each.y:.1f}" width="{each.width:.1f}" '
        f'height="{each.height:.1f}"><title>{html.escape(each.text)}</title></rect>'
        for each in found
    )
    return (
        f'<svg class="specsim-values" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" '
        f'aria-hidden="true" focusable="false">{shapes}</svg>'
    )


def _gammas(panel: SpeedupVsGammaPanel, shown: PredictedScenario) -> list[Area]:
    over, found = shown.over, []
    low, high = over.band["speedup"]
    shape = over.speedup.shape
    tokens, cycle = (np.broadcast_to(each, shape) for each in (over.tokens_per_cycle, over.cycle_s))
    bottom, top = panel.axes.get_ylim()
    for at, gamma in enumerate(over.gamma):
        text = (
            f"γ = {gamma}: {over.speedup[at]:.2f}× (80 % band {low[at]:.2f} to {high[at]:.2f}), "
            f"{tokens[at]:.2f} tokens in {milliseconds(cycle[at])}"
        )
        if panel.kept is not None and gamma in panel.kept.over.gamma:
            text += f"; A {float(panel.kept.over.speedup[panel.kept.over.gamma == gamma][0]):.2f}×"
        found.append(_between(panel.axes, (gamma - 0.5, gamma + 0.5), (bottom, top), text))
    return found


def _passes(panel: RooflinePanel, shown: PredictedScenario) -> list[Area]:
    found = []
    for name, point in points(shown).items():
        x, y = _pixels(panel.axes, point.intensity, point.flops_per_s)
        text = f"{name}: {point.intensity:.3g} FLOP per byte, {si(point.flops_per_s)}FLOP/s"
        sides = 2 * AROUND_PX
        found.append(Area(x - AROUND_PX, y - AROUND_PX, sides, sides, text))
    return found


def _factors(panel: WaterfallPanel, shown: PredictedScenario) -> list[Area]:
    factors, found = shown.waterfall(shown.drafting_gamma), []
    left, right = panel.axes.get_xlim()
    for row, name in enumerate(BARS):
        text = f"{name}: × {factors[name]:.2f}" if name in factors else ""
        if name == "speedup":
            text = f"speedup: {float(np.prod(list(factors.values()))):.2f}×"
        elif name == "ideal":
            text = f"ideal, γ + 1: {factors['ideal']:.0f}×"
        found.append(_between(panel.axes, (left, right), (row + 0.5, row - 0.5), text))
    return found


def _cells(panel: SpeedupMapPanel, shown: PredictedScenario) -> list[Area]:
    """Few cells, each with the value at its centre."""
    grid = panel.grid(shown)
    x_of, y_of = panel.on_axes(grid.x_values, grid.y_values)
    x_edges = np.linspace(*panel.axes.get_xlim(), COARSE + 1)
    rows = min(COARSE, len(y_of))
    y_edges = np.linspace(*panel.axes.get_ylim(), rows + 1)
    what, found = "context" if panel.over == "context" else "γ", []
    for x_ends in pairwise(x_edges):
        column = int(np.argmin(np.abs(x_of - np.mean(x_ends))))
        for y_ends in pairwise(y_edges):
            row = int(np.argmin(np.abs(y_of - np.mean(y_ends))))
            text = (
                f"batch {grid.x_values[column]:,.0f}, {what} {grid.y_values[row]:,.0f}: "
                f"{grid.speedup[row, column]:.2f}×"
            )
            found.append(_between(panel.axes, x_ends, y_ends, text))
    return found


def _pixels(axes: "Axes", x: float, y: float) -> tuple[float, float]:
    """A point of the axes in CSS pixels from the picture's top left corner."""
    across, up = axes.figure.transFigure.inverted().transform(axes.transData.transform((x, y)))
    return float(across) * WIDTH, (1 - float(up)) * HEIGHT


def _between(axes: "Axes", x: tuple[float, float], y: tuple[float, float], text: str) -> Area:
    """The area between two values of x and two of y, within the frame."""
    (left, bottom), (right, top) = (_pixels(axes, x[at], y[at]) for at in (0, 1))
    box = axes.get_position()
    left, right = max(left, box.x0 * WIDTH), min(right, box.x1 * WIDTH)
    return Area(left, top, max(right - left, 0.0), bottom - top, text)
