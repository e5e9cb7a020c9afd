"""The figures of the documentation: python -m specsim.figures [FOLDER] [--measured FOLDER]

`--measured` is the folder with a demo's demo.json and calibration.json (default `out`). Without
them the demo's figure is not drawn again.
"""

import argparse
from itertools import groupby
from pathlib import Path

import numpy as np

import specsim
from specsim import figures
from specsim.evidence import calibration, validation
from specsim.evidence.comparison import compare
from specsim.evidence.measurement import Measurement
from specsim.planning import sweep


def demo(measured: Path) -> figures.NotebookFigure:
    """What a demo predicted and measured, for every pair of models in its file."""
    file = Measurement.read(measured / "demo.json")
    system = calibration.load(measured / "calibration.json").system
    rows = []
    for name, group in groupby(file.points, lambda point: point.scenario.target.name):
        points = sorted(group, key=lambda point: point.scenario.gamma)
        scenarios = [point.scenario for point in points]
        (draft,) = {scenario.draft for scenario in scenarios if scenario.draft}
        prediction = specsim.predict(
            scenarios[0].target,
            specsim.DraftModel(draft),
            system,
            gamma=[scenario.gamma for scenario in scenarios],
            tokens_per_cycle=[1 + sum(point.calibration_survival or ()) for point in points],
            tokens_error=[point.tokens_error for point in points],
            context=scenarios[0].context,
        )
        rows.append((name, prediction, [compare(point, system) for point in points]))
    return figures.predicted_and_measured(rows)


def where_it_pays() -> figures.NotebookFigure:
    """The speedup over batch and context, for one pair of models on one device."""
    target, draft = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
    drafter, system = specsim.DraftModel(draft), specsim.system("h200-sxm")
    found = sweep.speedup_map(
        target,
        drafter,
        system,
        x=("batch", np.unique(np.geomspace(1, 512, 40).round())),
        y=("context", np.geomspace(512, 131_072, 40).round()),
        gammas=range(9),
        alpha=0.8,
    )
    figure, axes = figures.subplots(height=3.6)
    title = f"{target.name}, {draft.name}, {system.accelerator.name}, α = 0.8"
    most = int(found.gamma.max())  # of all points: the line is pessimistic by less than a per cent
    full = figures.where_memory_ends(found, target, system, drafter=drafter, gamma=most)
    figures.speedup_map(axes, found, title=title, full=full)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Write every figure into the folder and print the name of each file."""
    parser = argparse.ArgumentParser(description="Draw the figures of the documentation.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs"))
    parser.add_argument("--measured", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    drawn = {
        "speedup-map.png": where_it_pays(),
        "published.png": figures.published(validation.report()),
    }
    if (options.measured / "demo.json").is_file():
        drawn["demo.png"] = demo(options.measured)
    else:
        print(f"no demo.json in {options.measured}: demo.png stays as it is")
    for name, figure in drawn.items():
        (options.folder / name).write_bytes(figures.png(figure))
        print(options.folder / name)


if __name__ == "__main__":
    main()
