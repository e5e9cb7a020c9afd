"""specsim compare: measured files, or results of other tools, compared with their predictions."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from specsim.checks import SpecsimError
from specsim.checks.columns import fit
from specsim.checks.extras import require_modules
from specsim.checks.files import require_writable, writing
from specsim.cli.options import add_acceptance, add_scenario
from specsim.cli.parser import Commands
from specsim.cli.progress import working
from specsim.cli.sentences import unknown_link
from specsim.evidence import tables
from specsim.evidence.comparison import (
    Comparison,
    Predictor,
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
    system_of,
    to_rows,
)
from specsim.evidence.measurement import Measurement, Point

ONE_PART = "measured"  # the name of the part for points that do not come from a suite


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("compare", help="measured files compared with their predictions")
    parser.set_defaults(run=run)
    parser.add_argument("paths", type=Path, nargs="*", help="measured files, or folders of them")
    parser.add_argument(
        "--results", nargs="+", metavar="FILE",
        help="instead: results of vllm bench serve, SGLang, guidellm or aiperf, a page of metrics, "
        "a log, or a trace",
    )  # fmt: skip
    parser.add_argument(
        "--rows", action="store_true", help="also list all quantities of all points"
    )
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw the figures there")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    scenario = parser.add_argument_group(
        "the scenario",
        "of measured files: --engine (a calibration file) and --accelerator alone, where their "
        "folder does not tell; of --results: all, for a prediction at their mean batch and context",
    )
    add_scenario(scenario, required=False)
    scenario.add_argument("--batch", type=int, help="sequences decoded together")
    scenario.add_argument("--gamma", type=int, help="drafted tokens per cycle")
    add_acceptance(parser)
    parser.set_defaults(engine=None, context=None)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if options.results is not None:
        if options.paths:
            raise SpecsimError("give measured files or --results FILE…, not both")
        from specsim.cli.results import run_results

        return run_results(options)
    if not options.paths:
        raise SpecsimError("give measured files, folders of them, or --results FILE…")
    if options.figures:
        require_modules("drawing figures", "matplotlib", "PIL")
        require_writable(options.figures)
    document: dict[str, Any] = {"files": []}
    every: dict[str, list[Comparison]] = {}
    baselines: list[Point] = []
    for path in measurement_files(options.paths):
        measurement = Measurement.read(path)
        fitted = Path(options.engine) if options.engine else calibration_of(path, measurement)
        found = predictors_for(
            calibrations(fitted, bool(options.engine)),
            measurement.environment.device,
            options.accelerator,
        )
        with working(f"predicting {path}"):
            compared = {
                predictor.name: compare_points(predictor, measurement.points) for predictor in found
            }
        for name, comparisons in compared.items():
            every.setdefault(name, []).extend(comparisons)
        baselines += [point for point in measurement.points if not is_predicted(point)]
        mine = compared["calibrated"]
        rows, errors = to_rows(mine), median_errors(mine)
        notes = notes_on_devices(measurement, mine, found[0])
        document["files"].append(
            {"file": str(path), "median_errors": errors, "rows": rows, "notes": notes}
        )
        if not options.json:
            device = measurement.environment.device
            said = [
                f"{path}: {len(measurement.points)} points on {device}, predicted from {fitted}",
                *(f"  {note}" for note in notes),
            ]
            print(*fit(said + (tables.rows_table(rows) if options.rows else [])), sep="\n")
    document |= summary(every)
    if options.figures:
        document["figures"] = draw(every, options.figures)
    if options.json:
        print(json.dumps(document, allow_nan=False))
    else:
        print(*fit(tables.suite_table(every, baselines)), sep="\n")
        for file in document.get("figures", ()):
            print(f"drew {file}")
    return 0


def notes_on_devices(
    measurement: Measurement, compared: Sequence[Comparison], predictor: Predictor
) -> list[str]:
    """What a prediction for several devices assumes that nobody measured; nothing for one."""
    split = [c.point for c in compared if c.point.scenario.tensor_parallel > 1]
    if not split:
        return []
    counts = sorted({point.scenario.tensor_parallel for point in split})
    said = [f"{len(split)} points are split over {', '.join(map(str, counts))} devices."]
    system = predictor.system(split[0])
    assert system is not None
    said += unknown_link(system_of(split[0], system))
    if measurement.environment.driver is None:
        said.append(
            "The processes share one CPU, and the prediction gives each of them a whole one, with "
            "packed weights: optimistic, so these times say nothing about devices of their own."
        )
    return said


def summary(every: Mapping[str, Sequence[Comparison]]) -> dict[str, Any]:
    """The numbers of the table as plain data: by part, predictor, and all or reserved points."""
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
    """Draw the figures into files; SpecsimError for a folder that cannot be written."""
    from specsim import figures

    drawn = {
        "predicted-and-measured": figures.parity(every),
        "verify-curve": figures.verify_curve(every["calibrated"]),
        "speedup-by-batch": figures.speedup_by_batch(every["calibrated"]),
    }
    files = []
    for name, figure in drawn.items():
        if figure is not None:
            file = folder / f"{name}.png"
            with writing(file) as new:
                new.write_bytes(figures.png(figure))
            files.append(str(file))
    return files
