"""specsim acceptance: the published acceptance rates for a model, and how to measure one's own."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from specsim import __version__, catalog
from specsim.acceptance.published import PublishedRate, published_rates, rates_for
from specsim.architecture import drafts_for, model
from specsim.checks import SpecsimError
from specsim.cli.page import fit, notes, wrap
from specsim.cli.parser import Commands
from specsim.drafting import method as method_named
from specsim.drafting.methods import NEED_A_DRAFT
from specsim.planning.acceptances import AcceptanceRange, acceptance_range

MEASURE = (
    "On a running vLLM or SGLang: specsim diagnose --metrics-url http://HOST:PORT reads its "
    "counters twice.",
    "From a log of vLLM, SGLang, llama.cpp or TensorRT-LLM: specsim diagnose --log FILE.",
    "From counters: specsim diagnose --accepted N --drafted N --gamma N.",
    "With the models here: python -m reference measure (needs PyTorch).",
)


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "acceptance", help="published acceptance rates for a model, and how to measure yours"
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", help="the target: a model of the catalog")
    parser.add_argument("--method", help="only rates of this drafting method")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    method = None if options.method is None else catalog.resolve("methods", options.method)
    found = [rate for rate in rates_for(options.model) if method in (None, rate.method)]
    try:
        name = catalog.resolve("models", options.model)
    except SpecsimError:  # a target of the published rows alone
        name = None
    ranges = {} if name is None else ranges_for(name, method)
    if options.json:
        document = {
            "model": name or options.model,
            "rates": [asdict(rate) for rate in found],
            "ranges": {each: asdict(of) for each, of in ranges.items()},
            "measure": list(MEASURE),
            "version": __version__,
        }
        print(json.dumps(document, allow_nan=False))
    else:
        print(*lines(name or options.model, method, found, ranges), sep="\n")
    return 0


def ranges_for(name: str, method: str | None) -> dict[str, AcceptanceRange]:
    """The range that `predict` and `rank` take for each method of a target, where any rate is
    published."""
    target, found = model(name), {}
    drafts = drafts_for(target)
    for each in [method] if method is not None else catalog.load("methods"):
        draft = model(drafts[0]) if each in NEED_A_DRAFT and drafts else None
        if each in NEED_A_DRAFT and draft is None:
            continue
        of = acceptance_range(method_named(each, target, draft), each, name)
        if of is not None and (of.method == each or method is not None):
            found[each] = of
    return found


def lines(
    name: str,
    method: str | None,
    found: Sequence[PublishedRate],
    ranges: dict[str, AcceptanceRange],
) -> list[str]:
    """The answer for a person."""
    only = "" if method is None else f" with {method}"
    total = len(published_rates())
    said = wrap(
        f"published acceptance of {name}{only}: {len(found)} of the {total} rates that ship with "
        "specsim"
    )
    if found:
        said += ["", *table(found)]
    if ranges:
        said += [
            "",
            "what predict and rank assume for it where no acceptance is given: the alpha",
            "(acceptance probability of the first draft) that gives the published tokens",
            f"{'method':15s}{'low':>6s}{'middle':>8s}{'high':>6s}{'rates':>7s}  of",
        ]
        for each, of in ranges.items():
            whose = name if of.of_target else ", ".join(of.models)
            said += wrap(
                whose + (" (trees: optimistic for a chain)" if of.trees else ""),
                f"{each:15s}{of.low:6.2f}{of.middle:8.2f}{of.high:6.2f}{of.rates:7d}  ",
            )
    elif method is not None:
        said += ["", *wrap(f"no rate of {method} is published that says how many were drafted")]
    said += ["", "measure yours: acceptance depends on the models and the traffic"]
    return [*fit(said), *notes(MEASURE)]


def table(found: Sequence[PublishedRate]) -> list[str]:
    """A line for each drafter and task; several temperatures and settings are joined."""
    groups: dict[tuple[str, str, str], list[PublishedRate]] = {}
    for rate in found:
        label = rate.method or "not in specsim"
        groups.setdefault((label, rate.drafter, rate.task), []).append(rate)
    said = [
        f"{'':15s}{'':17s}{'':16s}{'':9s}{'tokens per':>11s}{'drafted':>10s}",
        f"{'method':15s}{'as published':17s}{'task':16s}{'alpha':>9s}{'cycle':>11s}"
        f"{'per cycle':>12s}",
    ]
    for (label, drafter, task), rates in groups.items():
        alphas = [rate.alpha for rate in rates if rate.alpha is not None]
        tokens = [rate.tokens_per_cycle for rate in rates if rate.tokens_per_cycle is not None]
        said.append(
            f"{label:15s}{cut(drafter, 16):17s}{cut(task, 15):16s}{span(alphas):>9s}"
            f"{span(tokens):>11s}{drafted(rates):>12s}"
        )
    return said


def drafted(rates: Sequence[PublishedRate]) -> str:
    """How many tokens were drafted, with a mark where the row does not say."""
    if any(rate.tree for rate in rates):
        return "a tree"
    known = sorted({rate.gamma for rate in rates if rate.gamma is not None})
    if not known:
        return "-"
    text = ", ".join(map(str, known))
    return f"{text} *" if any(rate.assumed for rate in rates) else text


def span(values: Sequence[Any]) -> str:
    """One value, or the least and the largest."""
    if not values:
        return "-"
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low:.2f}" if low == high else f"{low:.2f}-{high:.2f}"


def cut(text: str, most: int) -> str:
    """A text of at most `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
