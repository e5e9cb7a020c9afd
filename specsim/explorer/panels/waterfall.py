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
from specsim.figures import COLOURS

BARS = {
    "ideal": ("ideal, γ + 1", "plain"),
    "acceptance": ("acceptance", "tokens"),
    "drafting": ("drafting", "draft"),
    "wider verification": ("wider\nverification", "verify"),
    "overhead": ("overhead", "overhead"),
    "speedup": ("speedup", "speedup"),
}
LEAST = 0.25  # the left end of the axis
HEIGHT = 0.62


def spans(shown: PredictedScenario) -> dict[str, tuple[float, float]]:
    """The two ends of each bar, as multiples of plain decoding."""
    falls = shown.waterfall()
    left = falls["ideal"]
    bars = {"ideal": (1.0, left)}
    for name, fall in falls.items():
        if name != "ideal":
            bars[name] = (left, left * fall)
            left *= fall
    return bars | {"speedup": (1.0, left)}


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
        axes.set_yticks(range(len(BARS)), [label for label, _ in BARS.values()])
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.set_xlabel("times plain decoding (logarithmic)")
        axes.axvline(1.0, color=COLOURS["plain"], linewidth=0.9)
        self.bars: dict[str, Rectangle] = {}
        self.labels: dict[str, Text] = {}
        for row, (name, (_, concept)) in enumerate(BARS.items()):
            alpha = 0.35 if name == "ideal" else 1.0
            bar = Rectangle((1, row - HEIGHT / 2), 0, HEIGHT, color=COLOURS[concept], alpha=alpha)
            self.bars[name] = bar
            axes.add_patch(bar)
            self.labels[name] = axes.text(1, row, "", va="center", ha="left", fontsize="small")
        self.moving = (*self.bars.values(), *self.labels.values())

    def move(self, shown: PredictedScenario) -> None:
        reach = spans(shown)
        for name, (start, end) in reach.items():
            low, high = sorted((max(start, LEAST), max(end, LEAST)))
            self.bars[name].set_x(low)
            self.bars[name].set_width(high - low)
            whole = name in ("ideal", "speedup")
            told = f"{end:.2f}×" if whole else f"× {end / start:.2f}"
            self.labels[name].set_text(told)
            self.labels[name].set_x(high * 1.06)

    def holds(self, shown: PredictedScenario) -> bool:
        return int(shown.over.gamma[-1]) == self.last
