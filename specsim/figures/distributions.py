"""The distribution of one emitted token: accepted drafts and residual draws add up to p; rules that
are not exact emit another distribution."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from specsim.checks import ArrayLike
from specsim.figures.style import COLOURS, shades, styled


@styled
def coupling(
    axes: Axes,
    names: Sequence[str],
    target: ArrayLike,
    draft: ArrayLike,
    kept: ArrayLike,
    redrawn: ArrayLike,
    title: str = "",
) -> None:
    """Two bars for each token: left, how often it is drafted, and then accepted or rejected; right,
    how often it is emitted, as an accepted draft or drawn after a rejection. The mark is the
    target's p. All arrays have shape (V,) and hold shares of all cycles."""
    target, draft, kept, redrawn = (np.asarray(a, float) for a in (target, draft, kept, redrawn))
    places, width = np.arange(len(names)), 0.36
    left, right = places - width / 2 - 0.01, places + width / 2 + 0.01
    axes.bar(left, kept, width, color=COLOURS["tokens"], label="drafted and accepted")
    axes.bar(
        left, draft - kept, width, bottom=kept, color="white", edgecolor=COLOURS["draft"],
        hatch="///", label="drafted and rejected",
    )  # fmt: skip
    axes.bar(right, kept, width, color=COLOURS["tokens"])
    axes.bar(
        right, redrawn, width, bottom=kept, color=COLOURS["verify"],
        label="drawn after a rejection",
    )  # fmt: skip
    axes.hlines(
        target, right - 0.62 * width, right + 0.62 * width, color=COLOURS["plain"], linewidth=2.2,
        label="the target's p", zorder=3,
    )  # fmt: skip
    _named(axes, names)
    axes.set_ylim(0, 1.45 * float(np.max([target, draft])))
    axes.set_ylabel("probability (share)")
    axes.set_title(title)
    axes.legend(loc="upper right", ncols=2)


@styled
def distribution_errors(
    axes: Axes,
    names: Sequence[str],
    target: ArrayLike,
    emitted: Mapping[str, ArrayLike],
    title: str = "",
) -> None:
    """What is emitted too often and too rarely: a group for each of `emitted` (label ->
    distribution (V,)), with a bar of emitted - p for each token. The number is the total
    variation distance, the share of tokens that is wrong."""
    target = np.asarray(target, float)
    errors = {label: np.asarray(each, float) - target for label, each in emitted.items()}
    thickness = 0.76 / len(names)
    places = np.arange(len(emitted))
    for index, (name, colour) in enumerate(zip(names, shades("verify", len(names)), strict=True)):
        offset = (index - (len(names) - 1) / 2) * thickness
        values = [error[index] for error in errors.values()]
        axes.barh(places + offset, values, 0.92 * thickness, color=colour, label=name)
    widest = max(0.05, *(float(np.abs(error).max()) for error in errors.values()))
    for place, error in zip(places, errors.values(), strict=True):
        variation = np.abs(error).sum() / 2
        text = "exact" if variation < 1e-12 else f"{variation:.3f}"
        axes.annotate(
            text, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=9
        )
    axes.annotate(
        "TV", (1.02, 1.0), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points",
        fontsize=9, fontweight="bold",
    )  # fmt: skip
    axes.axvline(0.0, color=COLOURS["plain"], linewidth=0.9)
    axes.set_yticks(places, list(emitted))
    axes.set_ylim(len(emitted) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(-1.15 * widest, 1.15 * widest)
    axes.set_xlabel("emitted too rarely  ←  emitted − p (share)  →  too often")
    axes.set_title(title, pad=22)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(names), borderaxespad=0.2)


def _named(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), list(names))
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("the next token (the whole vocabulary)")
