"""The options that describe a server under load, and what they give: for serve-sim, tune and
measure-server."""

import argparse
from dataclasses import fields
from typing import Any

from specsim.checks import SpecsimError, numbers
from specsim.cli.options import add_acceptance, add_scenario
from specsim.cli.progress import StatusLine, bar
from specsim.scenario.server_load import AUTO_TOKENS, OUTPUT, PROMPT, REQUESTS, ServerLoad
from specsim.serving.policies import HYSTERESIS

MOST_RATES = 64
LENGTHS = "tokens of a prompt: fixed, lognormal, or drawn from a file with a length per line"


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
        "--kv-tokens", default=AUTO_TOKENS, help="tokens in the KV cache (default auto: what fits)"
    )
    server.add_argument(
        "--memory-share", type=float, default=0.9, help="of the device that may be filled (0.9)"
    )
    server.add_argument(
        "--prefix-hit", type=float, default=0.0, metavar="X",
        help="share of every prompt that the prefix cache knows (default 0)",
    )  # fmt: skip
    server.add_argument(
        "--price-per-hour",
        type=float,
        metavar="USD",
        help="of the target's devices, for cost per token; a method that needs more devices pays "
        "for them too",
    )
    server.add_argument(
        "--hysteresis", type=float, default=HYSTERESIS, metavar="H",
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


def load_of(options: argparse.Namespace, **changes: Any) -> ServerLoad:
    """The server and the requests of the options, but for the rate, which may be several."""
    names = {each.name for each in fields(ServerLoad)} - {"rate"}
    given = {name: value for name, value in vars(options).items() if name in names} | changes
    return ServerLoad(**given | {"slo": tuple(given["slo"])})


def loads_of(options: argparse.Namespace) -> list[ServerLoad]:
    """The server and the requests of the options, one for each rate."""
    if options.rate is None:
        return [load_of(options)]
    if options.rate.count(",") >= MOST_RATES:
        raise SpecsimError(f"--rate takes at most {MOST_RATES} rates")
    return [load_of(options, rate=rate) for rate in numbers("--rate", options.rate)]


class Bar:
    """How far the simulation of a load is."""

    def __init__(self, total: int, label: str = "") -> None:
        self.total, self.label, self.status = total, label, StatusLine()

    def __call__(self, done: int, simulated_s: float) -> None:
        if self.status.is_due():
            self.status.write(
                f"{self.label}{bar(done / self.total)}, {done:,} of {self.total:,} requests, "
                f"{simulated_s:,.0f} s simulated"
            )

    def end(self) -> None:
        """Clear the line."""
        self.status.end()
