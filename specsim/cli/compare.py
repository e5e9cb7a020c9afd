"""specsim compare: measured files beside their predictions."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specsim import calibration
from specsim.catalog import SpecsimError
from specsim.cli.parser import Commands
from specsim.comparison import compare_file, median_errors, to_rows
from specsim.measurement import Measurement


def add(commands: Commands) -> None:
    parser = commands.add_parser("compare", help="measured files beside their predictions")
    parser.set_defaults(run=run)
    parser.add_argument("paths", type=Path, nargs="+", help="measurement files, or folders of them")
    parser.add_argument(
        "--engine", help="a calibration file; default: the one beside the measurements"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    document: dict[str, Any] = {"files": []}
    for path in measurement_files(options.paths):
        measurement = Measurement.read(path)
        place = options.engine or beside(path, measurement)
        comparisons = compare_file(measurement, calibration.load(place).system)
        errors = median_errors(comparisons)
        rows = to_rows(comparisons)
        document["files"].append({"file": str(path), "median_errors": errors, "rows": rows})
        if not options.json:
            print(f"{path}, measured on {measurement.environment.device}, predicted from {place}")
            for row in rows:
                unit, scale = ("ms", 1e3) if row["part"].endswith("_s") else ("", 1.0)
                print(
                    f"  {row['target']:18s} gamma {row['gamma']}  {row['part']:17s} predicted "
                    f"{row['predicted'] * scale:8.3f} {unit:2s} measured "
                    f"{row['measured'] * scale:8.3f} {unit:2s} {row['error']:+6.1%}"
                )
            print(
                "  median |error|: "
                + ", ".join(f"{name} {error:.1%}" for name, error in errors.items())
            )
    if options.json:
        print(json.dumps(document, allow_nan=False))
    return 0


def measurement_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the measurement files of the folders named."""
    files = []
    for path in paths:
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        files += [
            file for file in found if path.is_file() or not file.name.startswith("calibration")
        ]
    if not files:
        raise SpecsimError(f"no measurement files in {', '.join(map(str, paths))}")
    return files


def beside(path: Path, measurement: Measurement) -> Path:
    """The calibration that a measurement names, or that lies beside it."""
    place = path.parent / (measurement.calibration or "calibration.json")
    if not place.is_file():
        raise SpecsimError(f"{path} comes with no calibration; give one: --engine calibration.json")
    return place


def run_validate(options: argparse.Namespace) -> int:
    from specsim import validation

    report = validation.report()
    if options.json:
        print(json.dumps(report, allow_nan=False))
    else:
        print(validation.render(report, worst=max(options.worst, 0)))
    return 0
