"""specsim predict: plain and speculative decoding of one scenario."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from specsim import __version__
from specsim.checks import whole
from specsim.checks.limits import require_limit
from specsim.cli.options import add_acceptance, add_scenario, scenario_of
from specsim.cli.parser import Commands
from specsim.cli.sentences import assumptions, guesses_first
from specsim.prediction import QUANTITIES, Prediction
from specsim.scenario import Resolved, predictions, resolve


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "predict", help="predict plain and speculative decoding of one scenario"
    )
    parser.set_defaults(run=run)
    add_scenario(parser)
    parser.add_argument("--batch", type=int, default=1, help="sequences decoded together")
    parser.add_argument("--gamma", default="best", help="drafted tokens per cycle, or 'best'")
    add_acceptance(parser)
    parser.add_argument(
        "--tokens", type=int, default=256, metavar="N",
        help="of an answer after its first, for the percentiles of its latency (default 256)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="write the JSON object to this file")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if options.out:
        from specsim.checks.files import require_place  # rarely needed, slow to import

        require_place(options.out)
    found = resolve(scenario_of(options))
    prediction, over = predictions(found)
    document = to_json(prediction, over, found, options.tokens)
    if options.out:
        from specsim.checks.files import write_json  # rarely needed, slow to import

        write_json(options.out, document)
    if options.json:
        print(json.dumps(document, allow_nan=False))
    else:
        show(document)
    return 0


def to_json(
    prediction: Prediction, over: Prediction | None, found: Resolved, more_tokens: int
) -> dict[str, Any]:
    """The keys of the public contract; speculative ones are null without a draft."""
    speculative, gamma = found.drafter is not None, int(prediction.gamma)
    band = {name: [float(low), float(high)] for name, (low, high) in prediction.band.items()}

    def drafted(value: Any) -> float | None:
        return float(value) if speculative else None

    told = speculative and not np.any(prediction.cannot_tell)

    def gained(value: Any) -> float | None:
        return float(value) if told else None

    held = found.footprint(gamma=gamma)
    missing = found.shortage(held, gamma=gamma)
    said = [] if missing is None else [f"It does not fit: {missing}."]
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
        "host_memory_bytes": float(held.host_bytes),
        "fits": missing is None if held.capacity_bytes is not None else None,
        "assumptions": [*first, *said, *rest],
        "version": __version__,
    }


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


def show(document: dict[str, Any]) -> None:
    """Print the document for a person."""

    def ms(name: str) -> str:
        return f"{QUANTITIES[name]:13s} {document[name] * 1e3:8.3f} ms"

    guesses, others = guesses_first(document["assumptions"])
    for sentence in guesses:
        print(sentence)
    low, high = document["band"]["step_s"]
    print(
        f"{ms('step_s')}  ({low * 1e3:.3f} to {high * 1e3:.3f}), "
        f"{document['tokens_per_s']:.1f} tokens/s, bound by {document['bound']}"
    )
    shown = [row for row in document["breakdown"] if row["seconds"] > 0]
    host_s = document["step_s"] - sum(row["seconds"] for row in document["breakdown"])
    if host_s > 1e-9:
        shown.append({"name": "host: sampling, scheduling", "seconds": host_s, "bound": "overhead"})
    wide = max(len(row["name"]) for row in shown)
    for row in shown:
        took, share = row["seconds"] * 1e3, row["seconds"] / document["step_s"]
        print(f"  {row['name']:{wide}s} {took:8.3f} ms  {share:5.1%}  {row['bound']}")
    if document["cycle_s"] is not None:
        gamma, tokens = document["gamma"], document["tokens_per_cycle"]
        print(ms("draft_step_s"))
        rows = "1 row" if gamma == 0 else f"{gamma + 1} rows"
        print(f"{ms('verify_step_s')} for {rows} per sequence")
        print(f"{ms('overhead_s')} of the host: accepting and rolling back")
        print(f"{ms('cycle_s')}, {tokens:.3f} tokens per cycle")
        if document["speedup"] is None:
            print(f"speedup       cannot tell at gamma = {gamma}")
        else:
            low, high = document["band"]["speedup"]
            print(
                f"speedup       {document['speedup']:8.3f} x   ({low:.2f} to {high:.2f}) "
                f"at gamma = {gamma}"
            )
        ties = document["tied_gammas"]
        if ties and len(ties) > 1:
            print(f"              gamma = {ties[0]} … {ties[-1]} are within 2 % of the best")
        if document["speedup_per_device"] != document["speedup"]:
            print(f"per device    {document['speedup_per_device']:8.3f} x")
        if document["latency"] is not None:
            show_latency(document["latency"])
        if not document["lossless"]:
            print("not lossless: the output distribution is not the target's")
    for sentence in others:
        print(f"- {sentence}")


def show_latency(found: dict[str, Any]) -> None:
    """Print the percentiles of the time per token."""
    each = found["time_per_token_s"]
    times = ", ".join(f"{1e3 * seconds:.3f} ({name})" for name, seconds in each.items())
    print(
        f"per token     {times} ms over answers of {found['more_tokens']} tokens; "
        f"{found['zero_gap_share']:.0%} of the tokens arrive together with the one before"
    )
