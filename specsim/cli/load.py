"""The options that describe a server under load, and what they give: for serve-sim, tune and
measure-server."""

import argparse
import math
import sys
import time
from dataclasses import replace
from typing import Any

from specsim import serving
from specsim.acceptance import IID, alpha_from_tokens_per_cycle
from specsim.checks import SpecsimError, numbers, whole_number
from specsim.checks.files import read_ascii
from specsim.cli.options import add_acceptance, add_scenario, scenario_of
from specsim.evidence.served.traces import requests_of
from specsim.scenario import Resolved, resolve
from specsim.serving.policies import fixed_gamma

MOST_RATES = 64
PROMPT, OUTPUT = "400,0.8", "200,0.7"
LENGTHS = "tokens of a prompt: fixed, lognormal, or drawn from a file with a length per line"
REQUESTS = 2000
QUIET_S, OFTEN_S = 1.0, 0.2  # a run shorter than this shows no progress; how often it is shown


def add_load(parser: argparse.ArgumentParser) -> None:
    """The options of a server, its traffic and its acceptance."""
    add_scenario(parser, context=False)
    add_acceptance(parser)
    parser.add_argument(
        "--alpha-spread", type=float, default=0.0, metavar="S",
        help="standard deviation of alpha over requests (default 0)",
    )  # fmt: skip
    add_traffic(parser, rates="; several: R,R,…", requests=REQUESTS, prompt=LENGTHS)
    server = parser.add_argument_group("server")
    server.add_argument("--max-seqs", type=int, default=256, help="requests at a time (256)")
    server.add_argument(
        "--max-batched-tokens", type=int, default=2048, help="tokens of a pass, at most (2048)"
    )
    server.add_argument(
        "--kv-tokens", default="auto", help="tokens in the KV cache (default auto: what fits)"
    )
    server.add_argument(
        "--memory-share", type=float, default=0.9, help="of the device that may be filled (0.9)"
    )
    server.add_argument(
        "--prefix-hit", type=float, default=0.0, metavar="X",
        help="share of every prompt that the prefix cache knows (default 0)",
    )  # fmt: skip
    server.add_argument(
        "--price-per-hour", type=float, metavar="USD", help="of all devices, for cost per token"
    )
    server.add_argument(
        "--hysteresis", type=float, default=0.1, metavar="H",
        help="a schedule keeps its gamma until the batch left its range by the factor 1 + H (0.1)",
    )  # fmt: skip


def add_traffic(parser: argparse.ArgumentParser, *, rates: str, requests: int, prompt: str) -> None:
    """The options of traffic: when requests come and how long they are, simulated or sent.
    `rates` says how several may be given, `requests` how many there are by default, `prompt` what
    the option of that name takes."""
    traffic = parser.add_argument_group("traffic")
    traffic.add_argument("--rate", help=f"requests per second (inf: all at once){rates}")
    traffic.add_argument(
        "--burstiness", type=float, default=1.0, metavar="SHAPE",
        help="shape of the Gamma distribution of the gaps, as in vLLM: 1 Poisson (default), less "
        "is burstier",
    )  # fmt: skip
    traffic.add_argument(
        "--concurrency", type=int, metavar="N",
        help="at most N requests in flight; without --rate a closed loop of N users",
    )  # fmt: skip
    traffic.add_argument(
        "--trace", metavar="FILE", help="requests of a trace: Mooncake, Azure, BurstGPT or vidur"
    )
    traffic.add_argument(
        "--requests", type=int, metavar="N",
        help=f"how many requests (default {requests}; of a trace all)",
    )  # fmt: skip
    traffic.add_argument("--seed", type=int, default=0, help="of all that is drawn (default 0)")
    traffic.add_argument(
        "--prompt", metavar="MEAN[,SIGMA]|FILE",
        help=f"{prompt} (default {PROMPT})",
    )  # fmt: skip
    traffic.add_argument(
        "--output", metavar="MEAN[,SIGMA]|FILE",
        help=f"tokens of an answer, likewise (default {OUTPUT})",
    )  # fmt: skip
    traffic.add_argument(
        "--slo", nargs="+", default=[], metavar="METRIC:MS",
        help="what a good request keeps to: ttft:MS, tpot:MS, e2el:MS",
    )  # fmt: skip


def resolved(options: argparse.Namespace, policy: str | None = None) -> Resolved:
    """The scenario of the options; tokens per cycle need a policy of one gamma."""
    gamma = None if policy is None else fixed_gamma(policy)
    if options.tokens_per_cycle is not None and not gamma:
        raise SpecsimError("--tokens-per-cycle needs --policy fixed:K, the K it was measured at")
    scenario = scenario_of(options, context=1024)
    if options.tokens_per_cycle is not None:
        scenario = replace(scenario, gamma=gamma)
    return resolve(scenario)


