"""Where time goes, and what a change gains: bars with their numbers at the end."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from specsim.cost import BOUNDS, ForwardTime
from specsim.figures.style import COLOURS, CONCEPTS, styled
from specsim.prediction import Prediction, waterfall_spans

BOUND_NAMES = {
    "weights": "reading weights",
    "kv": "reading the KV cache",
    "compute": "arithmetic",
    "overhead": "overhead",
}


@styled
def step_shares(axes: Axes, steps: Mapping[str, ForwardTime], title: str = "") -> None:
    """What a pass waits for, in milliseconds: a bar for each of `steps`, divided by bound."""
    places = np.arange(len(steps))
    left = np.zeros(len(steps))
    for bound in BOUNDS:
        width = np.array([1e3 * float(np.max(step.share(bound))) for step in steps.values()])
        if width.any():
            axes.barh(
                places, width, 0.65, left=left, color=COLOURS[bound], label=BOUND_NAMES[bound]
            )
        left = left + width
    for place, total in zip(places, left, strict=True):
        axes.annotate(
            f"{total:.3g}", (total, place), xytext=(4, 0), textcoords="offset points", va="center"
        )
    _named(axes, list(steps))
    axes.set_xlim(0, 1.15 * float(left.max()))
    axes.set_xlabel("time of a pass (ms)")
    axes.set_title(title)
    _legend_above(axes)


@styled
def gains(
    axes: Axes,
    changes: Mapping[str, Sequence[float]],
    kinds: Mapping[str, str],
    *,
    x: str = "factor (×)",
    title: str = "",
) -> None:
    """The factor that each change gains, as bars. The line at 1 means no change."""
    bars(axes, changes, kinds, x=x, title=title, unit="×")
    axes.axvline(1.0, color=COLOURS["plain"], linewidth=0.9)


@styled
def bars(
    axes: Axes,
    values: Mapping[str, Sequence[float]],
    kinds: Mapping[str, str],
    *,
    x: str,
    title: str = "",
    unit: str = "",
) -> None:
    """A group of bars for each label of `values`, with one bar for each of `kinds` (label ->
    concept, which gives the colour). `values` holds as many numbers per label as there are kinds.
    Each number is written at the end of its bar, with `unit`."""
    thickness = 0.8 / len(kinds)
    places = np.arange(len(values))
    highest = max(value for numbers in values.values() for value in numbers)
    for index, (label, concept) in enumerate(kinds.items()):
        widths = np.array([numbers[index] for numbers in values.values()])
        middles = places + (index - (len(kinds) - 1) / 2) * thickness
        axes.barh(middles, widths, thickness, color=COLOURS[concept], label=label)
        for middle, value in zip(middles, widths, strict=True):
            axes.annotate(
                short(value) + unit,
                (value, middle),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                bbox={"boxstyle": "square,pad=0.1", "color": "white", "linewidth": 0},
            )
    _named(axes, list(values))
    axes.set_xlim(0, 1.18 * highest)
    axes.set_xlabel(x)
    axes.set_title(title)
    if len(kinds) > 1:
        _legend_above(axes)


def short(value: float) -> str:
    """Three digits: 0.93, 7.43, 18.2, 163."""
    return f"{value:.{max(0, 2 - max(0, int(np.floor(np.log10(max(value, 1e-9))))))}f}"


@styled
def waterfall(axes: Axes, prediction: Prediction, gamma: int, title: str = "") -> None:
    """What reduces the ideal gamma + 1 to the speedup, at one gamma: each bar starts where the last
    one ended."""
    at = int(np.argmax(np.ravel(prediction.gamma) == gamma))
    factors = {name: float(np.ravel(f)[at]) for name, f in prediction.waterfall().items()}
    spans = waterfall_spans(factors)
    for place, (name, (start, end)) in enumerate(spans.items()):
        whole = name in ("ideal", "speedup")
        bottom, top = (0.0, end) if whole else sorted((start, end))
        axes.bar(place, top - bottom, 0.7, bottom=bottom, color=COLOURS[CONCEPTS[name]])
        text = f"{end:.2f}×" if whole else f"× {factors[name]:.2f}"
        axes.annotate(
            text, (place, top), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=9
        )
    axes.axhline(1.0, color=COLOURS["plain"], linewidth=0.9)
    axes.set_xticks(range(len(spans)), [name.replace(" ", "\n") for name in spans], fontsize=9)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 1.15 * factors["ideal"])
    axes.set_xlabel(f"what reduces the ideal speedup, at γ = {gamma}")
    axes.set_ylabel("speedup (×)")
    axes.set_title(title)


def _named(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def _legend_above(axes: Axes) -> None:
    """A legend between the title and the bars, where it covers none."""
    names = axes.get_legend_handles_labels()[1]
    lines = -(-len(names) // 2)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    axes.set_title(axes.get_title(loc="left"), pad=6 + 15 * lines)
