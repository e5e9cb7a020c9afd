"""Where the passes of a cycle lie on the roofline: limited by bytes or by arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from specsim.cost import ModelPass
from specsim.explorer.panels.moving_label import MovingLabel
from specsim.explorer.panels.protocol import axes_of
from specsim.explorer.scenarios import PredictedScenario
from specsim.figures import COLOURS
from specsim.operators import ForwardWork, Workload

INTENSITIES = (0.3, 10_000.0)  # FLOP per byte, the width of the frame
MARGIN = 3.0  # how far the frame reaches above the roof, and below the lowest point


@dataclass(frozen=True, slots=True)
class RooflinePoint:
    """One pass: FLOP per byte, and the FLOP/s that it attains on one device."""

    intensity: float
    flops_per_s: float


def points(shown: PredictedScenario) -> dict[str, RooflinePoint]:
    """The passes of a cycle by name: "plain", and where there is drafting "draft" (all drafting of
    a cycle together) and "verify".

    FLOPs and bytes (of weights and cache) are those of one device. The seconds include what the
    engine loses, so the distance to the roof shows the loss in software.
    """
    scenario = shown.scenario
    # a plain step and a verification are one pass at two widths
    rows = np.array([1.0, shown.gamma + 1.0])
    asked = Workload(scenario.batch, rows, scenario.context)
    plain_s = shown.of("step_s") - float(shown.over.plain_overhead_s)
    seconds = np.array([plain_s, shown.of("verify_step_s")])
    both = _points(ModelPass(shown.target, shown.system, asked).work, seconds)
    found = {"plain": both[0]}
    if shown.drafter is None or shown.gamma == 0:
        return found
    drafting = shown.over.drafting
    passes = [entry for _, entry in drafting.entries if isinstance(entry, ModelPass)]
    if passes:  # a lookup moves nothing
        flops, moved = shown.here(drafting.flops), shown.here(drafting.bytes_moved)
        took_s = shown.here(drafting.seconds) * passes[0].system.tensor_parallel
        found["draft"] = RooflinePoint(flops / moved, flops / took_s)
    return found | {"verify": both[-1]}


def _points(work: ForwardWork, seconds: np.ndarray) -> list[RooflinePoint]:
    flops, moved = np.broadcast_arrays(work.flops, work.weight_bytes + work.kv_bytes)
    flops, moved = np.atleast_1d(flops), np.atleast_1d(moved)
    rows = zip(flops, moved, seconds, strict=True)
    return [RooflinePoint(float(f / b), float(f / s)) for f, b, s in rows]


class RooflinePanel:
    """Attained FLOP/s against arithmetic intensity, below the roof of one device."""

    title = "Roofline: bytes or arithmetic?"

    def __init__(self) -> None:
        self.moving: Sequence[Artist] = ()
        self._known: tuple[PredictedScenario, dict[str, RooflinePoint]] | None = None

    def points(self, shown: PredictedScenario) -> dict[str, RooflinePoint]:
        """The passes of a scenario, computed once for each that is shown."""
        if self._known is None or self._known[0] is not shown:
            self._known = (shown, points(shown))
        return self._known[1]

    def freeze(self, figure: Figure, shown: PredictedScenario) -> None:
        axes = self.axes = axes_of(figure, self.title, left=0.16)
        accelerator = shown.system.accelerator
        rate = accelerator.rate(shown.system.precision.math)
        bandwidth = float(accelerator.bandwidth_bytes_per_s)
        x = np.geomspace(*INTENSITIES, 200)
        roof = np.minimum(rate, bandwidth * x)
        at = self.points(shown)
        lowest = min(point.flops_per_s for point in at.values())
        axes.set(xscale="log", yscale="log", xlim=INTENSITIES)
        axes.set_ylim(min(lowest / MARGIN, roof[0]), MARGIN * roof[-1])
        axes.set_xlabel("arithmetic intensity (FLOP per byte)")
        axes.set_ylabel("attained FLOP/s of one device")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
        axes.plot(x, roof, color=COLOURS["plain"], linewidth=1.2)
        if np.isfinite(rate):
            ridge = rate / bandwidth
            axes.axvline(ridge, color=COLOURS["overhead"], linewidth=0.8, linestyle=":")
            axes.annotate(
                f"ridge {ridge:.0f}", (ridge, MARGIN * roof[-1]), (4, -2), color="#555555",
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
            self.labels[name] = MovingLabel(axes, name, (side * 8, side * -5), color=colour)
            figure.add_artist(self.labels[name])
        self.moving = (self.widening, *self.markers.values(), *self.labels.values())

    def move(self, shown: PredictedScenario) -> None:
        at = self.points(shown)
        places = {name: (point.intensity, point.flops_per_s) for name, point in at.items()}
        for name, marker in self.markers.items():
            visible = name in at
            marker.set_visible(visible)
            self.labels[name].set_visible(visible)
            if visible:
                marker.set_data([places[name][0]], [places[name][1]])
                other = places.get("draft") if name == "verify" else None
                self.labels[name].place(places[name], clear_of=other)
        self.widening.set_visible("verify" in at)
        if "verify" in at:
            ends = (at["plain"], at["verify"])
            self.widening.set_data(
                [end.intensity for end in ends], [end.flops_per_s for end in ends]
            )

    def holds(self, shown: PredictedScenario) -> bool:
        low, high = self.axes.get_ylim()
        return all(low < point.flops_per_s < high for point in self.points(shown).values())


def si(value: float) -> str:
    """A number with the prefix of its thousand: 3.35 T, 990 G."""
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 0.9995 * 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g} "
