"""specsim predict: plain and speculative decoding of one scenario."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from specsim import __version__
from specsim.checks import whole, within
from specsim.checks.columns import fit, wrap
from specsim.checks.limits import require_limit
from specsim.cli.options import add_acceptance, add_memory_share, add_scenario, scenario_of
from specsim.cli.page import notes, priced
from specsim.cli.parser import Commands
from specsim.cli.published import assumed_for
from specsim.cli.sentences import assumptions, guesses_first
from specsim.planning.acceptances import AcceptanceRange
from specsim.planning.memory import MEMORY_SHARE, TOO_LARGE, Footprint, capacity_words
from specsim.prediction import QUANTITIES, Prediction
from specsim.scenario import Resolved, predictions, resolve


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "predict", help="predict plain and speculative decoding of one scenario"
    )
    parser.set_defaults(run=run)
    add_scenario(parser)
    parser.add_argument(
        "--batch", "--users", dest="batch", type=int, default=1, metavar="N",
        help="sequences decoded together (default 1)",
    )  # fmt: skip
    parser.add_argument(
        "--gamma", default="best", help="drafted tokens per cycle, or 'best' (default best)"
    )
    add_acceptance(parser)
    parser.add_argument(
        "--tokens", type=int, default=256, metavar="N",
        help="of an answer after its first, for the percentiles of its latency (default 256)",
    )  # fmt: skip
    add_memory_share(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="write the JSON object to this file")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if options.out:
        from specsim.checks.files import require_place  # rarely needed, slow to import

        require_place(options.out)
    share = float(within("--memory-share", options.memory_share, low=1e-6))
    scenario, assumed = assumed_for(scenario_of(options))
    found = resolve(scenario)
    prediction, over = predictions(found)
    document = to_json(prediction, over, found, options.tokens, share)
    if assumed is not None:
        document |= over_the_range(found, assumed)
        document["assumptions"] = [*assumed.sentences, *document["assumptions"]]
    if options.out:
        from specsim.checks.files import write_json  # rarely needed, slow to import

        write_json(options.out, document)
    if options.json:
        print(json.dumps(document, allow_nan=False))
    else:
        held = found.footprint(gamma=prediction.gamma, usable=share)
        print(*priced(found, assumed, needs=memory_of(held, found)), "", sep="\n")
        show(document, scenario.batch)
    return 0


def over_the_range(found: Resolved, assumed: AcceptanceRange) -> dict[str, Any]:
    """What the low, middle and high acceptance of the published rows make of the scenario: each at
    its own best gamma where the best one was asked for. Keys in addition to the contract's."""
    rows = {}
    for part, alpha in zip(("low", "middle", "high"), assumed.alphas.tolist(), strict=True):
        prediction, _ = predictions(replace(found, scenario=replace(found.scenario, alpha=alpha)))
        rows[part] = {
            "alpha": alpha,
            "gamma": int(prediction.gamma),
            "tokens_per_cycle": float(prediction.tokens_per_cycle),
            "speedup": None if np.any(prediction.cannot_tell) else float(prediction.speedup),
            "speculative_tokens_per_s": float(prediction.speculative_tokens_per_s),
        }
    about = {
        "method": assumed.method, "rates": assumed.rates, "rows": assumed.rows,
        "models": list(assumed.models), "of_target": assumed.of_target,
    }  # fmt: skip
    return {"published_acceptance": about, "acceptance_range": rows}


