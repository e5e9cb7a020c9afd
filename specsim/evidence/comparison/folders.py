"""Folders of measurements, as `python -m reference measure` writes them: the files of a machine,
the calibration beside them, and every point through every lens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specsim.checks import SpecsimError
from specsim.evidence import calibration
from specsim.evidence.calibration import Calibration
from specsim.evidence.comparison.points import Comparison, compare, is_predicted
from specsim.evidence.comparison.predictors import Lens, lenses
from specsim.evidence.measurement import Environment, Measurement, Point

OF_THE_MACHINE = ("calibration", "probes")  # files beside the measurements
MODES = ("eager", "cuda-graphs", "compiled")


@dataclass(frozen=True, slots=True)
class MeasuredMachine:
    """A folder's machine, and its points beside their predictions, by lens."""

    environment: Environment
    by_lens: dict[str, list[Comparison]]

    @property
    def is_gpu(self) -> bool:
        return self.environment.driver is not None


def measured_machines(root: str | Path) -> list[MeasuredMachine]:
    """Every machine whose folder, with its calibration, lies in `root`; none where there is none.

    Raises SpecsimError for a file in such a folder that cannot be read.
    """
    return [
        measured_machine(place.parent)
        for place in sorted(Path(root).glob("*/calibration.json"))
        if any(is_measurement(file) for file in place.parent.glob("*.json"))
    ]


def measured_machine(folder: Path) -> MeasuredMachine:
    """The machine of one folder; SpecsimError where no measurement or calibration is in it."""
    by_lens: dict[str, list[Comparison]] = {}
    for path in measurement_files([folder]):
        measurement = Measurement.read(path)
        found = calibrations(beside(path, measurement), False)
        for lens in lenses(found, measurement.environment.device):
            by_lens.setdefault(lens.name, []).extend(through(lens, measurement.points))
    return MeasuredMachine(measurement.environment, by_lens)


def through(lens: Lens, points: Sequence[Point]) -> list[Comparison]:
    """The points that a lens has a System for, beside its predictions."""
    return [
        compare(point, system)
        for point in points
        if is_predicted(point) and (system := lens.system(point)) is not None
    ]


def is_measurement(file: Path) -> bool:
    """Whether a file in a machine's folder is one of points, by its name."""
    return not file.name.startswith(OF_THE_MACHINE)


def measurement_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the measurement files of the folders named."""
    files = []
    for path in paths:
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        files += [file for file in found if path.is_file() or is_measurement(file)]
    if not files:
        raise SpecsimError(f"no measurement files in {', '.join(map(str, paths))}")
    return files


def beside(path: Path, measurement: Measurement) -> Path:
    """The calibration that a measurement names, or that lies beside it."""
    place = path.parent / (measurement.calibration or "calibration.json")
    if not place.is_file():
        raise SpecsimError(f"{path} comes with no calibration; give one: --engine calibration.json")
    return place


def calibrations(place: Path, alone: bool) -> dict[str, Calibration]:
    """By mode: the calibration at `place`, and unless it is to stand `alone` those beside it that
    say which mode they are of. One that does not say holds for every mode."""
    files = [place] if alone else [place, *sorted(place.parent.glob("calibration-*.json"))]
    found: dict[str, Calibration] = {}
    for file in files:
        loaded = calibration.load(file)
        mode = loaded.environment.get("mode")
        for each in (mode,) if mode and not alone else MODES:
            found.setdefault(each, loaded)
    return found
