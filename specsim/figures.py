"""One function a figure, one style, one colour per concept: predicted is a line, measured is a
marker with its spread.

Figures are drawn without pyplot, so that nothing global is touched and none has to be closed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from specsim.comparison import Comparison
from specsim.measurement import Point, Timing
from specsim.speculation import Prediction

# Okabe and Ito's colour-blind-safe palette, one colour per concept in every figure of the project
COLOURS = {
    "plain": "#000000",
    "draft": "#E69F00",
    "verify": "#0072B2",
    "cycle": "#CC79A7",
    "tokens": "#009E73",
    "speedup": "#D55E00",
    "overhead": "#8A8A8A",
}

STYLE: Mapping[str, Any] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 130,
}


def predicted_and_measured(rows: Sequence[tuple[str, Prediction, Sequence[Comparison]]]) -> Figure:
    """A row of three panels for each pair of models: speedup, tokens per cycle and times, against
    gamma.

    `rows` holds a title, the prediction over gamma, and the compared points of each pair.
    """
    with matplotlib.rc_context(dict(STYLE)):
        figure = Figure(figsize=(11, 3.4 * len(rows)))
        grid = figure.subplots(len(rows), 3, squeeze=False)
        for axes, (title, prediction, comparisons) in zip(grid, rows, strict=True):
            points = [comparison.point for comparison in comparisons]
            speedup_vs_gamma(axes[0], prediction, points)
            tokens_vs_gamma(axes[1], prediction, points)
            times_vs_gamma(axes[2], prediction, points)
            axes[0].set_title(title, loc="left", fontsize=9, fontweight="bold")
        return figure


def speedup_vs_gamma(axes: Axes, prediction: Prediction, points: Sequence[Point]) -> None:
    """Speedup over plain decoding: the predicted curve in its 80 % band, the measured points on
    it."""
    low, high = prediction.band["speedup"]
    axes.axhline(1.0, color=COLOURS["plain"], linewidth=0.8)
    axes.fill_between(
        prediction.gamma, low, high, color=COLOURS["speedup"], alpha=0.18, linewidth=0
    )
    axes.plot(
        prediction.gamma, prediction.speedup, color=COLOURS["speedup"], label="predicted, 80 % band"
    )
    gammas, middle, below, above = [], [], [], []
    for point in points:
        if point.tokens_per_cycle is None or point.step_s is None or point.cycle_s is None:
            continue
        gain = point.tokens_per_cycle * point.step_s.median  # what varies is the cycle's time
        gammas.append(point.scenario.gamma)
        middle.append(gain / point.cycle_s.median)
        below.append(middle[-1] - gain / point.cycle_s.p90)
        above.append(gain / point.cycle_s.p10 - middle[-1])
    axes.errorbar(
        gammas,
        middle,
        yerr=(below, above),
        fmt="o",
        color=COLOURS["speedup"],
        capsize=2,
        label="measured",
    )
    best = int(prediction.best())
    axes.plot(
        prediction.gamma[best],
        prediction.speedup[best],
        "s",
        markersize=11,
        fillstyle="none",
        color=COLOURS["speedup"],
        label=f"best predicted: γ = {prediction.gamma[best]}",
    )
    axes.set_ylim(bottom=0)
    _against_gamma(axes, "speedup over plain decoding (×)")


def tokens_vs_gamma(axes: Axes, prediction: Prediction, points: Sequence[Point]) -> None:
    """Tokens per cycle, bonus included, below the ceiling gamma + 1."""
    low, high = prediction.band["tokens_per_cycle"]
    axes.plot(
        prediction.gamma, prediction.gamma + 1, ":", color=COLOURS["plain"], label="ceiling γ + 1"
    )
    axes.fill_between(prediction.gamma, low, high, color=COLOURS["tokens"], alpha=0.18, linewidth=0)
    axes.plot(
        prediction.gamma, prediction.tokens_per_cycle, color=COLOURS["tokens"], label="predicted"
    )
    measured = [
        (p.scenario.gamma, p.tokens_per_cycle, 1.28 * (p.tokens_per_cycle_error or 0))
        for p in points
    ]
    gammas, tokens, errors = zip(*measured, strict=True)
    axes.errorbar(
        gammas, tokens, yerr=errors, fmt="o", color=COLOURS["tokens"], capsize=2, label="measured"
    )
    axes.set_ylim(0.8, 1.25 * max(*tokens, prediction.tokens_per_cycle.max()) + 0.3)
    _against_gamma(axes, "tokens per cycle")


def times_vs_gamma(axes: Axes, prediction: Prediction, points: Sequence[Point]) -> None:
    """Milliseconds of a plain step, a draft step, a verification and a whole cycle."""
    lines = {
        "cycle": ("cycle", prediction.cycle_s, "cycle_s"),
        "verify": ("verification", prediction.verify_step_s, "verify_step_s"),
        "draft": ("draft step", prediction.draft_step_s, "draft_step_s"),
    }
    bands = {"cycle": "cycle_s", "verify": "verify_step_s", "draft": "draft_step_s"}
    for concept, (label, seconds, key) in lines.items():
        colour = COLOURS[concept]
        low, high = prediction.band[bands[concept]]
        axes.fill_between(
            prediction.gamma, 1e3 * low, 1e3 * high, color=colour, alpha=0.15, linewidth=0
        )
        axes.plot(prediction.gamma, 1e3 * seconds, color=colour, label=label)
        timed = [(p.scenario.gamma, t) for p in points if (t := getattr(p, key)) is not None]
        _timings(axes, timed, colour)
    axes.set_ylim(bottom=0)
    _against_gamma(axes, "time (ms)")


def _timings(axes: Axes, timed: Sequence[tuple[int, Timing]], colour: str) -> None:
    """Medians as markers, the 10th to 90th percentile as their bars, in milliseconds."""
    if not timed:
        return
    gammas = [gamma for gamma, _ in timed]
    medians = [1e3 * t.median for _, t in timed]
    below = [1e3 * (t.median - t.p10) for _, t in timed]
    above = [1e3 * (t.p90 - t.median) for _, t in timed]
    axes.errorbar(
        gammas, medians, yerr=(below, above), fmt="o", color=colour, capsize=2, markersize=4
    )


def _against_gamma(axes: Axes, label: str) -> None:
    axes.set_xlabel("γ, tokens drafted per cycle")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best")
