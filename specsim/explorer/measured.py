"""What was measured on real machines, as markers beside a prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specsim.catalog import slug
from specsim.checks import SpecsimError
from specsim.evidence.measurement import Measurement, Point
from specsim.explorer.setting import Scenario

NEAR = 1.25  # contexts apart by no more than this factor count as the same


@dataclass(frozen=True, slots=True)
class Marker:
    """One measured speedup: what was run, and the spread of its cycles (10th to 90th per cent)."""

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

    def is_of(self, scenario: Scenario) -> bool:
        """Whether the scenario is what was run, on this machine."""
        setting = scenario.setting
        close = 1 / NEAR <= self.context / setting.context <= NEAR
        same = (self.target, self.draft) == (scenario.target.name, setting.draft)
        run = self.precision == setting.precision and self.batch == setting.batch
        chain = setting.method == "draft-model"
        return close and same and run and chain and self._ran_on(scenario)

    def _ran_on(self, scenario: Scenario) -> bool:
        """A device's own name ("NVIDIA H200") holds the first word of the catalog's ("h200-sxm"),
        or is the name of what was calibrated."""
        chip = scenario.system.accelerator.name
        first = slug(chip).split("-")[0]
        return first in slug(self.device).split("-") or slug(chip) == slug(self.device)


@dataclass(frozen=True, slots=True)
class Markers:
    """All measured speedups that were found."""

    all: tuple[Marker, ...]

    def near(self, scenario: Scenario) -> list[Marker]:
        return [marker for marker in self.all if marker.is_of(scenario)]


def markers_in(folder: str | Path | None) -> Markers:
    """The markers of every measurement in a folder and below; none where there is no folder. A
    file that is something else, or is damaged, is passed over."""
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
    """A measured point as a marker; None where no speedup was measured."""
    scenario, step, cycle = point.scenario, point.step_s, point.cycle_s
    if scenario.draft is None or step is None or cycle is None or point.tokens_per_cycle is None:
        return None
    gain = point.tokens_per_cycle * step.median
    return Marker(
        device=device,
        target=scenario.target.name,
        draft=scenario.draft.name,
        precision=scenario.precision,
        batch=scenario.batch,
        context=scenario.context,
        gamma=scenario.gamma,
        speedup=gain / cycle.median,
        low=gain / cycle.p90,
        high=gain / cycle.p10,
    )


def calibrations_in(folder: str | Path | None) -> Sequence[str]:
    """The calibration files of a folder and below: engines to look through."""
    if folder is None:
        return []
    return [str(path) for path in sorted(Path(folder).rglob("*calibration*.json"))]
