"""What `specsim compare` draws: measured points against their predictions, the time of a pass
against its width, and where speculation stops paying as the batch grows."""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from specsim.evidence.comparison import Comparison
from specsim.figures.line_charts import Curve, curves
from specsim.figures.style import (
    COLOURS,
    CONCEPTS,
    NotebookFigure,
    by_decades,
    styled,
    subplots,
)
from specsim.prediction import QUANTITIES

TIMES = ("step_s", "verify_step_s", "cycle_s")  # what `parity` compares
BUDGET_COLOURS = ("speedup", "tokens")  # one for each pair of models
PREDICTOR_MARKS = {"calibrated": "o", "catalog": "s", "ideal": "^"}


@styled
def parity(every: Mapping[str, Sequence[Comparison]]) -> NotebookFigure | None:
    """Predicted against measured milliseconds of every step, verification and cycle: a panel for
    each predictor, hollow markers for reserved points. None if there are no points."""
    predictors = {name: points for name, points in every.items() if points}
    if not predictors:
        return None
    figure, panels = subplots(len(predictors), height=3.6)
    for axes, (name, comparisons) in zip(np.atleast_1d(panels), predictors.items(), strict=True):
        times: list[float] = []
        for quantity in TIMES:
            for reserved in (False, True):
                parts = [
                    c.parts[quantity]
                    for c in comparisons
                    if quantity in c.parts
                    and c.point.reserved == reserved
                    and (quantity == "step_s") == (c.gamma == 0)
                ]
                if not parts:
                    continue
                measured, predicted = (
                    [1e3 * value for value in values]
                    for values in zip(*((p.measured, p.predicted) for p in parts), strict=True)
                )
                times += measured + predicted
                label, colour = QUANTITIES[quantity], COLOURS[CONCEPTS[quantity]]
                axes.plot(
                    measured, predicted, PREDICTOR_MARKS.get(name, "o"), color=colour,
                    fillstyle="none" if reserved else "full",
                    label=f"{label}, reserved" if reserved else label,
                )  # fmt: skip
        ends = [min(times) / 1.2, max(times) * 1.2]
        axes.set(xscale="log", yscale="log", xlabel="measured (ms)", ylabel="predicted (ms)")
        axes.autoscale(False, axis="x")  # the line may be longer than what was measured
        axes.plot(ends, ends, color=COLOURS["plain"], linewidth=0.9)
        for axis in (axes.xaxis, axes.yaxis):
            by_decades(axis)
        axes.set_title(name)
        axes.legend(loc="best")
    return figure


@styled
def error_budget(axes: Axes, budgets: Mapping[str, Mapping[str, float]], title: str = "") -> None:
    """The factors between predicted and measured speedup, for each label. The axis is logarithmic,
    so the lengths of a label's bars add up to its last bar, the product."""
    thickness = 0.8 / len(budgets)
    names = [*next(iter(budgets.values())), "measured ÷ predicted"]
    farthest = 0.0
    for index, (label, factors) in enumerate(budgets.items()):
        logs = np.log([*factors.values(), math.prod(factors.values())])
        farthest = max(farthest, float(np.abs(logs).max()))
        colour = BUDGET_COLOURS[index % len(BUDGET_COLOURS)]
        places = np.arange(len(names)) + (index - (len(budgets) - 1) / 2) * thickness
        axes.barh(places, logs, thickness, color=COLOURS[colour], label=label)
        for place, value in zip(places, logs, strict=True):
            axes.annotate(
                f"{np.exp(value):.3f}", (value, place), va="center", fontsize=9,
                xytext=(4 if value >= 0 else -4, 0), textcoords="offset points",
                ha="left" if value >= 0 else "right",
            )  # fmt: skip
    axes.axvline(0.0, color=COLOURS["plain"], linewidth=0.9)
    axes.axhline(len(names) - 1.5, color=COLOURS["plain"], linewidth=0.9)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    limit = 1.5 * max(farthest, 0.02)
    axes.set_xlim(-limit, limit)
    ticks = np.linspace(-limit, limit, 5)[1:-1]
    axes.set_xticks(ticks, [f"{np.exp(tick):.2f}" for tick in ticks])
    axes.set_xlabel("factor on the predicted speedup (×)")
    axes.set_title(title, pad=22 if title else None)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2)


@styled
def verify_curve(comparisons: Sequence[Comparison]) -> NotebookFigure | None:
    """Milliseconds of a pass against its tokens per sequence, a curve for each model and batch.
    None if no points with fixed drafts were measured."""
    lines = [
        Curve(
            name,
            [c.gamma + 1 for c in members],
            [1e3 * c.parts["verify_step_s"].predicted for c in members],
            "verify",
            measured=[spread(c) for c in members],
        )
        for name, members in grouped(comparisons, "given", by="width").items()
    ]
    if not lines:
        return None
    figure, axes = subplots()
    curves(axes, lines, "tokens per sequence in the pass", "time of a pass (ms)")
    return figure


def spread(comparison: Comparison) -> tuple[float, float, float, float]:
    """The width of a measured verification, its median, 10th and 90th percentile (ms)."""
    timing = comparison.point.verify_step_s
    assert timing is not None
    return comparison.gamma + 1, 1e3 * timing.median, 1e3 * timing.p10, 1e3 * timing.p90


@styled
def speedup_by_batch(comparisons: Sequence[Comparison]) -> NotebookFigure | None:
    """Speedup against batch, a curve for every pair and gamma that was measured at several batches.
    None if there is no such curve."""
    lines = []
    for name, members in grouped(comparisons, "draft-model", by="batch").items():
        batches = [c.point.scenario.batch for c in members]
        parts = [c.parts["speedup"] for c in members]
        lines.append(
            Curve(
                name,
                batches,
                [part.predicted for part in parts],
                measured=[(b, p.measured) for b, p in zip(batches, parts, strict=True)],
            )
        )
    if not lines:
        return None
    figure, axes = subplots()
    curves(axes, lines, "batch (sequences)", "speedup over plain decoding (×)", unit_line=True)
    return figure


def grouped(comparisons: Sequence[Comparison], method: str, by: str) -> dict[str, list[Comparison]]:
    """Groups of two or more points of one method whose names differ only in `by`, each sorted by
    it."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        point = comparison.point
        if point.scenario.method == method and f"/{by}-" in point.name:
            key = re.sub(rf"/{by}-\d+", "", point.name.partition("/")[2])
            groups.setdefault(re.sub(rf"^{by}-\d+/", "", key), []).append(comparison)

    def place(c: Comparison) -> int:
        return c.gamma if by == "width" else c.point.scenario.batch

    return {
        label(key): sorted(members, key=place)
        for key, members in groups.items()
        if len({place(c) for c in members}) > 1
    }


def label(key: str) -> str:
    """The name of a curve, without what all curves of the figure share."""
    kept = [bit for bit in key.split("/") if not bit.startswith(("context", "draft-model", "cuda"))]
    return ", ".join(kept).replace("gamma-", "γ = ").replace("batch-", "batch ")
