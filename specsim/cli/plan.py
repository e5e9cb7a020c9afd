"""specsim plan: the best gamma for each batch, as a table and as an engine's own setting."""

import argparse
import json
from typing import Any

import numpy as np

from specsim import __version__
from specsim.checks import SpecsimError, whole_numbers
from specsim.cli.options import add_acceptance, add_scenario, scenario_of
from specsim.cli.parser import Commands
from specsim.cli.sentences import assumptions
from specsim.planning import (
    BATCHES,
    ENGINES_WITH_SETTINGS,
    crossover,
    engine_settings,
    plan,
    sensitivity,
)
from specsim.planning.memory import largest_batch
from specsim.scenario import resolve


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "plan", help="the best gamma for each batch, and as an engine's own setting"
    )
    parser.set_defaults(run=run)
    add_scenario(parser)
    parser.add_argument(
        "--batches", "--batch", dest="batches", default=",".join(map(str, BATCHES)),
        help="batch sizes, comma-separated and rising",
    )  # fmt: skip
    add_acceptance(parser, tokens_per_cycle=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    batches = whole_numbers("--batches", options.batches)
    found = resolve(scenario_of(options))
    scenario, drafter = found.scenario, found.drafter
    if drafter is None:
        raise SpecsimError("a plan needs a draft: give --draft NAME|config.json or --method NAME")
    given: dict[str, Any] = scenario.acceptance | {
        "context": scenario.context, "routing_correlation": scenario.routing_correlation
    }  # fmt: skip
    asked = (found.target, drafter, found.system)
    planned = plan(*asked, batches=batches, gammas=found.gammas, **given)
    last = crossover(*asked, gammas=found.gammas, most=max(4096, batches[-1]), **given)
    first = int(planned.gamma[0])
    moves = sensitivity(*asked, gamma=first, batch=batches[0], **given) if first > 0 else None
    held = found.footprint(gamma=planned.gamma, batch=planned.batch)
    fits = np.broadcast_to(held.fits, planned.batch.shape).tolist()
    said = []
    if not all(fits):
        at = fits.index(False)
        place: dict[str, Any] = {"gamma": int(planned.gamma[at]), "batch": batches[at]}
        missing = found.shortage(found.footprint(**place), **place)
        said.append(f"A batch of {batches[at]} does not fit: {missing}.")
    document = {
        "batches": [row | {"fits": fit} for row, fit in zip(planned.rows(), fits, strict=True)],
        "crossover_batch": last.batch,
        "crossover_beyond": last.beyond,
        "largest_batch_in_memory": largest_batch(
            found.target, found.system, drafter=drafter, context=scenario.context, gamma=first
        ),
        "engine_settings": {
            name: engine_settings(planned, name, drafter) for name in ENGINES_WITH_SETTINGS
        },
        "sensitivity": moves,
        "assumptions": said + assumptions(found, "Sequences of"),
        "version": __version__,
    }
    if options.json:
        print(json.dumps(document, allow_nan=False))
    else:
        show(document)
    return 0


def show(document: dict[str, Any]) -> None:
    """Print the document for a person."""
    print("batch   gamma  within 2 %   speedup    tokens/s       plain    ms/token")
    for row in document["batches"]:
        ties = f"{row['least_tied']}…{row['most_tied']}"
        print(
            f"{row['batch']:5d} {row['gamma']:7d} {ties:>11s} {row['speedup']:8.2f}x "
            f"{row['tokens_per_s']:11.0f} {row['plain_tokens_per_s']:11.0f} "
            f"{row['token_s'] * 1e3:11.3f}{'' if row['fits'] else '   does not fit'}"
        )
    last = document["crossover_batch"]
    if document["crossover_beyond"]:
        print(f"still faster at a batch of {last}, the largest looked at (memory not considered)")
    elif last == 0:
        print("faster at no batch")
    else:
        print(f"{last} is the largest batch at which it is faster (memory not considered)")
    if document["largest_batch_in_memory"] is not None:
        print(f"memory holds a batch of {document['largest_batch_in_memory']}")
    for engine, setting in document["engine_settings"].items():
        if setting:
            print(f"{engine:13s} {json.dumps(setting)}")
    if document["sensitivity"]:
        moves = list(document["sensitivity"].items())[:4]
        told = ", ".join(f"{name} {elasticity:+.2f} %" for name, elasticity in moves)
        print(f"1 % more of each of these changes the speedup by: {told}")
    for sentence in document["assumptions"]:
        print(f"- {sentence}")
