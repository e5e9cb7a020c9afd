"""The speedup over two axes, as a map that is white where the speedup is 1."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.ticker import FuncFormatter, NullLocator

from specsim.checks import Floats
from specsim.figures.style import COLOURS, plain_number, styled
from specsim.planning.sweep import SpeedupMap

AXES = {
    "batch": "batch (sequences)",
    "context": "context (tokens)",
    "gamma": "γ, tokens drafted per cycle",
    "alpha": "α, chance that a draft is accepted",
    "bandwidth": "bandwidth (bytes/s)",
}
GAIN = LinearSegmentedColormap.from_list("gain", [COLOURS["verify"], "#FFFFFF", COLOURS["speedup"]])


@styled
def speedup_map(
    axes: Axes, found: SpeedupMap, *, best: float | None = None, title: str = ""
) -> ScalarMappable:
    """Blue where speculation is slower than plain decoding, white at 1, red where it is faster. The
    line is at 1.0x.

    `best` is the speedup that gets full red (default: the maximum of the map). Returns the mesh,
    from which a colour bar is made.
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
