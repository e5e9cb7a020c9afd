"""Where passes stand between bytes and FLOPs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from specsim.cost import ModelPass
from specsim.explorer.panels.protocol import axes_of
from specsim.explorer.setting import Scenario
from specsim.figures import COLOURS
from specsim.operators import ForwardWork, Workload

INTENSITIES = (0.3, 10_000.0)  # FLOP per byte, the width of the frame
ROOM = 3.0  # how far the frame reaches beyond the roof, and below the lowest point


@dataclass(frozen=True, slots=True)
class Point:
    """One pass: FLOP per byte, and the FLOP/s that it attains on one device."""

    intensity: float
    flops_per_s: float


def points(scenario: Scenario) -> dict[str, Point]:
    """The passes of a cycle by name: "plain", and where there is drafting "draft" (all of a cycle's
    together) and "verify".

    Bytes are of weights and cache, FLOPs and bytes of one device; the seconds are those of the pass
    under the engine, so the distance to the roof is what software leaves.
    """
    over, setting = scenario.over, scenario.setting
    # a plain step and, where anything is drafted, a verification: two widths of one pass
    rows = np.array([1.0, scenario.gamma + 1.0])
    priced = ModelPass(
        scenario.target, scenario.system, Workload(setting.batch, rows, setting.context)
    )
    plain_s = scenario.of("step_s") - float(over.plain_overhead_s)
    seconds = np.array([plain_s, scenario.of("verify_step_s")])
    both = _points(priced.work, seconds)
    found = {"plain": both[0]}
    if scenario.drafter is None or scenario.gamma == 0:
        return found
    drafting = scenario.predict().drafting
    passes = [entry for _, entry in drafting.entries if isinstance(entry, ModelPass)]
    if passes:  # all drafting of a cycle together; a lookup moves nothing
        flops, moved = float(np.ravel(drafting.flops)[0]), float(np.ravel(drafting.bytes_moved)[0])
        took_s = float(np.ravel(drafting.seconds)[0]) * passes[0].system.tensor_parallel
        found["draft"] = Point(flops / moved, flops / took_s)
    return found | {"verify": both[-1]}


def _points(work: ForwardWork, seconds: np.ndarray) -> list[Point]:
    flops, moved = np.broadcast_arrays(work.flops, work.weight_bytes + work.kv_bytes)
    flops, moved = np.atleast_1d(flops), np.atleast_1d(moved)
    rows = zip(flops, moved, seconds, strict=True)
    return [Point(float(f / b), float(f / s)) for f, b, s in rows]


class Roofline:
    """Attained FLOP/s against arithmetic intensity, below the roof of one device."""

    title = "Roofline: bytes or arithmetic?"

    def __init__(self) -> None:
        self.moving: Sequence[Artist] = ()

    def freeze(self, figure: Figure, scenario: Scenario) -> None:
        axes = self.axes = axes_of(figure, self.title, left=0.16)
        chip = scenario.system.accelerator
        rate = chip.rate(scenario.system.precision.math)
        bandwidth = float(chip.bandwidth_bytes_per_s)
        x = np.geomspace(*INTENSITIES, 200)
        roof = np.minimum(rate, bandwidth * x)
        at = points(scenario)
        lowest = min(point.flops_per_s for point in at.values())
        axes.set(xscale="log", yscale="log", xlim=INTENSITIES)
        axes.set_ylim(min(lowest / ROOM, roof[0]), ROOM * roof[-1])
        axes.set_xlabel("arithmetic intensity (FLOP per byte)")
        axes.set_ylabel("attained FLOP/s of one device")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
        axes.plot(x, roof, color=COLOURS["plain"], linewidth=1.2)
        if np.isfinite(rate):
            ridge = rate / bandwidth
            axes.axvline(ridge, color=COLOURS["overhead"], linewidth=0.8, linestyle=":")
            axes.annotate(
                f"ridge {ridge:.0f}", (ridge, ROOM * roof[-1]), (4, -2), color="#555555",
                textcoords="offset points", ha="left", va="top", fontsize="small",
            )  # fmt: skip
        axes.annotate(
            f"{si(bandwidth)}B/s", (x[60], roof[60]), (-4, 4), textcoords="offset points",
            ha="right", va="bottom", color="#555555", fontsize="small",
        )  # fmt: skip
        (self.widening,) = axes.plot([], [], color=COLOURS["verify"], linewidth=1.0)
        self.markers, self.labels = {}, {}
        for name, marker, side in (("plain", "o", -1), ("draft", "^", 1), ("verify", "s", 1)):
            colour = COLOURS[name]
            (self.markers[name],) = axes.plot([], [], marker, color=colour, markersize=8)
            self.labels[name] = axes.annotate(
                name, (1, 1), xytext=(side * 8, side * -4), textcoords="offset points",
                color=colour, fontweight="bold", ha="left" if side > 0 else "right",
                va="top" if side > 0 else "bottom", annotation_clip=True,
            )  # fmt: skip
        self.moving = (self.widening, *self.markers.values(), *self.labels.values())

    def move(self, scenario: Scenario) -> None:
        at = points(scenario)
        for name, marker in self.markers.items():
            shown = name in at
            marker.set_visible(shown)
            self.labels[name].set_visible(shown)
            if shown:
                where = (at[name].intensity, at[name].flops_per_s)
                marker.set_data([where[0]], [where[1]])
                self.labels[name].xy = where
        self.widening.set_visible("verify" in at)
        if "verify" in at:
            ends = (at["plain"], at["verify"])
            self.widening.set_data(
                [end.intensity for end in ends], [end.flops_per_s for end in ends]
            )

    def holds(self, scenario: Scenario) -> bool:
        low, high = self.axes.get_ylim()
        return all(low < point.flops_per_s < high for point in points(scenario).values())


def si(value: float) -> str:
    """A number with the prefix of its thousand: 3.35 T, 990 G."""
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 0.9995 * 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g} "