def server_of(options: argparse.Namespace, found: Resolved) -> serving.Server:
    """The server of the options."""
    auto = options.kv_tokens == "auto"
    if not 0.0 <= options.hysteresis <= 10.0:
        raise SpecsimError(f"--hysteresis must be within 0 and 10, got {options.hysteresis:g}")
    price = options.price_per_hour
    if price is not None and not 0.0 <= price <= 1e9:
        raise SpecsimError(f"--price-per-hour must be within 0 and 1e9, got {price:g}")
    return serving.Server(
        target=found.target,
        system=found.system,
        drafter=found.drafter,
        max_seqs=options.max_seqs,
        max_batched_tokens=options.max_batched_tokens,
        kv_tokens=None if auto else whole_number("--kv-tokens", options.kv_tokens),
        memory_share=options.memory_share,
        prefix_hit=options.prefix_hit,
        routing_correlation=found.scenario.routing_correlation,
    )


def accepting_of(options: argparse.Namespace, found: Resolved) -> dict[str, Any]:
    """The acceptance as arguments of `serving.simulate`; empty without a draft."""
    scenario = found.scenario
    if found.drafter is None:
        if options.alpha_spread:
            raise SpecsimError("--alpha-spread needs a draft and --alpha")
        return {}
    if not 0.0 <= options.alpha_spread < 1.0:
        raise SpecsimError(f"--alpha-spread must be within 0 and 1, got {options.alpha_spread:g}")
    if scenario.tokens_per_cycle is not None:
        assert scenario.gamma is not None
        alpha = alpha_from_tokens_per_cycle(scenario.tokens_per_cycle, scenario.gamma)
        given: Any = serving.Accepting(IID(alpha), options.alpha_spread, of_cycles=True)
        return {"acceptance": given}
    return {
        "alpha": scenario.alpha,
        "survival": scenario.survival or None,
        "alpha_spread": options.alpha_spread,
    }


def traffics(options: argparse.Namespace, requests: int = REQUESTS) -> list[serving.Traffic]:
    """The traffic of the options, one for each rate; `requests` where they say no number."""
    if options.trace is not None:
        return [_of_trace(options)]
    prompt = serving.lengths_of("--prompt", options.prompt or PROMPT)
    output = serving.lengths_of("--output", options.output or OUTPUT)
    rates: list[float | None] = [None]
    if options.rate is not None:
        if options.rate.count(",") >= MOST_RATES:
            raise SpecsimError(f"--rate takes at most {MOST_RATES} rates")
        rates = list(numbers("--rate", options.rate))
    count = requests if options.requests is None else options.requests
    return [
        serving.traffic(
            rate=rate, concurrency=options.concurrency, requests=count, prompt=prompt,
            output=output, burstiness=options.burstiness, seed=options.seed,
        )
        for rate in rates
    ]  # fmt: skip


def _of_trace(options: argparse.Namespace) -> serving.Traffic:
    given = {"--rate": options.rate, "--prompt": options.prompt, "--output": options.output}
    for option, value in given.items():
        if value is not None:
            raise SpecsimError(f"{option} has no use with --trace, which has its own")
    found = requests_of(read_ascii(options.trace, "log_bytes"))
    if found is None:
        raise SpecsimError(
            f"{options.trace} is no trace that specsim knows: it reads those of Mooncake, Azure, "
            "BurstGPT and vidur"
        )
    if options.requests is not None and options.requests < 1:
        raise SpecsimError(f"--requests must be at least 1, got {options.requests}")
    return serving.traffic_of(
        found[1], concurrency=options.concurrency, seed=options.seed, most=options.requests
    )


class Bar:
    """How far a run is, on a terminal's standard error, once it takes longer than a second."""

    def __init__(self, total: int, label: str = "") -> None:
        self.total, self.label = total, label
        self.begun = self.shown = time.monotonic()
        self.drawn = False

    def __call__(self, done: int, simulated_s: float) -> None:
        now = time.monotonic()
        if now - self.shown < OFTEN_S or now - self.begun < QUIET_S:
            return
        self.shown = now
        if sys.stderr is None or not sys.stderr.isatty():
            return
        share = done / self.total
        filled = math.floor(24 * share)
        print(
            f"\r{self.label}[{'#' * filled}{'.' * (24 - filled)}] {share:4.0%}, {done:,} of "
            f"{self.total:,} requests, {simulated_s:,.0f} s simulated",
            end="", file=sys.stderr, flush=True,
        )  # fmt: skip
        self.drawn = True

    def end(self) -> None:
        """Clear the line."""
        if self.drawn:
            print("\r" + " " * 79 + "\r", end="", file=sys.stderr, flush=True)
