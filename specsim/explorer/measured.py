"""Measured speedups, as markers next to a prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specsim.catalog import slug
from specsim.checks import SpecsimError
from specsim.evidence.measurement import Measurement, Point
from specsim.explorer.scenarios import PredictedScenario

NEAR = 1.25  # contexts that differ by at most this factor count as the same


@dataclass(frozen=True, slots=True)
class Marker:
    """One measured speedup: what was run, and its spread (10th to 90th percentile)."""

    device: str
    target: str
    draft: str
    precision: str
    batch: int
    context: int
    gamma: int
    speedup: float
    low: float
    high: float

    def is_of(self, shown: PredictedScenario) -> bool:
        """Whether the scenario is what was run, on this accelerator."""
        scenario = shown.scenario
        close = 1 / NEAR <= self.context / scenario.context <= NEAR
        same = (self.target, self.draft) == (shown.target.name, scenario.draft)
        run = self.precision == scenario.precision and self.batch == scenario.batch
        chain = scenario.method == "draft-model"
        return close and same and run and chain and self._ran_on(shown.system.accelerator.name)

    def _ran_on(self, accelerator: str) -> bool:
        """Whether the device's own name ("NVIDIA H200") contains the first word of the catalog's
        ("h200-sxm"), or is the name of the device that was calibrated."""
        name, device = slug(accelerator), slug(self.device)
        return name.split("-")[0] in device.split("-") or name == device


@dataclass(frozen=True, slots=True)
class Markers:
    """All measured speedups that were found in a folder."""

    all: tuple[Marker, ...]

    def near(self, shown: PredictedScenario) -> list[Marker]:
        """Those of the scenario that is shown."""
        return [marker for marker in self.all if marker.is_of(shown)]


def markers_in(folder: str | Path | None) -> Markers:
    """The markers of every measurement in a folder and below; none where there is no folder. Other
    files, and damaged ones, are ignored."""
    found: list[Marker] = []
    for path in sorted(Path(folder).rglob("*.json")) if folder is not None else ():
        try:
            measurement = Measurement.read(path)
        except SpecsimError:
            continue
        device = measurement.environment.device
        found += [m for point in measurement.points if (m := marker_of(point, device))]
    return Markers(tuple(found))


def marker_of(point: Point, device: str) -> Marker | None:
    """A measured point as a marker; None without a draft model or a measured speedup."""
    scenario, speedup = point.scenario, point.speedup
    if scenario.draft is None or speedup is None:
        return None
    return Marker(
        device=device,
        target=scenario.target.name,
        draft=scenario.draft.name,
        precision=scenario.precision,
        batch=scenario.batch,
        context=scenario.context,
        gamma=scenario.gamma,
        speedup=speedup.median,
        low=speedup.low,
        high=speedup.high,
    )


def calibrations_in(folder: str | Path | None) -> Sequence[str]:
    """The calibration files of a folder and below, each of which can be an engine."""
    if folder is None:
        return []
    return [str(path) for path in sorted(Path(folder).rglob("*calibration*.json"))]
