"""Folders of measured files, as `python -m reference measure` writes them.

A folder holds the files of one machine and its calibration. Every point is compared with every
predictor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specsim.checks import SpecsimError, quoted
from specsim.evidence import calibration
from specsim.evidence.calibration import Calibration
from specsim.evidence.comparison.points import Comparison, compare, is_predicted
from specsim.evidence.comparison.predictors import Predictor, predictors_for
from specsim.evidence.measurement import Environment, Measurement, Point

OTHER_FILES = (  # beginnings of the names of files without points
    "calibration", "probes", "modes", "dram", "pair", "look", "profile", "tiles",
)  # fmt: skip
MODES = ("eager", "cuda-graphs", "fused", "compiled")


@dataclass(frozen=True, slots=True)
class MeasuredMachine:
    """The machine of one folder, and its points compared with each predictor, by its name."""

    environment: Environment
    by_predictor: dict[str, list[Comparison]]

    @property
    def is_gpu(self) -> bool:
        """Whether the points were measured on a GPU."""
        return self.environment.driver is not None


def measured_machines(root: str | Path) -> list[MeasuredMachine]:
    """The machines of all folders in `root` that hold a calibration and a measured file.

    Raises SpecsimError if a file in such a folder cannot be read.
    """
    return [
        measured_machine(file.parent)
        for file in sorted(Path(root).glob("*/calibration.json"))
        if any(is_measurement(each) for each in file.parent.glob("*.json"))
    ]


def measured_machine(folder: Path) -> MeasuredMachine:
    """The machine of one folder; SpecsimError if it has no measured file or no calibration."""
    by_predictor: dict[str, list[Comparison]] = {}
    for path in measurement_files([folder]):
        measurement = Measurement.read(path)
        found = calibrations(calibration_of(path, measurement), False)
        for predictor in predictors_for(found, measurement.environment.device):
            compared = compare_points(predictor, measurement.points)
            by_predictor.setdefault(predictor.name, []).extend(compared)
    return MeasuredMachine(measurement.environment, by_predictor)


def compare_points(predictor: Predictor, points: Sequence[Point]) -> list[Comparison]:
    """Compare the points that `predictor` has a System for with its predictions."""
    return [
        compare(point, system)
        for point in points
        if is_predicted(point) and (system := predictor.system(point)) is not None
    ]


def is_measurement(file: Path) -> bool:
    """Whether a file in a machine's folder holds measured points, by its name."""
    return not file.name.startswith(OTHER_FILES)


def measurement_files(paths: Sequence[Path]) -> list[Path]:
    """The given files, and the measured files of the given folders; SpecsimError if none."""
    files = []
    for path in paths:
        try:
            found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        except OSError as error:  # a name that is too long, a folder that may not be read
            raise SpecsimError(f"cannot read {quoted(str(path))}: {error.strerror}") from None
        files += [file for file in found if not path.is_dir() or is_measurement(file)]
    if not files:
        raise SpecsimError(f"no measured files in {', '.join(map(str, paths))}")
    return files


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def calibration_of(path: Path, measurement: Measurement) -> Path:
    """The path of the calibration that a measured file names, or of the one in its folder."""
    file = path.parent / (measurement.calibration or "calibration.json")
    if not is_file(file):
        raise SpecsimError(f"{path} has no calibration {file}; give one: --engine calibration.json")
    return file


def calibrations(path: Path, alone: bool) -> dict[str, Calibration]:
    """Calibrations by mode: the one at `path` and, unless `alone`, the others of its folder.

    A calibration that names no mode, or stands alone, is used for every mode.
    """
    files = [path] if alone else [path, *sorted(path.parent.glob("calibration-*.json"))]
    found: dict[str, Calibration] = {}
    for file in files:
        loaded = calibration.load(file)
        mode = loaded.environment.get("mode")
        for each in (mode,) if mode and not alone else MODES:
            found.setdefault(each, loaded)
    return found
