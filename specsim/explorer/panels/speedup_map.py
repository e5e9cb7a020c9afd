"""Where speculation is faster than plain decoding: a map with the 1.0x line."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import contourpy
import numpy as np
from matplotlib.artist import Artist
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from specsim.acceptance import PerPosition
from specsim.explorer.panels.protocol import axes_of
from specsim.explorer.scenarios import PredictedScenario
from specsim.figures import COLOURS
from specsim.figures.maps import GAIN, memory_line, where_memory_ends
from specsim.figures.style import plain_number
from specsim.planning import sweep

BATCHES = (1, 512)
CONTEXTS = (256, 262_144)
DRAGGING, RESTING = 24, 64  # cells along each axis while a slider moves, and when it rests
MOST = 4.0  # colours are full at this speedup and at its inverse


class SpeedupMapPanel:
    """Speedup over batch and context (each at the gamma shown, or its best), or batch and gamma.

    `detail` is the least number of cells along an axis. The map is not computed again where only
    the marker moves, or where a finer one is known.
    """

    def __init__(self, over: str = "context") -> None:
        self.over = over
        self.detail = DRAGGING
        self.moving: Sequence[Artist] = ()
        self.computed = 0
        self._known: tuple[object, int, sweep.SpeedupMap] | None = None

    @property
    def title(self) -> str:
        return f"Speedup over batch × {'context' if self.over == 'context' else 'γ'}"

    def freeze(self, figure: Figure, shown: PredictedScenario) -> None:
        axes = self.axes = axes_of(figure, self.title, left=0.13, right=0.86)
        self.frozen_for = (self.over, int(shown.over.gamma[-1]))
        limits = self._limits(shown)
        axes.set(xlim=limits[0], ylim=limits[1], xlabel="batch (sequences)")
        axes.grid(False)
        axes.xaxis.set_major_locator(FixedLocator(range(10)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{2**x:.0f}"))
        if self.over == "context":
            axes.set_ylabel("context (tokens)")
            axes.yaxis.set_major_locator(FixedLocator(range(8, 19, 2)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: plain_number(2**y)))
        else:
            axes.set_ylabel("γ, tokens drafted per cycle")
        most = np.log2(MOST)
        self.image = axes.imshow(
            np.zeros((2, 2)), extent=(*limits[0], *limits[1]), origin="lower", aspect="auto",
            cmap=GAIN, vmin=-most, vmax=most, interpolation="nearest",
        )  # fmt: skip
        place = figure.add_axes((0.88, 0.16, 0.025, 0.72))
        bar = figure.colorbar(self.image, cax=place, ticks=[-2, -1, 0, 1, 2])
        bar.ax.set_yticklabels(["¼×", "½×", "1×", "2×", "4×"])
        self.break_even = LineCollection([], colors=COLOURS["plain"], linewidths=1.6)
        axes.add_collection(self.break_even, autolim=False)
        self.memory = memory_line(axes)
        (self.here,) = axes.plot(
            [], [], "o", color=COLOURS["plain"], markeredgecolor="white", markersize=9,
            clip_on=False,
        )  # fmt: skip
        self.note = axes.text(
            0.985, 0.97, "", transform=axes.transAxes, ha="right", va="top", fontsize="small",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2},
        )  # fmt: skip
        self.moving = (self.image, self.break_even, self.memory, self.here, self.note)

    def move(self, shown: PredictedScenario) -> None:
        if shown.drafter is None:
            self.image.set_data(np.zeros((1, 1)))
            self.break_even.set_segments([])
            self.memory.set_segments([])
            self.note.set_text("nothing is drafted")
        else:
            grid = self.grid(shown)
            logs = np.log2(grid.speedup)
            self.image.set_data(logs)
            columns, lines = (_edges(values) for values in self._drawn(grid))
            self.image.set_extent((*columns, *lines))
            self.break_even.set_segments(self._contour(grid, logs))
            self.memory.set_segments(self._full(shown, grid))
            full = "   - - memory is full" if self.memory.get_paths() else ""
            self.note.set_text(f"── 1.0×{full}" if self.break_even.get_paths() else full.strip())
        scenario = shown.scenario
        y = np.log2(scenario.context) if self.over == "context" else shown.gamma
        limits = self._limits(shown)
        self.here.set_data([np.clip(np.log2(scenario.batch), *limits[0])], [np.clip(y, *limits[1])])

    def grid(self, shown: PredictedScenario) -> sweep.SpeedupMap:
        """The map itself; computed again only where something other than its axes has moved."""
        moved: dict[str, Any] = {"batch": 1, "temperature": 0.0, "price_per_hour": 0.0}
        moved |= {"context": 1} if self.over == "context" else {"gamma": None}
        what = (self.over, replace(shown.scenario, **moved))
        known = self._known
        if known is None or known[0] != what or known[1] < self.detail:
            self._known = known = (what, self.detail, self._compute(shown))
            self.computed += 1
        return known[2]

    def _compute(self, shown: PredictedScenario) -> sweep.SpeedupMap:
        scenario, detail = shown.scenario, self.detail
        fixed = dict(scenario.acceptance)
        acceptance = None
        if "survival" in fixed:
            acceptance = PerPosition(fixed.pop("survival"))
        gammas = shown.few_gammas
        against: Any = np.geomspace(*CONTEXTS, detail)
        if self.over == "gamma":
            against, fixed["context"] = shown.over.gamma, scenario.context
        elif scenario.gamma is not None:
            fixed["gamma"] = scenario.gamma
        assert shown.drafter is not None
        return sweep.speedup_map(
            shown.target, shown.drafter, shown.system, gammas=gammas, acceptance=acceptance,
            x=("batch", np.geomspace(*BATCHES, detail)), y=(self.over, against), **fixed,
        )  # fmt: skip

    def _limits(self, shown: PredictedScenario) -> tuple[tuple[float, float], tuple[float, float]]:
        """Of x and y, as they are drawn: logarithms of batch and context, gamma as it is."""
        x = (float(np.log2(BATCHES[0])), float(np.log2(BATCHES[1])))
        if self.over == "context":
            return x, (float(np.log2(CONTEXTS[0])), float(np.log2(CONTEXTS[1])))
        return x, (0.0, float(max(shown.over.gamma[-1], 1)))

    def _drawn(self, grid: sweep.SpeedupMap) -> tuple[np.ndarray, np.ndarray]:
        return self.on_axes(grid.x_values, grid.y_values)

    def on_axes(self, batch: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Batches, and contexts or gammas, as they are drawn."""
        return np.log2(batch), np.log2(y) if self.over == "context" else y.astype(float)

    def _contour(self, grid: sweep.SpeedupMap, logs: np.ndarray) -> list[np.ndarray]:
        # where plain decoding is best the whole area is exactly 1.0x: a line around it needs a
        # level slightly above
        return self._lines(grid, logs, 0.005)

    def _full(self, shown: PredictedScenario, grid: sweep.SpeedupMap) -> list[np.ndarray]:
        """Where the memory is full."""
        assert shown.drafter is not None
        fixed = {"gamma": shown.gamma, "context": shown.scenario.context}
        fixed.pop(self.over)
        points = where_memory_ends(grid, shown.target, shown.system, drafter=shown.drafter, **fixed)
        if points is None:
            return []
        return [np.column_stack(self.on_axes(*points.T))]

    def _lines(self, grid: sweep.SpeedupMap, values: np.ndarray, level: float) -> list[np.ndarray]:
        found: Any = contourpy.contour_generator(*self._drawn(grid), values).lines(level)
        return list(found)

    def holds(self, shown: PredictedScenario) -> bool:
        return self.frozen_for == (self.over, int(shown.over.gamma[-1]))


def _edges(centres: np.ndarray) -> tuple[float, float]:
    """Where a row of evenly spaced cells begins and ends: half a cell beyond its centres."""
    half = (centres[-1] - centres[0]) / max(len(centres) - 1, 1) / 2 or 0.5
    return float(centres[0] - half), float(centres[-1] + half)
