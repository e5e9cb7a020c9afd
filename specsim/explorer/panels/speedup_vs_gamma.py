"""Speedup against gamma, with its 80 % band."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from specsim.explorer.measured import Marker, Markers
from specsim.explorer.panels.protocol import axes_of
from specsim.explorer.scenarios import PredictedScenario
from specsim.figures import COLOURS

HEADROOM = 1.35  # the top of the axis over the highest speedup: sliders may raise the curve
MOST = 12  # measured markers that are shown at once


class SpeedupVsGammaPanel:
    """The predicted curve with its band, the gamma that is shown, the best gamma, measured points,
    and the curve of the setting that was `kept` to compare with."""

    title = "Speedup against γ"

    def __init__(self, markers: Markers | None = None) -> None:
        self.markers = markers or Markers(())
        self.kept: PredictedScenario | None = None  # A, of two settings that are compared
        self.moving: Sequence[Artist] = ()

    def freeze(self, figure: Figure, shown: PredictedScenario) -> None:
        axes = self.axes = axes_of(figure, self.title, left=0.11)
        over = shown.over
        self.last = int(over.gamma[-1])
        top = float(np.max(over.band["speedup"][1])) * HEADROOM
        if self.kept is not None:
            top = max(top, 1.05 * float(np.max(self.kept.over.speedup)))
        for marker in self.markers.near(shown):
            top = max(top, marker.high * 1.05)
        axes.set(xlim=(-0.4, max(self.last, 1) + 0.4), ylim=(0, max(2.0, top)))
        axes.set_xlabel("γ, tokens drafted per cycle")
        axes.set_ylabel("speedup over plain decoding (×)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.axhline(1.0, color=COLOURS["plain"], linewidth=0.9)
        colour = COLOURS["speedup"]
        self.band = PolyCollection([], facecolor=colour, alpha=0.18, linewidth=0)
        axes.add_collection(self.band, autolim=False)
        (self.before,) = axes.plot([], [], "--", color=COLOURS["overhead"], linewidth=1.4)
        (self.curve,) = axes.plot([], [], color=colour, linewidth=1.8)
        (self.best,) = axes.plot([], [], "s", color=colour, fillstyle="none", markersize=13)
        (self.shown,) = axes.plot([], [], "o", color=colour, markersize=8)
        self.label = axes.text(0, 0, "", color=colour, fontweight="bold", ha="center", va="bottom")
        (self.spread,) = axes.plot([], [], color=COLOURS["plain"], linewidth=1.0)
        (self.measured,) = axes.plot(
            [], [], "D", color="white", markeredgecolor=COLOURS["plain"], markersize=6
        )
        self.note = axes.text(  # it seldom changes, and then the axes are drawn again
            0.985, 0.03, self._told(shown), transform=axes.transAxes, ha="right", va="bottom",
            fontsize="small", color="#555555",
        )  # fmt: skip
        self.moving = (
            self.band, self.before, self.curve, self.best, self.shown, self.spread, self.measured,
            self.label,
        )  # fmt: skip

    def move(self, shown: PredictedScenario) -> None:
        over = shown.over
        low, high = over.band["speedup"]
        self.band.set_verts(
            [np.column_stack((np.r_[over.gamma, over.gamma[::-1]], np.r_[low, high[::-1]]))]
        )
        self.curve.set_data(over.gamma, over.speedup)
        kept = None if self.kept is None else self.kept.over
        self.before.set_data(([], []) if kept is None else (kept.gamma, kept.speedup))
        best = int(over.best())
        self.best.set_data([over.gamma[best]], [over.speedup[best]])
        self.shown.set_data([shown.gamma], [shown.speedup])
        self.label.set_text(f"{shown.speedup:.2f}×")
        top = self.axes.get_ylim()[1]
        at = np.clip(shown.gamma, 0.35, max(self.last - 0.35, 0.35))
        self.label.set_position((at, min(shown.speedup + 0.04 * top, 0.93 * top)))
        near = self.markers.near(shown)[:MOST]
        self.measured.set_data([m.gamma for m in near], [m.speedup for m in near])
        self.spread.set_data(*_bars(near))

    def _told(self, shown: PredictedScenario) -> str:
        """What the marks mean."""
        told = "□ best γ   ● shown   shaded: 80 % band"
        if self.kept is not None:
            told = f"- - A   {told}"
        return f"◇ measured   {told}" if self.markers.near(shown) else told

    def holds(self, shown: PredictedScenario) -> bool:
        high = shown.over.band["speedup"][1]
        same = shown.over.gamma[-1] == self.last and self._told(shown) == self.note.get_text()
        return same and float(high.max()) <= self.axes.get_ylim()[1]


def _bars(near: Sequence[Marker]) -> tuple[list[float], list[float]]:
    """The spreads as one broken line."""
    x = [value for m in near for value in (m.gamma, m.gamma, np.nan)]
    y = [value for m in near for value in (m.low, m.high, np.nan)]
    return x, y
