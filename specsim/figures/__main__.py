"""The figures of the documentation: python -m specsim.figures [FOLDER] [--measured FOLDER]

`--measured` is the folder with a demo's demo.json and calibration.json (default `out`). Without
them the demo's figure is not drawn again.
"""

import argparse
from itertools import groupby
from pathlib import Path

import numpy as np

import specsim
from specsim import figures, serving
from specsim.acceptance import IID, alpha_from_tokens_per_cycle
from specsim.evidence import calibration, validation
from specsim.evidence.comparison import compare
from specsim.evidence.measurement import Measurement
from specsim.evidence.validation.speedups import SpeculationCase, published_speedups
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


RATES = (5, 10, 15, 20, 25, 30, 35, 40, 45)
IN_FLIGHT = (1, 2, 4, 8, 16, 32)
POLICIES = {"off": "plain", "fixed:1": "draft", "fixed:6": "verify", "best": "speedup"}
NAMED = {"off": "no draft", "fixed:1": "γ = 1", "fixed:6": "γ = 6", "best": "best"}


def load(requests: int) -> figures.NotebookFigure:
    """Policies by rate, and trees of EAGLE-3 by requests in flight with the published speedups."""
    server = serving.Server(
        target=specsim.model("llama-3.1-8b"),
        drafter=specsim.DraftModel(specsim.model("llama-3.2-1b")),
        system=specsim.system("h100-sxm", engine="vllm", precision="auto"),
    )
    slo = serving.Slo(ttft=500, tpot=15)
    goodput = []
    for policy, concept in POLICIES.items():
        found = [
            serving.simulate(
                server,
                serving.traffic(rate=rate, requests=requests, prompt=serving.Lengths(400, 0.8),
                                output=serving.Lengths(200, 0.7)),
                policy=policy, alpha=0.75, slo=slo,
            ).goodput
            for rate in RATES
        ]  # fmt: skip
        goodput.append(figures.Curve(NAMED[policy], RATES, found, concept))
    cases = [
        case
        for case in published_speedups()[0]
        if case.table == "served_speedups" and case.target.name == "llama-3.1-8b"
        and case.engine == "sglang"
    ]  # fmt: skip
    gains = []
    for gamma, concept in zip(sorted({case.gamma for case in cases}), ("draft", "verify"),
                              strict=False):  # fmt: skip
        alike = [case for case in cases if case.gamma == gamma]
        measured = [(case.batch, case.speedup) for case in alike]
        case = alike[0]
        machine = specsim.system(case.accelerator, engine=case.engine, precision=case.precision)
        served = serving.Server(target=case.target, drafter=case.drafter, system=machine)
        few = max(requests // 4, 2)
        gain = [closed_loop_gain(served, case, users, few) for users in IN_FLIGHT]
        gains.append(figures.Curve(f"tree of {gamma} nodes", IN_FLIGHT, gain, concept,
                                   measured=measured))  # fmt: skip
    return figures.under_load(
        goodput, gains, slo="TTFT ≤ 500 ms, TPOT ≤ 15 ms",
        titles=("Llama-3.1-8B, 1B draft, H100, α = 0.75", "Llama-3.1-8B, EAGLE-3, B200, SGLang"),
    )  # fmt: skip


def closed_loop_gain(
    server: serving.Server, case: SpeculationCase, users: int, requests: int
) -> float:
    """Tokens per second of a published case with so many users, over those without a draft."""
    traffic = serving.traffic(
        concurrency=users, requests=max(requests, 4 * users),
        prompt=serving.Lengths(max(1.0, case.context - 256)), output=serving.Lengths(512),
    )  # fmt: skip
    alpha = alpha_from_tokens_per_cycle(case.tokens_per_cycle, case.gamma)
    chain = serving.Accepting(IID(alpha), of_cycles=True)
    plain, drafted = (
        serving.simulate(server, traffic, policy=policy, acceptance=chain)
        for policy in ("off", f"fixed:{case.gamma}")
    )
    return float(drafted.summary["output_throughput"] / plain.summary["output_throughput"])


def main(arguments: list[str] | None = None) -> None:
    """Write every figure into the folder and print the name of each file."""
    parser = argparse.ArgumentParser(description="Draw the figures of the documentation.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs"))
    parser.add_argument("--requests", type=int, default=1200, help="of each simulated run")
    parser.add_argument("--measured", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    drawn = {
        "speedup-map.png": where_it_pays(),
        "published.png": figures.published(validation.report()),
        "serving.png": load(options.requests),
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
