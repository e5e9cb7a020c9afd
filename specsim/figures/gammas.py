"""What depends on gamma: speedup, tokens per cycle and times, predicted and measured."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from specsim.acceptance import Z80_SHORT
from specsim.evidence.comparison import Comparison
from specsim.evidence.measurement import Point, Timing
from specsim.figures.style import COLOURS, CONCEPTS, NotebookFigure, styled
from specsim.prediction import QUANTITIES, Prediction


@styled
def predicted_and_measured(
    rows: Sequence[tuple[str, Prediction, Sequence[Comparison]]],
) -> NotebookFigure:
    """A column of three panels for each pair of models: speedup, tokens per cycle and times,
    against gamma.

    `rows` holds a title, the prediction over gamma, and the compared points of each pair.
    """
    figure = NotebookFigure(figsize=(4.4 * len(rows), 9.0))
    grid = figure.subplots(3, len(rows), squeeze=False)
    for axes, (title, prediction, comparisons) in zip(grid.T, rows, strict=True):
        points = [comparison.point for comparison in comparisons]
        speedup_vs_gamma(axes[0], prediction, points)
        tokens_vs_gamma(axes[1], prediction, points)
        times_vs_gamma(axes[2], prediction, points)
        axes[0].set_title(title)
    return figure


@styled
def speedup_vs_gamma(axes: Axes, prediction: Prediction, points: Sequence[Point] = ()) -> None:
    """Speedup over plain decoding: the predicted curve with its 80 % band, the measured points, and
    a mark at the best predicted gamma."""
    colour = COLOURS["speedup"]
    low, high = prediction.band["speedup"]
    axes.axhline(1.0, color=COLOURS["plain"], linewidth=0.9)
    axes.fill_between(prediction.gamma, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(prediction.gamma, prediction.speedup, color=colour, label="predicted, 80 % band")
    timed = [(point.scenario.gamma, gain) for point in points if (gain := point.speedup)]
    if timed:
        gammas, gains = zip(*timed, strict=True)
        spread = [[g.median - g.low for g in gains], [g.high - g.median for g in gains]]
        middle = [g.median for g in gains]
        axes.errorbar(gammas, middle, spread, fmt="o", color=colour, capsize=2, label="measured")
    best = int(prediction.best())
    axes.plot(
        prediction.gamma[best],
        prediction.speedup[best],
        "s",
        markersize=11,
        fillstyle="none",
        color=colour,
        label=f"best predicted: γ = {prediction.gamma[best]}",
    )
    axes.set_ylim(bottom=0)
    _against_gamma(axes, "speedup over plain decoding (×)")


@styled
def tokens_vs_gamma(axes: Axes, prediction: Prediction, points: Sequence[Point] = ()) -> None:
    """Tokens per cycle, bonus included, and the ceiling gamma + 1."""
    colour = COLOURS["tokens"]
    low, high = prediction.band["tokens_per_cycle"]
    axes.plot(
        prediction.gamma, prediction.gamma + 1, ":", color=COLOURS["plain"], label="ceiling γ + 1"
    )
    axes.fill_between(prediction.gamma, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(prediction.gamma, prediction.tokens_per_cycle, color=colour, label="predicted")
    counted = [
        (p.scenario.gamma, p.tokens_per_cycle, Z80_SHORT * (p.tokens_per_cycle_error or 0))
        for p in points
        if p.tokens_per_cycle is not None
    ]
    highest = float(np.max(prediction.tokens_per_cycle))
    if counted:
        gammas, tokens, errors = zip(*counted, strict=True)
        axes.errorbar(
            gammas, tokens, errors, fmt="o", color=colour, capsize=2, label="measured, 80 %"
        )
        highest = max(highest, *tokens)
    axes.set_ylim(0.8, 1.25 * highest + 0.3)
    _against_gamma(axes, QUANTITIES["tokens_per_cycle"])


@styled
def times_vs_gamma(axes: Axes, prediction: Prediction, points: Sequence[Point] = ()) -> None:
    """Milliseconds of a draft step, a verification and a whole cycle. The draft step is the mean
    over the passes of a cycle, as it is measured: the first of them reads two rows."""
    gamma = np.asarray(prediction.gamma)
    for name in ("cycle_s", "verify_step_s", "draft_step_s"):
        colour, seconds = COLOURS[CONCEPTS[name]], getattr(prediction, name)
        low, high = prediction.band[name]
        if name == "draft_step_s":
            mean = np.where(gamma > 0, prediction.draft_s / np.maximum(gamma, 1), np.nan)
            low, high, seconds = low / seconds * mean, high / seconds * mean, mean
        axes.fill_between(gamma, 1e3 * low, 1e3 * high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(gamma, 1e3 * seconds, color=colour, label=QUANTITIES[name])
        timed = [(p.scenario.gamma, t) for p in points if (t := getattr(p, name))]
        timings(axes, timed, CONCEPTS[name])
    axes.set_ylim(bottom=0)
    _against_gamma(axes, "time (ms)")


@styled
def cycle_parts(axes: Axes, prediction: Prediction) -> None:
    """The parts of a cycle's time (ms), a bar for each gamma. The line is a plain step."""
    gamma = np.asarray(prediction.gamma)
    parts = {
        "verify": ("verification", prediction.verify_step_s),
        "draft": ("drafting", prediction.draft_s),
        "overhead": ("overhead", prediction.overhead_s),
    }
    base = np.zeros(gamma.shape)
    for concept, (label, seconds) in parts.items():
        height = 1e3 * np.broadcast_to(seconds, gamma.shape)
        axes.bar(gamma, height, 0.75, bottom=base, color=COLOURS[concept], label=label)
        base = base + height
    plain = 1e3 * float(np.ravel(prediction.step_s)[0])
    axes.axhline(plain, color=COLOURS["plain"], linewidth=1.2, label="a plain step")
    axes.set_ylim(0, 1.35 * float(base.max()))
    axes.grid(axis="x", visible=False)
    _against_gamma(axes, "time of a cycle (ms)")
    axes.legend(loc="upper left", ncols=2)


def timings(axes: Axes, timed: Sequence[tuple[float, Timing]], concept: str) -> None:
    """Medians as markers, the 10th to 90th percentile as their bars, in milliseconds."""
    if not timed:
        return
    axes.errorbar(
        [x for x, _ in timed],
        [1e3 * t.median for _, t in timed],
        yerr=(
            [1e3 * (t.median - t.p10) for _, t in timed],
            [1e3 * (t.p90 - t.median) for _, t in timed],
        ),
        fmt="o",
        color=COLOURS[concept],
        capsize=2,
        markersize=4,
    )


def _against_gamma(axes: Axes, label: str) -> None:
    axes.set_xlabel("γ, tokens drafted per cycle")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best")
