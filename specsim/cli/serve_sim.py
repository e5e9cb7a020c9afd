"""specsim serve-sim: a server under load, simulated; whether speculation still pays there."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specsim import __version__, serving
from specsim.checks import SpecsimError
from specsim.checks.columns import fit, wrap
from specsim.cli.load import Bar, add_load, loads_of
from specsim.cli.options import scenario_of
from specsim.cli.page import facts as labelled
from specsim.cli.page import notes as bullets
from specsim.cli.page import priced
from specsim.cli.parser import Commands
from specsim.cli.sentences import doubted, weights_of
from specsim.planning import Caution
from specsim.scenario import Resolved
from specsim.scenario.server_load import OUTPUT, PROMPT
from specsim.serving.policies import NAMES, require_known

LEFT_OUT = (
    "Left out: tokenisation and the network (optimistic); one replica, prefill and decoding on the "
    "same devices (pessimistic for prompts that delay decoding, where they could be separated)."
)
STATISTICS = ("mean", "median", "p90", "p95", "p99")
ROWS = {
    "ttft": "TTFT (ms)",
    "tpot": "TPOT (ms)",
    "itl": "ITL, between chunks (ms)",
    "e2el": "end to end (ms)",
}


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "serve-sim", help="simulate a server under load: waiting, prompts, batches that vary"
    )
    parser.set_defaults(run=run)
    add_load(parser)
    parser.add_argument(
        "--policy", default="best", help=f"{' | '.join(NAMES)} (default best: see docs/serving.md)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="write the JSON object to this file")
    parser.add_argument(
        "--save-detailed", action="store_true",
        help="add the lists per request of vllm bench serve to the JSON object",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if options.out:
        from specsim.checks.files import require_place  # rarely needed, slow to import

        require_place(options.out)
    policy = require_known(options.policy)
    if options.save_detailed and not (options.json or options.out):
        raise SpecsimError("--save-detailed needs --json or --out FILE, where its lists go")
    slo = serving.slo_of(options.slo)
    asked = loads_of(options)
    found = asked[0].resolve(scenario_of(options), policy)
    server, accepting = asked[0].server(found), asked[0].accepting(found)
    if options.save_detailed and len(asked) > 1:
        raise SpecsimError("--save-detailed is for one rate at a time")
    results = []
    for load in [each.traffic() for each in asked]:
        bar = Bar(len(load))
        result = serving.simulate(
            server, load, policy=policy, slo=slo, price_per_hour=options.price_per_hour,
            hysteresis=options.hysteresis, detailed=options.save_detailed, progress=bar,
            **accepting,
        )  # fmt: skip
        bar.end()
        results.append(result)
    documents = [to_json(found, each, options.save_detailed) for each in results]
    document = documents[0] if len(documents) == 1 else {
        "runs": documents, "version": __version__}  # fmt: skip
    if options.out:
        from specsim.checks.files import write_json  # rarely needed, slow to import

        write_json(options.out, document)
    if options.json:
        print(json.dumps(document, allow_nan=False))
    else:
        said = lines(results[0]) if len(results) == 1 else table(results)
        head = priced(found, load=load_words(options), options=("engine",))
        guesses, others = doubts_of(found, results)
        first = [line for sentence in guesses for line in wrap(sentence)]
        print(*head, "", *first, *said, *notes(found, results, others), sep="\n")
    return 0


def to_json(found: Resolved, result: serving.Served, detailed: bool) -> dict[str, Any]:
    """A run as `vllm bench serve` writes it, with what else the simulator knows."""
    scenario = found.scenario
    document = {
        "backend": "specsim", "endpoint_type": "specsim", "label": None,
        "model_id": scenario.target, "tokenizer_id": scenario.target,
        "accelerator": found.system.accelerator.name, "engine": scenario.engine,
        "method": found.method, "slo_ms": result.slo.limits,
        "schedule": [list(each) for each in result.loop.policy.ranges()],
    } | result.summary  # fmt: skip
    if detailed:
        document |= result.detailed()
    guesses, others = doubts_of(found, [result])
    assumptions = [*guesses, *result.sentences, *others, *rests_on(found)]
    return document | {"assumptions": assumptions, "version": __version__}


def doubts_of(found: Resolved, results: Sequence[serving.Served]) -> tuple[list[str], list[str]]:
    """Why runs may be trusted less: sentences that call them a guess, and others."""
    doubts: dict[Caution, None] = {}
    for result in results:
        loop = result.loop
        decoded = np.flatnonzero(loop.tallies.batch_s)
        batch = decoded[decoded > 0] if decoded.any() else np.ones(1, dtype=np.int64)
        gamma, context = loop.policy.gammas[batch], loop.traffic.most_context
        doubts |= dict.fromkeys(found.cautions(gamma=gamma, batch=batch, context=context))
    return doubted(doubts)


def rests_on(found: Resolved) -> list[str]:
    """What the numbers rest on."""
    said = [LEFT_OUT, *weights_of(found)]
    if found.drafter is not None:
        said += found.drafter.notes
    engine = found.system.engine
    if not found.scenario.calibrated:
        said.append(
            f"Constants of the engine {found.scenario.engine} come from the catalog "
            f"({engine.confidence}); a step is predicted to {engine.band} (an 80 % band)."
        )
    return said


def lines(result: serving.Served) -> list[str]:
    """One run for a person."""
    found, slo = result.summary, result.slo.limits
    users = found["max_concurrency"]
    offered = f"{users} users" if users else "all at once"
    if found["request_rate"] != "inf":
        offered = f"{found['request_rate']:g} requests/s offered"
    good = ""
    if slo:
        limits = ", ".join(f"{name.upper()} at most {most:g} ms" for name, most in slo.items())
        good = f", {found['request_goodput']:.2f} requests/s good ({limits})"
    served = f"{found['request_throughput']:.2f} requests/s served"
    head = f"{found['state']}: {offered}, {served}{good}"
    if found["state"] == "refused":
        head = f"{found['state']}: {offered}, nothing is served"
    said = [
        *fit([head, *result.sentences]),
        f"{'':26s}" + "".join(f"{name:>10s}" for name in STATISTICS),
    ]
    for metric, title in ROWS.items():
        values = [found[f"{name}_{metric}_ms"] for name in STATISTICS]
        cells = "".join(f"{'-' if v is None else f'{v:.2f}':>10s}" for v in values)
        said.append(f"{title:26s}{cells}")
    return [*said, *facts(result)]


def facts(result: serving.Served) -> list[str]:
    """Throughput, speculation, memory and cost of a run."""
    found = result.summary
    said = [
        (
            "output",
            f"{found['output_throughput']:.0f} tokens/s, all users together; "
            f"{found['batch_mean']:.1f} sequences decode at a time; "
            f"busy {found['utilisation']:.0%}",
        )
    ]
    shares = ", ".join(f"gamma {g} {share:.0%}" for g, share in found["gamma_share"].items())
    shares = f"{shares} of the decoding time" if shares else "nothing was decoded"
    if found["spec_decode_num_drafts"]:
        shares += f"; {found['spec_decode_acceptance_length']:.2f} tokens per cycle that drafts"
    loaded = "" if result.loop.policy.drafts else "; no draft is loaded"
    said.append(("policy", f"{found['policy']}: {shares}{loaded}"))
    if found["kv_peak"] is not None:
        said.append(
            ("cache", f"filled to {found['kv_peak']:.1%}; {found['preemptions']} preemptions")
        )
    if found["joules_per_token"] is not None:
        price = found["dollars_per_million"]
        cost = "" if price is None else f"; {price:.3f} USD per million tokens"
        moved = f"{found['bytes_per_token'] / 1e9:.3f} GB moved"
        said.append(("per token", f"{moved}, {found['joules_per_token']:.3f} J{cost}"))
    return labelled(said)


def table(results: list[serving.Served]) -> list[str]:
    """Several rates for a person."""
    said = [
        f"{'requests/s':>10s} {'':10s}{'requests/s':>12s}{'TTFT (ms)':>16s}{'TPOT (ms)':>14s}"
        f"{'decode':>9s}",
        f"{'offered':>10s} {'state':10s}{'served':>7s}{'good':>5s}{'mean':>8s}{'p99':>8s}"
        f"{'mean':>7s}{'p99':>7s}{'at once':>9s}{'gamma':>6s}",
    ]
    for result in results:
        found = result.summary
        shares = found["gamma_share"]
        mostly = max(shares, key=lambda gamma: shares[gamma]) if shares else "-"
        cells = [found[f"{s}_{m}_ms"] for m in ("ttft", "tpot") for s in ("mean", "p99")]
        times = ("-" if value is None else f"{value:.1f}" for value in cells)
        ttft, ttft99, tpot, tpot99 = times
        served, good = (f"{found[f'request_{n}']:.3g}" for n in ("throughput", "goodput"))
        said.append(
            f"{found['request_rate']:>10} {found['state']:10s}{served:>7s}{good:>5s}"
            f"{ttft:>8s}{ttft99:>8s}{tpot:>7s}{tpot99:>7s}{found['batch_mean']:9.1f}{mostly:>6s}"
        )
    return said


def notes(found: Resolved, results: list[serving.Served], doubts: Sequence[str]) -> list[str]:
    """What the numbers rest on, for a person; `doubts`, why they may be trusted less."""
    several = {s: None for r in results for s in r.sentences} if len(results) > 1 else {}
    return bullets([*several, *doubts, *rests_on(found)])


def load_words(options: Any) -> str:
    """The traffic in words."""
    several = options.rate is not None and "," in options.rate
    offered = "as fast as they can be served" if options.concurrency is None else ""
    if options.rate is not None:
        offered = f"{options.rate} requests/s{', one run each' if several else ''}"
    users = "" if options.concurrency is None else f"at most {options.concurrency} in flight"
    if options.trace is not None:
        return f"the requests of {options.trace}{', ' * bool(users)}{users}"
    prompt, output = (
        words_of(each) for each in (options.prompt or PROMPT, options.output or OUTPUT)
    )
    lengths = f"prompts of {prompt}, answers of {output}"
    return ", ".join(part for part in (offered, users, lengths) if part)


def words_of(lengths: str) -> str:
    """Lengths as an option gives them, in words."""
    mean, comma, sigma = lengths.partition(",")
    if not mean.replace(".", "").isdigit():
        return f"the lengths in {lengths}"
    return f"{mean} tokens" + (f" on average (lognormal, sigma {sigma})" if comma else "")