def to_json(
    prediction: Prediction,
    over: Prediction | None,
    found: Resolved,
    more_tokens: int,
    memory_share: float = MEMORY_SHARE,
) -> dict[str, Any]:
    """The keys of the public contract; speculative ones are null without a draft."""
    speculative, gamma = found.drafter is not None, int(prediction.gamma)
    band = {name: [float(low), float(high)] for name, (low, high) in prediction.band.items()}

    def drafted(value: Any) -> float | None:
        return float(value) if speculative else None

    told = speculative and not np.any(prediction.cannot_tell)

    def gained(value: Any) -> float | None:
        return float(value) if told else None

    held = found.footprint(gamma=gamma, usable=memory_share)
    missing = found.shortage(held, gamma=gamma, usable=memory_share)
    how = held.verdict if held.verdict == TOO_LARGE else f"is {held.verdict}"
    said = [] if missing is None else [f"It {how}: {missing}."]
    if over is not None and 0 < gamma == over.gamma.max():
        said.append(f"The best gamma is the largest that was looked at, {gamma}.")
    sequences = f"{found.scenario.batch} sequence(s) with"
    every = assumptions(found, sequences, found.cautions(gamma=gamma))
    first, rest = guesses_first(every)
    return {
        "step_s": float(prediction.step_s),
        "tokens_per_s": float(prediction.tokens_per_s),
        "draft_step_s": drafted(prediction.draft_step_s),
        "verify_step_s": drafted(prediction.verify_step_s),
        "overhead_s": drafted(prediction.overhead_s),
        "cycle_s": drafted(prediction.cycle_s),
        "tokens_per_cycle": drafted(prediction.tokens_per_cycle),
        "gamma": gamma if speculative else None,
        "speculative_tokens_per_s": gained(prediction.speculative_tokens_per_s),
        "speedup": gained(prediction.speedup),
        "precision": found.system.precision.name,
        "method": found.method,
        "speedup_per_device": gained(prediction.speedup_per_device),
        "best_gamma": gamma if over is not None else None,
        "tied_gammas": over.ties().tolist() if over is not None else None,
        "lossless": prediction.lossless if speculative else None,
        "bound": str(prediction.bound),
        "band": {"step_s": band["step_s"], "speedup": band["speedup"] if told else None},
        "latency": latency(prediction, more_tokens),
        "waterfall": {name: float(f) for name, f in prediction.waterfall().items()}
        if told
        else None,
        "breakdown": [
            {key: plain(value) for key, value in row.items()} for row in prediction.step.breakdown()
        ],
        "memory_bytes": float(held.total_bytes),
        "memory_capacity_bytes": held.capacity_bytes,
        "memory_share": memory_share,
        "host_memory_bytes": float(held.host_bytes),
        "fits": missing is None if held.capacity_bytes is not None else None,
        "memory_verdict": held.verdict if held.capacity_bytes is not None else None,
        "assumptions": [*first, *said, *rest],
        "version": __version__,
    }


def memory_of(held: Footprint, found: Resolved) -> str:
    """How much memory a scenario needs, and of how much."""
    devices = found.system.tensor_parallel
    each = f" on each of {devices} devices" if devices > 1 else ""
    size = f"{float(held.total_bytes) / 1e9:.1f}"
    if held.capacity_bytes is None:
        return f"needs {size} GB{each}; how much there is, is unknown"
    said = f"needs {size} of {capacity_words(held, found.system)}"
    return f"{said}{each}{'' if held.fits else ': ' + held.verdict.upper()}"


def latency(prediction: Prediction, more_tokens: int) -> dict[str, Any] | None:
    """Percentiles of how long a user waits for an answer; None where the acceptance is known only
    as tokens per cycle."""
    require_limit("tokens", more_tokens, "--tokens")
    whole("--tokens", more_tokens, low=1)
    if prediction.gamma > 0 and prediction.acceptance is None:
        return None
    return asdict(prediction.request(more_tokens))


def plain(value: Any) -> float | str:
    """An entry of the breakdown for JSON: text, or one number of an array."""
    return str(value) if np.asarray(value).dtype.kind == "U" else float(value)


def show(document: dict[str, Any], batch: int) -> None:
    """Print the document for a person; host time counts in the plain step and in the
    verification."""

    def ms(name: str, seconds: float | None = None) -> str:
        value = document[name] if seconds is None else seconds
        return f"{QUANTITIES[name]:13s} {value * 1e3:8.3f} ms"

    guesses, others = guesses_first(document["assumptions"])
    lines = [line for sentence in guesses for line in wrap(sentence)]
    low, high = document["band"]["step_s"]
    plain_alone = document["cycle_s"] is None
    lines += [
        f"{ms('step_s')}  ({low * 1e3:.3f} to {high * 1e3:.3f}), bound by {document['bound']}",
        *rates(document["tokens_per_s"], batch, mark_of(document) if plain_alone else ""),
        *parts(document),
    ]
    if document["cycle_s"] is not None:
        lines += cycle(document, ms, batch)
    if "acceptance_range" in document:
        lines += ranged(document["acceptance_range"], document["best_gamma"] is not None)
    print(*fit(lines), *notes(others), sep="\n")


def mark_of(document: dict[str, Any]) -> str:
    """What is added to the answer where the memory that may be filled does not hold it."""
    return f"; {document['memory_verdict'].upper()}" if document["fits"] is False else ""


