"""What reduces the ideal gamma + 1: bars on a logarithmic axis, on which factors add up."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from specsim.explorer.panels.protocol import axes_of
from specsim.explorer.scenarios import PredictedScenario
from specsim.figures import COLOURS, CONCEPTS
from specsim.prediction import LIMITS, waterfall_spans

BARS = ("ideal", *LIMITS, "speedup")
TITLES = {"ideal": "ideal, γ + 1", "wider verification": "wider\nverification"}
LEAST = 0.25  # the left end of the axis
HEIGHT = 0.62


class WaterfallPanel:
    """The factors whose product is the speedup, one bar each."""

    title = "Where the ideal γ + 1 goes"

    def __init__(self) -> None:
        self.moving: Sequence[Artist] = ()

    def freeze(self, figure: Figure, shown: PredictedScenario) -> None:
        axes = self.axes = axes_of(figure, self.title, left=0.2)
        self.last = int(shown.over.gamma[-1])
        most = int(np.ceil(np.log2(max(self.last + 1, 2)))) + 0.9
        axes.set(xscale="log", xlim=(LEAST, 2.0**most), ylim=(len(BARS) - 0.5, -0.5))
        powers = [2.0**power for power in range(-2, int(most) + 1)]
        axes.xaxis.set_major_locator(FixedLocator(powers))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axes.set_yticks(range(len(BARS)), [TITLES.get(name, name) for name in BARS])
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.set_xlabel("times plain decoding (logarithmic)")
        axes.axvline(1.0, color=COLOURS["plain"], linewidth=0.9)
        self.bars: dict[str, Rectangle] = {}
        self.labels: dict[str, Text] = {}
        for row, name in enumerate(BARS):
            colour = COLOURS[CONCEPTS[name]]
            alpha = 0.35 if name == "ideal" else 1.0
            bar = Rectangle((1, row - HEIGHT / 2), 0, HEIGHT, color=colour, alpha=alpha)
            self.bars[name] = bar
            axes.add_patch(bar)
            self.labels[name] = axes.text(1, row, "", va="center", ha="left", fontsize="small")
        self.moving = (*self.bars.values(), *self.labels.values())

    def move(self, shown: PredictedScenario) -> None:
        gamma = shown.drafting_gamma
        spare = f" (γ = {gamma}; none is faster)" if gamma != shown.gamma else ""
        for name, (start, end) in waterfall_spans(shown.waterfall(gamma)).items():
            low, high = sorted((max(start, LEAST), max(end, LEAST)))
            self.bars[name].set_x(low)
            self.bars[name].set_width(high - low)
            whole = name in ("ideal", "speedup")
            told = f"{end:.2f}×" if whole else f"× {end / start:.2f}"
            if name == "ideal":
                told += spare
            self.labels[name].set_text(told)
            self.labels[name].set_x(high * 1.06)

    def holds(self, shown: PredictedScenario) -> bool:
        return int(shown.over.gamma[-1]) == self.last
