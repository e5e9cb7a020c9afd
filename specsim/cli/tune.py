"""specsim tune: the best policy for a load and an SLO, what the others lose, engines' commands."""

import argparse
import json
from typing import Any

from specsim import __version__, serving
from specsim.checks import SpecsimError
from specsim.checks.columns import fit, wrap
from specsim.cli.load import Bar, add_load, loads_of
from specsim.cli.options import scenario_of
from specsim.cli.page import notes as bullets
from specsim.cli.page import pasted, priced
from specsim.cli.parser import Commands
from specsim.cli.plan import deployment
from specsim.cli.sentences import guesses_first
from specsim.cli.serve_sim import doubts_of, load_words, rests_on
from specsim.planning import ENGINES_WITH_SETTINGS, engine_settings, launch
from specsim.scenario import Resolved
from specsim.scenario.server_load import ServerLoad
from specsim.serving.simulation import accepting_of as accepting
from specsim.serving.tuning import Tuned, plan_of, tune

COLUMNS = (
    "request_throughput", "request_goodput", "output_throughput", "mean_ttft_ms", "p99_ttft_ms",
    "mean_tpot_ms", "p99_tpot_ms", "mean_e2el_ms", "batch_mean", "gamma_share", "gamma_switches",
    "joules_per_token", "dollars_per_million", "state",
)  # fmt: skip
WORTH = 0.02  # a schedule is worth its trouble if it gains more than this over one gamma


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "tune", help="the best policy for a load and an SLO, and what each other one loses"
    )
    parser.set_defaults(run=run)
    add_load(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    slo = serving.slo_of(options.slo)
    if options.tokens_per_cycle is not None:
        raise SpecsimError("tune compares several gammas: give --alpha or --survival")
    asked = loads_of(options)
    found = asked[0].resolve(scenario_of(options))
    if found.drafter is None:
        raise SpecsimError("tuning needs a draft: give --draft NAME|config.json or --method NAME")
    server, given = asked[0].server(found), asked[0].accepting(found)
    if len(asked) > 1:
        raise SpecsimError("tune takes one --rate at a time")
    load = asked[0].traffic()
    chain = accepting(server, given["alpha"], given["survival"], None, given["alpha_spread"])
    assert chain is not None
    bars: dict[str, Bar] = {}

    def progress(name: str, done: int, simulated_s: float) -> None:
        if name not in bars:
            bars[name] = Bar(len(load), f"{name} ")
        bars[name](done, simulated_s)

    tuned = tune(
        server, load, chain, slo=slo, hysteresis=options.hysteresis,
        price_per_hour=options.price_per_hour, progress=progress,
    )  # fmt: skip
    for bar in bars.values():
        bar.end()
    document = to_json(found, tuned, asked[0])
    if options.json:
        print(json.dumps(document, allow_nan=False))
    else:
        head = priced(found, load=load_words(options), options=("engine",))
        print(*head, "", *lines(found, tuned, document), sep="\n")
    return 0


def to_json(found: Resolved, tuned: Tuned, load: ServerLoad) -> dict[str, Any]:
    """All candidates, and the settings of engines for the best one, of the server of `load`."""
    policy = recommended(tuned).loop.policy
    planned = plan_of(policy)
    guesses, doubts = doubts_of(found, [tuned.best, recommended(tuned)])
    started = deployment(found, load.memory_share, **load.limits_asked)
    return {
        "best": tuned.best.policy,
        "best_static": tuned.best_static.policy,
        "recommended": policy.name,
        "schedule": [list(each) for each in policy.ranges()],
        "policies": [
            {"policy": run.policy, "loss": tuned.loss(run)}
            | {name: run.summary[name] for name in COLUMNS}
            for run in tuned.runs
        ],
        "engine_settings": {
            name: engine_settings(planned, name, found.drafter, method=found.method)
            for name in ENGINES_WITH_SETTINGS
        },
        "commands": {
            name: {"command": each.command, "notes": list(each.notes)}
            for name in ENGINES_WITH_SETTINGS
            for each in [launch(name, started, planned, target=found.target,
                                drafter=found.drafter)]
        },
        "assumptions": [
            *guesses, *advice(tuned), *tuned.best.sentences, *doubts, *rests_on(found)
        ],
        "version": __version__,
    }  # fmt: skip


def recommended(tuned: Tuned) -> serving.Served:
    """The best one that an engine can be told: one gamma, unless a schedule gains enough."""
    for run in tuned.runs:
        if run.loop.policy.by_request:
            continue  # no engine has words for it
        if tuned.loss(tuned.best_static) - tuned.loss(run) > WORTH:
            return run
        break
    return tuned.best_static


def advice(tuned: Tuned) -> list[str]:
    """Sentences on schedules: what they gain over one gamma, how often they switch."""
    static, said = tuned.best_static, []
    for run in tuned.runs:
        policy, switches = run.loop.policy, run.summary["gamma_switches"]
        if len(policy.ranges()) > 1 and not policy.hysteresis and switches > 10:
            minutes = max(run.summary["duration"] / 60.0, 1e-9)
            said.append(
                f"{policy.name} without hysteresis switches gamma {switches / minutes:.0f} times a "
                "minute; engines have no hysteresis of their own."
            )
    gain = tuned.loss(static) - tuned.loss(tuned.best)
    if tuned.best is not static and gain <= WORTH:
        said.append(
            f"The best single setting, {static.policy}, is within {max(gain, 0.0):.1%} of the best "
            "policy, and the simpler one."
        )
    if tuned.best.loop.policy.by_request:
        said.append("No engine documents a rule by request (admit): its gain needs a change there.")
    return said


def lines(found: Resolved, tuned: Tuned, document: dict[str, Any]) -> list[str]:
    """The document for a person."""
    guesses, others = guesses_first(document["assumptions"])
    said = [
        *(line for sentence in guesses for line in wrap(sentence)),
        f"{'':22s}{'requests/s':>11s}{'tokens/s':>9s}{'TTFT ms':>9s}{'TPOT ms':>13s}{'all ms':>8s}",
        f"{'policy':22s}{'good':>11s}{'all':>9s}{'p99':>9s}{'mean':>7s}{'p99':>6s}{'mean':>8s}"
        f"{'loss':>8s}",
    ]
    for run in tuned.runs:
        row = run.summary
        times = (row["p99_ttft_ms"], row["mean_tpot_ms"], row["p99_tpot_ms"], row["mean_e2el_ms"])
        cells = "".join(
            f"{'-' if value is None else f'{value:.1f}':>{wide}s}"
            for value, wide in zip(times, (9, 7, 6, 8), strict=True)
        )
        name = run.policy.replace("hysteresis", "hyst.")
        said.append(
            f"{name:22s}{row['request_goodput']:11.2f}{row['output_throughput']:9.0f}{cells}"
            f"{tuned.loss(run):8.1%}"
        )
        if run.state != "steady":
            said.append(f"  {run.state}")
    chosen = document["recommended"]
    ranges = ", ".join(f"gamma {gamma} up to {last}" for _, last, gamma in document["schedule"])
    said += fit([f"recommended: {chosen} ({ranges} sequences)"])
    said += bullets(others)
    mine = found.scenario.engine in ENGINES_WITH_SETTINGS
    for name in [found.scenario.engine] if mine else ENGINES_WITH_SETTINGS:
        command = document["commands"][name]
        said += ["", f"{name}:", *pasted(command["notes"], command["command"])]
    return said