def rates(tokens_per_s: float, batch: int, mark: str = "") -> list[str]:
    """Tokens per second of all sequences together, and of each where there are several, with a
    mark."""
    told = f"{'':14s}{tokens_per_s:8.1f} tokens/s"
    if batch == 1:
        return [f"{told} of one sequence{mark}"]
    return [f"{told} of all {batch} sequences, {tokens_per_s / batch:.1f} tokens/s of each{mark}"]


def parts(document: dict[str, Any]) -> list[str]:
    """The operators of the plain step, and the host's time."""
    shown = [row for row in document["breakdown"] if row["seconds"] > 0]
    host_s = document["step_s"] - sum(row["seconds"] for row in document["breakdown"])
    if host_s > 1e-9:
        shown.append({"name": "host: sampling, scheduling", "seconds": host_s, "bound": "overhead"})
    wide = max(len(row["name"]) for row in shown)
    return [
        f"  {row['name']:{wide}s} {row['seconds'] * 1e3:8.3f} ms  "
        f"{row['seconds'] / document['step_s']:5.1%}  {row['bound']}"
        for row in shown
    ]


def cycle(document: dict[str, Any], ms: Callable[..., str], batch: int) -> list[str]:
    """A cycle of speculation, part by part, and what it gains."""
    gamma, tokens = document["gamma"], document["tokens_per_cycle"]
    large = mark_of(document)
    host_s, verify_s = document["overhead_s"], document["verify_step_s"]
    drafting_s = document["cycle_s"] - verify_s - host_s
    drafting_s = 0.0 if abs(drafting_s) < 5e-8 else drafting_s  # what overlaps, rounded
    rows = "1 row" if gamma == 0 else f"{gamma + 1} rows"
    lines = [
        f"drafting      {drafting_s * 1e3:8.3f} ms  for gamma = {gamma}; a draft step takes "
        f"{document['draft_step_s'] * 1e3:.3f} ms",
        f"{ms('verify_step_s', verify_s + host_s)}  for {rows} per sequence; the host's "
        f"{host_s * 1e3:.3f} ms included",
        f"{ms('cycle_s')}  for {tokens:.3f} tokens per sequence",
    ]
    if document["speedup"] is None:
        return [*lines, f"speedup       cannot tell at gamma = {gamma}{large}"]
    lines += rates(document["speculative_tokens_per_s"], batch)
    low, high = document["band"]["speedup"]
    lines.append(
        f"speedup       {document['speedup']:8.3f} x   ({low:.2f} to {high:.2f}) at gamma = {gamma}"
        + large
    )
    at = " at the middle alpha" if "acceptance_range" in document else ""
    lines.append(f"              in brackets: the engine's error{at} (80 % band)")
    ties = document["tied_gammas"]
    if ties and len(ties) > 1:
        lines.append(f"              gamma = {ties[0]} … {ties[-1]} are within 2 % of the best")
    if document["speedup_per_device"] != document["speedup"]:
        lines.append(f"per device    {document['speedup_per_device']:8.3f} x")
    if document["latency"] is not None:
        lines += wrap(percentiles(document["latency"]), f"{'per token':14s}")
    if not document["lossless"]:
        lines.append("not lossless: the output distribution is not the target's")
    return lines


def ranged(rows: dict[str, Any], best: bool) -> list[str]:
    """The same over the published range of acceptance; `best`: each at its own gamma."""
    how = ", each at its best gamma" if best else ""
    lines = [f"published acceptance, low to high{how} (the engine's error left out):"]
    for part, row in rows.items():
        gain = "cannot tell" if row["speedup"] is None else f"speedup {row['speedup']:.3f} x"
        lines.append(
            f"  {part:7s} alpha {row['alpha']:.3f}  gamma = {row['gamma']:<3d} "
            f"{row['tokens_per_cycle']:6.3f} tokens per cycle  {gain}"
        )
    return lines


def percentiles(found: dict[str, Any]) -> str:
    """The percentiles of the time per token of one user."""
    each = found["time_per_token_s"]
    times = ", ".join(f"{1e3 * seconds:.3f} ({name})" for name, seconds in each.items())
    return (
        f"{times} ms for each user, over answers of {found['more_tokens']} tokens; "
        f"{found['zero_gap_share']:.0%} of the tokens arrive together with the one before"
    )
