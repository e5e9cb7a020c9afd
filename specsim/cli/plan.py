"""specsim plan: the best gamma for each batch, as a table and as an engine's own setting."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from specsim import __version__
from specsim.checks import SpecsimError, one_count, whole_numbers, within
from specsim.checks.columns import fit, wrap
from specsim.checks.limits import require_limit
from specsim.cli.options import add_acceptance, add_memory_share, add_scenario, scenario_of
from specsim.cli.page import notes, pasted, priced
from specsim.cli.parser import Commands
from specsim.cli.progress import working
from specsim.cli.sentences import assumptions, guesses_first
from specsim.planning import (
    BATCHES,
    ENGINES_WITH_SETTINGS,
    Deployment,
    Launch,
    Plan,
    ServerSettings,
    captured_tokens,
    crossover,
    engine_settings,
    launch,
    plan,
    sensitivity,
)
from specsim.planning.memory import MEMORY_SHARE, TOO_LARGE, largest_batch
from specsim.scenario import Resolved, resolve


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "plan", help="the best gamma for each batch, and as an engine's own setting"
    )
    parser.set_defaults(run=run)
    add_scenario(parser)
    parser.add_argument(
        "--batches", "--batch", dest="batches", default=",".join(map(str, BATCHES)),
        help="batch sizes, comma-separated and rising (default 1 to 256 in powers of two)",
    )  # fmt: skip
    add_acceptance(parser, tokens_per_cycle=False)
    parser.add_argument(
        "--users", type=int, metavar="N",
        help="sequences that the command of an engine with one length is for (default: the largest "
        "batch where drafting pays)",
    )  # fmt: skip
    add_memory_share(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    batches = whole_numbers("--batches", options.batches)
    if options.users is not None:
        require_limit("batch", options.users, "--users")
        one_count("--users", options.users, 1)
        batches = sorted({*batches, options.users})
    share = float(within("--memory-share", options.memory_share, low=1e-6))
    asked_for = scenario_of(options)
    if not asked_for.acceptance and (asked_for.draft or asked_for.method):
        raise SpecsimError(
            "no acceptance: give --alpha or --survival (specsim acceptance "
            f"{asked_for.target} lists the published ones, and how to measure yours)"
        )
    found = resolve(asked_for)
    scenario, drafter = found.scenario, found.drafter
    if drafter is None:
        raise SpecsimError("a plan needs a draft: give --draft NAME|config.json or --method NAME")
    given: dict[str, Any] = scenario.acceptance | {
        "context": scenario.context, "routing_correlation": scenario.routing_correlation
    }  # fmt: skip
    asked = (found.target, drafter, found.system)
    planned = plan(*asked, batches=batches, gammas=found.gammas, **given)
    with working("looking for the largest batch that gains"):
        last = crossover(*asked, gammas=found.gammas, most=max(4096, batches[-1]), **given)
    first = int(planned.gamma[0])
    moves = sensitivity(*asked, gamma=first, batch=batches[0], **given) if first > 0 else None
    held = found.footprint(gamma=planned.gamma, batch=planned.batch, usable=share)
    fits = np.broadcast_to(held.fits, planned.batch.shape).tolist()
    said = []
    if not all(fits):
        at = fits.index(False)
        place: dict[str, Any] = {
            "gamma": int(planned.gamma[at]),
            "batch": batches[at],
            "usable": share,
        }
        there = found.footprint(**place)
        missing = found.shortage(there, **place)
        said.append(f"A batch of {batches[at]} {words(there.verdict)}: {missing}.")
    captured = captured_tokens(found.system)
    widths = planned.batch * (planned.gamma + 1)
    recorded = np.full(len(widths), True) if captured is None else widths <= captured
    doubts = found.cautions(gamma=planned.gamma, batch=planned.batch)
    guesses, rest = guesses_first(assumptions(found, "Sequences of", doubts))
    most = most_in_memory(found, planned, share)
    commands = {
        name: launch(
            name,
            deployment(found, share),
            planned,
            target=found.target,
            drafter=drafter,
            users=options.users,
            most=most,
        )
        for name in ENGINES_WITH_SETTINGS
    }
    document = {
        "batches": [
            row | {"fits": fit, "within_recorded_graphs": bool(within)}
            for row, fit, within in zip(planned.rows(), fits, recorded, strict=True)
        ],
        "crossover_batch": last.batch,
        "crossover_beyond": last.beyond,
        "largest_batch_in_memory": most,
        "memory_share": share,
        "engine_settings": {
            name: engine_settings(
                planned, name, drafter, method=found.method, users=options.users, most=most
            )
            for name in ENGINES_WITH_SETTINGS
        },
        "commands": {
            name: {"command": each.command, "notes": list(each.notes)}
            for name, each in commands.items()
        },
        "sensitivity": moves,
        "assumptions": [*guesses, *said, *rest],
        "version": __version__,
    }
    if options.json:
        print(json.dumps(document, allow_nan=False))
    else:
        mine = scenario.engine in ENGINES_WITH_SETTINGS
        shown = [scenario.engine] if mine else ENGINES_WITH_SETTINGS
        load = f"batches of {batches[0]} to {batches[-1]} sequences, {scenario.context} tokens each"
        load += f"; memory filled to {100 * share:.3g} %"
        print(*priced(found, load=load, options=("engine", "context")), "", sep="\n")
        show(document, {name: commands[name] for name in shown})
    return 0


def most_in_memory(found: Resolved, planned: Plan, memory_share: float) -> int | None:
    """The largest batch that memory holds, with as many drafts as the plan has for it; None where
    no number is too many or the memory is unknown."""

    def held(gamma: int) -> int | None:
        return largest_batch(
            found.target, found.system, drafter=found.drafter, context=found.scenario.context,
            gamma=gamma, usable=memory_share,
        )  # fmt: skip

    most = held(int(planned.gamma[-1]))
    if most is None or most >= planned.batch[-1]:
        return most
    return held(int(planned.gamma[np.searchsorted(planned.batch, most)]))


def deployment(found: Resolved, memory_share: float, **limits: int | None) -> Deployment:
    """What a server of the scenario is started with; `limits` are those of `ServerSettings`, None
    where nobody asked for another than the default."""
    scenario = found.scenario
    asked = None if memory_share == MEMORY_SHARE else memory_share
    return Deployment(
        target=scenario.target, method=found.method, draft=scenario.draft,
        precision=scenario.precision, draft_precision=scenario.draft_precision,
        tensor_parallel=scenario.tensor_parallel,
        server=ServerSettings(
            kv_precision=scenario.kv_precision, memory_share=asked,
            free_share=None if asked is None else free_share(found, memory_share), **limits,
        ),
    )  # fmt: skip


def free_share(found: Resolved, memory_share: float) -> float | None:
    """The share of what the weights leave of a device that the rest may take of it; None where the
    memory is unknown or the weights fill what may be filled."""
    held = found.footprint(gamma=0, batch=1, usable=memory_share)
    weights = float(held.weight_bytes + held.draft_weight_bytes)
    if held.device_bytes is None or held.capacity_bytes is None or held.capacity_bytes <= weights:
        return None
    return (held.capacity_bytes - weights) / (held.device_bytes - weights)


def words(verdict: str) -> str:
    """What a batch does that the memory share does not hold."""
    return verdict if verdict == TOO_LARGE else f"is {verdict}"


def show(document: dict[str, Any], commands: Mapping[str, Launch]) -> None:
    """Print the document for a person, and the commands that start a server with the plan."""
    guesses, others = guesses_first(document["assumptions"])
    lines = [line for sentence in guesses for line in wrap(sentence)]
    lines += [
        f"{'':34s}tokens/s, all users    ms/token",
        "batch   gamma  within 2 %   speedup     drafts      plain   each user",
    ]
    marks = {"M": "more than the memory that may be filled", "G": "beyond the recorded graphs"}
    used = set()
    for row in document["batches"]:
        ties = f"{row['least_tied']}…{row['most_tied']}"
        mark = ("" if row["fits"] else "M") + ("" if row["within_recorded_graphs"] else "G")
        used |= set(mark)
        lines.append(
            f"{row['batch']:5d} {row['gamma']:7d} {ties:>11s} {row['speedup']:8.2f}x "
            f"{row['tokens_per_s']:10.0f} {row['plain_tokens_per_s']:10.0f} "
            f"{row['token_s'] * 1e3:11.3f}{'  ' + mark if mark else ''}"
        )
    lines += [f"{mark}: {said}" for mark, said in marks.items() if mark in used]
    lines.append(pays_until(document))
    if document["sensitivity"]:
        moves = list(document["sensitivity"].items())[:4]
        told = ", ".join(f"{name} {elasticity:+.2f} %" for name, elasticity in moves)
        lines.append(f"1 % more of each of these changes the speedup by: {told}")
    print(*fit(lines), *notes(others), sep="\n")
    show_commands(commands)


def show_commands(commands: Mapping[str, Launch]) -> None:
    """Print commands to paste, by engine."""
    for name, each in commands.items():
        print("", f"{name}:", *pasted(each.notes, each.command), sep="\n")


def pays_until(document: dict[str, Any]) -> str:
    """Up to which batch speculation is faster, among those that memory holds."""
    last, held = document["crossover_batch"], document["largest_batch_in_memory"]
    if last == 0:
        return "faster at no batch"
    if held is not None and last >= held:
        return f"faster at every batch that memory holds, up to {held}"
    until = f"{last} is the largest batch at which it is faster"
    if document["crossover_beyond"]:
        until = f"still faster at a batch of {last}, the largest looked at"
    return f"{until} (memory {'is unknown' if held is None else f'holds {held}'})"
