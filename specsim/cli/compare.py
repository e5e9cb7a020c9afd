"""specsim compare: measured files beside their predictions."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from specsim import tables
from specsim.checks import SpecsimError
from specsim.cli.parser import Commands
from specsim.evidence.comparison import (
    Comparison,
    calibration_of,
    calibrations,
    compare_points,
    is_predicted,
    measurement_files,
    median_errors,
    misses,
    predictors_for,
    regrets,
    summarise,
    to_rows,
)
from specsim.evidence.measurement import Measurement, Point

ONE_PART = "measured"  # what the points of a file that is no suite's are listed under


def add(commands: Commands) -> None:
    parser = commands.add_parser("compare", help="measured files beside their predictions")
    parser.set_defaults(run=run)
    parser.add_argument("paths", type=Path, nargs="+", help="measurement files, or folders of them")
    parser.add_argument(
        "--engine", help="a calibration file; default: the one beside the measurements"
    )
    parser.add_argument(
        "--accelerator", help="the catalog's name of the chip; default: by the device's own name"
    )
    parser.add_argument("--rows", action="store_true", help="every point and part in full")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw the figures there")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    document: dict[str, Any] = {"files": []}
    every: dict[str, list[Comparison]] = {}
    peers: list[Point] = []
    for path in measurement_files(options.paths):
        measurement = Measurement.read(path)
        place = Path(options.engine) if options.engine else calibration_of(path, measurement)
        found = predictors_for(
            calibrations(place, bool(options.engine)),
            measurement.environment.device,
            options.accelerator,
        )
        compared = {
            predictor.name: compare_points(predictor, measurement.points) for predictor in found
        }
        for name, comparisons in compared.items():
            every.setdefault(name, []).extend(comparisons)
        peers += [point for point in measurement.points if not is_predicted(point)]
        mine = compared["calibrated"]
        rows, errors = to_rows(mine), median_errors(mine)
        document["files"].append({"file": str(path), "median_errors": errors, "rows": rows})
        if not options.json:
            device = measurement.environment.device
            print(f"{path}: {len(measurement.points)} points on {device}, predicted from {place}")
            if options.rows:
                print(*tables.rows_table(rows), sep="\n")
    document |= summary(every)
    if options.figures:
        document["figures"] = draw(every, options.figures)
    if options.json:
        print(json.dumps(document, allow_nan=False))
    else:
        print(*tables.suite_table(every, peers), sep="\n")
        for file in document.get("figures", ()):
            print(f"drew {file}")
    return 0


def summary(every: Mapping[str, Sequence[Comparison]]) -> dict[str, Any]:
    """The numbers of the table, for programs: by part, predictor, and whether reserved."""
    parts: dict[str, Any] = {}
    for name, comparisons in every.items():
        for part in tables.parts_of(comparisons):
            members = [c for c in comparisons if (c.point.part or ONE_PART) == part]
            reserved = [c for c in members if c.point.reserved]
            chosen = {"all": members} | ({"reserved": reserved} if reserved else {})
            parts.setdefault(part, {})[name] = {
                which: summarise(points).to_json() for which, points in chosen.items()
            }
    found = regrets(every["calibrated"])
    return {
        "parts": parts,
        "best_gamma": {
            "scenarios": len(found),
            "within_2_percent": sum(regret.is_tie for regret in found),
            "worst_loss": max((regret.lost for regret in found), default=0.0),
        },
        "misses": misses(every["calibrated"]),
    }


def draw(every: Mapping[str, Sequence[Comparison]], folder: Path) -> list[str]:
    """The figures as files; SpecsimError where there is nothing to draw with or no place."""
    try:
        from specsim import figures
    except ImportError:
        raise SpecsimError("figures need matplotlib: pip install 'specsim-llm[figures]'") from None
    drawn = {
        "predicted-and-measured": figures.parity(every),
        "verify-curve": figures.verify_curve(every["calibrated"]),
        "speedup-by-batch": figures.speedup_by_batch(every["calibrated"]),
    }
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            if figure is None:
                continue
            partial = folder / f"{name}.partial"
            partial.write_bytes(figures.png(figure))
            files.append(str(partial.replace(folder / f"{name}.png")))
    except OSError as error:
        raise SpecsimError(f"cannot write to {folder}: {error.strerror}") from None
    return files
