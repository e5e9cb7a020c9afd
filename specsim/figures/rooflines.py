"""Bytes against FLOPs: passes on the roofline, and the time of a pass against its width."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from specsim.checks import ArrayLike
from specsim.cost import ForwardTime
from specsim.figures.line_charts import Spread, markers
from specsim.figures.style import COLOURS, by_decades, by_doubling, styled
from specsim.hardware import System


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A pass on the roofline: its FLOP per byte of weights and KV cache, and its FLOP/s."""

    label: str
    concept: str
    intensity: float
    flops_per_s: float
    measured: bool = False


def operating_point(label: str, concept: str, time: ForwardTime) -> OperatingPoint:
    """The point of a predicted pass."""
    operators = [term.operator for term in time.terms if term.operator is not None]
    flops = sum(float(np.max(o.flops)) for o in operators)
    moved = sum(float(np.max(o.weight_bytes + o.kv_bytes)) for o in operators)
    return OperatingPoint(label, concept, flops / moved, flops / float(np.max(time.total_s)))


@styled
def roofline(axes: Axes, system: System, points: Sequence[OperatingPoint] = ()) -> None:
    """The highest FLOP/s that a kernel can reach, against its FLOP per byte. A pass lies on this
    roof, or below it because of its overheads. Bandwidth and FLOP/s are the datasheet's peaks;
    the two lines meet at the ridge."""
    accelerator = system.accelerator
    peak = accelerator.rate(system.precision.math) / 1e12
    bandwidth = float(np.max(accelerator.bandwidth_bytes_per_s)) / 1e12
    ridge = peak / bandwidth
    low = min([0.5, *(0.5 * s.intensity for s in points)])
    high = max([8 * ridge, *(2 * s.intensity for s in points)])
    intensity = np.geomspace(low, high, 200)
    axes.plot(intensity, np.minimum(peak, bandwidth * intensity), color=COLOURS["plain"])
    axes.axvline(ridge, color=COLOURS["overhead"], linewidth=0.9, linestyle=":")
    axes.annotate(
        f"ridge: {ridge:.0f} FLOP/byte",
        (ridge, bandwidth * low),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        color=COLOURS["overhead"],
    )
    for each in points:
        axes.plot(
            each.intensity,
            each.flops_per_s / 1e12,
            "o" if each.measured else "D",
            color=COLOURS[each.concept],
            label=each.label,
            markersize=7,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel("arithmetic intensity (FLOP per byte)")
    axes.set_ylabel("TFLOP/s")
    axes.set_title(
        f"{accelerator.name}: {bandwidth:.3g} TB/s, {peak:.3g} TFLOP/s {system.precision.math}"
    )
    if points:
        axes.legend(loc="lower right")


@styled
def times_vs_width(
    axes: Axes,
    rows: ArrayLike,
    memory_s: ArrayLike,
    compute_s: ArrayLike,
    measured: Sequence[tuple[float, float] | Spread] = (),
    *,
    title: str = "",
) -> None:
    """Milliseconds of a pass against its rows: flat while reading the weights takes longest, rising
    when the arithmetic takes longest. `memory_s` and `compute_s` have shape (rows,); measured
    points are in seconds."""
    rows, memory, compute = (np.asarray(a, float) for a in (rows, memory_s, compute_s))
    memory = np.broadcast_to(memory, rows.shape)
    axes.plot(rows, 1e3 * memory, ":", color=COLOURS["weights"], label="bytes alone")
    axes.plot(rows, 1e3 * compute, ":", color=COLOURS["compute"], label="FLOPs alone")
    together = 1e3 * np.maximum(memory, compute)
    axes.plot(rows, together, color=COLOURS["verify"], label="predicted: the larger")
    scaled = [(p[0], *(1e3 * value for value in p[1:])) for p in measured]
    markers(axes, scaled, COLOURS["verify"])  # type: ignore[arg-type]
    if scaled:
        axes.plot([], [], "o", color=COLOURS["verify"], label="measured")
    seen = [together.min(), together.max(), *(value for p in scaled for value in p[1:])]
    by_doubling(axes, rows)
    axes.set_yscale("log")
    axes.set_ylim(0.5 * min(seen), 4 * max(seen))  # room for the legend above the curve
    by_decades(axes.yaxis)
    axes.set_xlabel("rows in the pass (tokens)")
    axes.set_ylabel("time of the pass (ms)")
    axes.set_title(title)
    axes.legend(loc="upper left")
