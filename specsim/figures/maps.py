"""The speedup over two axes, as a map that is white where the speedup is 1."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.ticker import FuncFormatter, NullLocator

from specsim.architecture import Architecture
from specsim.checks import Floats
from specsim.figures.style import COLOURS, plain_number, styled
from specsim.hardware import System
from specsim.planning.memory import MEMORY_SHARE, largest_batches
from specsim.planning.sweep import SpeedupMap

AXES = {
    "batch": "batch (sequences)",
    "context": "context (tokens)",
    "gamma": "γ, tokens drafted per cycle",
    "alpha": "α, chance that a draft is accepted",
    "bandwidth": "bandwidth (bytes/s)",
}
GAIN = LinearSegmentedColormap.from_list("gain", [COLOURS["verify"], "#FFFFFF", COLOURS["speedup"]])


def where_memory_ends(
    found: SpeedupMap, target: Architecture, system: System, **scenario: object
) -> Floats | None:
    """The largest batch that fits at every y of a map over the batch, as points (batch, y), (Y, 2).
    None if all of the map fits, or if nobody knows the memory.

    `scenario` is what `largest_batches` takes besides: the drafter, a gamma or a context that is
    not the y of the map, and the share `usable` of the memory, by default what engines fill. Where
    not one sequence fits, the point is at the left edge.
    """
    assert found.x == "batch", "the memory ends at a batch"
    asked = {"usable": MEMORY_SHARE} | scenario | {found.y: found.y_values}
    most = largest_batches(target, system, **asked)
    if most is None or np.all(most >= found.x_values.max()):
        return None
    most = np.maximum(np.broadcast_to(most, found.y_values.shape), found.x_values.min())
    return np.column_stack([most, found.y_values])


def memory_line(axes: Axes) -> LineCollection:
    """An empty dashed line, for `set_segments` with the points of `where_memory_ends`."""
    line = LineCollection([], colors="#333333", linewidths=1.2, linestyles="--")
    axes.add_collection(line, autolim=False)
    return line


@styled
def speedup_map(
    axes: Axes,
    found: SpeedupMap,
    *,
    best: float | None = None,
    title: str = "",
    full: Floats | None = None,
) -> ScalarMappable:
    """Blue where speculation is slower than plain decoding, white at 1, red where it is faster. The
    line is at 1.0x.

    `best` is the speedup that gets full red (default: the maximum of the map). `full` are the
    points of `where_memory_ends`: a dashed line, to the right of which nothing fits. Returns the
    mesh, from which a colour bar is made.
    """
    top = max(best or float(found.speedup.max()), 1.05)
    norm = TwoSlopeNorm(1.0, min(0.9, float(found.speedup.min())), top)
    mesh = axes.pcolormesh(
        found.x_values, found.y_values, found.speedup, norm=norm, cmap=GAIN, shading="nearest"
    )
    if found.speedup.min() < 1.0 < found.speedup.max():
        line = axes.contour(
            found.x_values, found.y_values, found.speedup, [1.0], colors=COLOURS["plain"]
        )
        axes.clabel(line, fmt="1.0×", fontsize=9)
    if full is not None:
        memory_line(axes).set_segments([full])
        right = found.x_values.max()
        axes.fill_betweenx(
            full[:, 1], np.minimum(full[:, 0], right), right,
            facecolor=(1.0, 1.0, 1.0, 0.45), edgecolor="#33333355", hatch="//", linewidth=0.0,
        )  # fmt: skip
        axes.text(
            0.98, 0.96, "the memory is full", transform=axes.transAxes, ha="right", va="top",
            fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
        )  # fmt: skip
    for name, values, setter, axis in (
        (found.x, found.x_values, axes.set_xscale, axes.xaxis),
        (found.y, found.y_values, axes.set_yscale, axes.yaxis),
    ):
        if name in ("batch", "context", "bandwidth") and np.min(values) > 0:
            setter("log", base=2)
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(plain_number))
    axes.set_xlabel(AXES[found.x])
    axes.set_ylabel(AXES[found.y])
    axes.set(xlim=_ends(found.x_values), ylim=_ends(found.y_values))
    axes.grid(visible=False)
    axes.set_title(title)
    bar = axes.figure.colorbar(mesh, ax=axes, label="speedup at the best γ (×)")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    return mesh


def _ends(values: Floats) -> tuple[float, float]:
    return float(values.min()), float(values.max())
