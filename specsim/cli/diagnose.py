"""specsim diagnose: what an engine's counters mean."""

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from specsim import __version__
from specsim.acceptance import IID
from specsim.checks import SpecsimError, numbers, within
from specsim.checks.columns import fit, wrap
from specsim.checks.files import decoded_ascii, read_ascii
from specsim.checks.limits import LIMITS, require_limit
from specsim.cli.options import add_scenario, scenario_of
from specsim.cli.page import notes, priced
from specsim.cli.parser import Commands
from specsim.cli.progress import working
from specsim.evidence.counters import Counters
from specsim.evidence.diagnosis import Diagnosis, bottleneck, diagnose
from specsim.evidence.served import read_log
from specsim.scenario import Resolved, drafter_of, resolve


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "diagnose", help="what an engine's counters mean: alpha, tokens per cycle, the best gamma"
    )
    parser.set_defaults(run=run)
    parser.not_from_files = frozenset({"gamma", "survival", "tokens_per_cycle"})  # counters here
    parser.add_argument(
        "--log",
        help="a log, a page of metrics, an answer in JSON or a printed result of vLLM, SGLang, "
        "llama.cpp, TensorRT-LLM, LM Studio or MLX; '-' is standard input",
    )
    parser.add_argument(
        "--metrics-url", metavar="URL", help="a running server, whose /metrics are read twice"
    )
    parser.add_argument(
        "--interval", type=float, default=10.0, metavar="SECONDS",
        help="between the two (default 10)",
    )  # fmt: skip
    parser.add_argument("--accepted", type=float, help="drafted tokens that were accepted")
    parser.add_argument("--drafted", type=float, help="drafted tokens")
    parser.add_argument("--cycles", type=float, help="verification passes, per sequence")
    parser.add_argument(
        "--gamma", type=float, help="drafted tokens per cycle, used where the log does not tell"
    )
    parser.add_argument("--tokens-per-cycle", type=float, help="mean length, with the bonus token")
    parser.add_argument("--survival", help="acceptance rate per position, comma-separated")
    scenario = parser.add_argument_group("the scenario, for a prediction with these rates")
    add_scenario(scenario, required=False)
    scenario.add_argument("--batch", type=int, default=1, help="sequences decoded together")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if options.gamma is not None:
        require_limit("gamma", options.gamma)
        within("gamma", options.gamma, low=1.0, high=LIMITS["gamma"].most)
    found = diagnose(counters_of(options), options.gamma)
    document: dict[str, Any] = found.to_json()
    asked = asked_of(options, found) if options.target else None
    document |= {"prediction": None} if asked is None else predicted(asked, found)
    document["version"] = __version__
    if options.json:
        print(json.dumps(document, allow_nan=False))
    else:
        show(document, [] if asked is None else priced(asked))
    return 0


def counters_of(options: argparse.Namespace) -> Counters:
    """The counters in the log or in the options; SpecsimError if there are none, or both."""
    given = {
        "accepted": options.accepted,
        "drafted": options.drafted,
        "cycles": options.cycles,
        "tokens_per_cycle": options.tokens_per_cycle,
        "survival": tuple(numbers("--survival", options.survival)) if options.survival else None,
    }
    known = any(value is not None for value in given.values())
    if options.log is not None and options.metrics_url is not None:
        raise SpecsimError("give --log or --metrics-url, not both")
    if options.log is not None or options.metrics_url is not None:
        if known:
            raise SpecsimError("give --log or counters, not both")
        if options.metrics_url is None:
            return read_log(text_of(options.log))
        from specsim.cli.scraping import scrape_twice

        with working(f"reading {options.metrics_url} twice"):
            return read_log(scrape_twice(options.metrics_url, options.interval))
    if not known:
        raise SpecsimError(
            "give --log FILE, or --metrics-url URL, or --accepted N --drafted N --gamma N, or "
            "--tokens-per-cycle X --gamma N, or --survival X,X,…"
        )
    if (options.accepted is None) != (options.drafted is None and options.cycles is None):
        raise SpecsimError("--accepted goes with --drafted (or --cycles)")
    return Counters(**given)


def text_of(file: str) -> str:
    """The text of a file, or of standard input for "-"."""
    if file != "-":
        return read_ascii(file, "log_bytes")
    most = LIMITS["log_bytes"].most
    if not hasattr(sys.stdin, "buffer"):  # a terminal of a notebook
        return sys.stdin.read(most)
    content = sys.stdin.buffer.read(most + 1)
    require_limit("log_bytes", len(content), "the size of standard input in bytes")
    return decoded_ascii(content, "standard input", "log_bytes")


def asked_of(options: argparse.Namespace, found: Diagnosis) -> Resolved:
    """The scenario of the options with these rates, at the engine's gamma."""
    scenario = scenario_of(options, gamma=None, survival=(), tokens_per_cycle=None)
    if drafter_of(scenario) is None:
        raise SpecsimError("a prediction needs a draft: give --draft NAME|config.json or --method")
    if found.alpha is None or found.gamma is None:
        raise SpecsimError("a prediction needs alpha: give --gamma, the drafted tokens per cycle")
    gamma = max(1, round(found.gamma))
    tokens = min(found.tokens_per_cycle or 1.0, gamma + 1.0)
    return resolve(replace(scenario, gamma=gamma, tokens_per_cycle=tokens))


def predicted(asked: Resolved, found: Diagnosis) -> dict[str, Any]:
    """The scenario predicted with these rates, at the engine's gamma and over all gammas."""
    assert asked.scenario.gamma is not None
    assert found.alpha is not None
    now = asked.predict(gamma=asked.scenario.gamma)
    # this alpha is already a mean over positions, so the method's own decay must not be added
    gammas = asked.gammas
    over = asked.predict(gamma=gammas, tokens_per_cycle=IID(found.alpha).tokens_per_cycle(gammas))
    best = int(over.gamma[over.best()])
    return {
        "prediction": {
            "speedup": float(now.speedup),
            "best_gamma": best,
            "best_speedup": float(over.speedup.max()),
            "tied_gammas": over.ties().tolist(),
            "bottleneck": bottleneck(now),
        }
    }


def show(document: dict[str, Any], scenario: list[str]) -> None:
    """Print the diagnosis for a person: what was counted, then, after what was priced as
    `scenario`, a prediction."""
    names = {
        "gamma": "gamma (tokens drafted per cycle)",
        "accepted_per_drafted": "accepted / drafted",
        "tokens_per_cycle": "tokens per cycle of a sequence",
        "alpha": "alpha (i.i.d., same tokens)",
        "pooled_alpha": "alpha (pooled over positions)",
    }
    if document["engine"]:
        print(f"counters of {document['engine']}")
    else:
        print("counters as given; the engine is not named")
    for name, title in names.items():
        if document[name] is not None:
            print(f"{title:34s} {document[name]:8.4f}")
    for line in notes(document["findings"]):
        print(line)
    if document["prediction"]:
        found = document["prediction"]
        print("", *scenario, "", sep="\n")
        said = (
            f"predicted speedup {found['speedup']:.2f}x; best gamma {found['best_gamma']} with "
            f"{found['best_speedup']:.2f}x (within 2 %: {found['tied_gammas'][0]} … "
            f"{found['tied_gammas'][-1]})"
        )
        print(*wrap(said), *fit([found["bottleneck"]]), sep="\n")
