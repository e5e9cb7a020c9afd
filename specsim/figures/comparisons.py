"""What `specsim compare` draws: measured points beside their predictions, the cost of width, and
where speculation stops paying as the batch grows."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from specsim.comparison import Comparison
from specsim.figures.curves import Curve, curves
from specsim.figures.style import COLOURS, Sheet, by_decades, sheet, styled

QUANTITY = {"step_s": "plain", "verify_step_s": "verify", "cycle_s": "cycle"}
LENS_MARKS = {"calibrated": "o", "catalog": "s", "ideal": "^"}


@styled
def parity(every: Mapping[str, Sequence[Comparison]]) -> Sheet | None:
    """Predicted against measured milliseconds of every step, verification and cycle: a panel for
    each lens, hollow markers for reserved points. None without a point."""
    lenses = {name: points for name, points in every.items() if points}
    if not lenses:
        return None
    figure, panels = sheet(len(lenses), height=3.6)
    for axes, (name, comparisons) in zip(np.atleast_1d(panels), lenses.items(), strict=True):
        times = []
        for quantity, concept in QUANTITY.items():
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
                label = {"plain": "plain step", "verify": "verification", "cycle": "cycle"}[concept]
                axes.plot(
                    measured, predicted, LENS_MARKS.get(name, "o"), color=COLOURS[concept],
                    fillstyle="none" if reserved else "full",
                    label=f"{label}, reserved" if reserved else label,
                )  # fmt: skip
        ends = [min(times) / 1.2, max(times) * 1.2]
        axes.plot(ends, ends, color=COLOURS["plain"], linewidth=0.9)
        axes.set(xscale="log", yscale="log", xlabel="measured (ms)", ylabel="predicted (ms)")
        for axis in (axes.xaxis, axes.yaxis):
            by_decades(axis)
        axes.set_title(name)
        axes.legend(loc="best")
    return figure


@styled
def verify_curve(comparisons: Sequence[Comparison]) -> Sheet | None:
    """Milliseconds of a pass against its rows per sequence, a curve for each model and batch. None
    without points of given width."""
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
    figure, axes = sheet()
    curves(axes, lines, "rows per sequence", "time of a pass (ms)")
    return figure


def spread(comparison: Comparison) -> tuple[float, float, float, float]:
    timing = comparison.point.verify_step_s
    assert timing is not None
    return comparison.gamma + 1, 1e3 * timing.median, 1e3 * timing.p10, 1e3 * timing.p90


@styled
def speedup_by_batch(comparisons: Sequence[Comparison]) -> Sheet | None:
    """Speedup against batch, a curve for every gamma that was measured at several batches of one
    pair. None where there is none."""
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
    figure, axes = sheet()
    curves(axes, lines, "batch", "speedup over plain decoding (×)", unit_line=True)
    return figure


def grouped(comparisons: Sequence[Comparison], method: str, by: str) -> dict[str, list[Comparison]]:
    """Points of one method whose names differ in `by` alone, where there are two or more, in rising
    order."""
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
    """A name without what all curves of a figure share."""
    kept = [bit for bit in key.split("/") if not bit.startswith(("context", "draft-model", "cuda"))]
    return ", ".join(kept).replace("gamma-", "γ = ").replace("batch-", "batch ")
