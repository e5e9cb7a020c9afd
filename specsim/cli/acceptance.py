"""specsim acceptance: the published acceptance rates for a model, and how to measure one's own."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from specsim import __version__, catalog
from specsim.acceptance.published import PublishedRate, published_rates, rates_for, rates_of
from specsim.architecture import drafts_for, model
from specsim.checks import SpecsimError
from specsim.checks.columns import fit, wrap
from specsim.cli.page import notes
from specsim.cli.parser import Commands
from specsim.drafting import Drafter
from specsim.drafting import method as method_named
from specsim.drafting.methods import NEED_A_DRAFT
from specsim.planning.acceptances import AcceptanceRange, acceptance_range, alphas_of

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
        print(
            *lines(name or options.model, method, found, ranges, alphas_for(found, name)), sep="\n"
        )
    return 0


def ranges_for(name: str, method: str | None) -> dict[str, AcceptanceRange]:
    """The range that `predict` and `rank` take for each method of a target, where any rate is
    published."""
    found = {}
    for each in [method] if method is not None else catalog.load("methods"):
        drafter = drafter_for(name, each)
        if drafter is None:
            continue
        of = acceptance_range(drafter, each, name)
        if of is not None and (of.method == each or method is not None):
            found[each] = of
    return found


def drafter_for(name: str, method: str) -> Drafter | None:
    """A method for a target of the catalog, with its first draft where it needs one; None where the
    catalog has none."""
    target = model(name)
    drafts = drafts_for(target)
    draft = model(drafts[0]) if method in NEED_A_DRAFT and drafts else None
    if method in NEED_A_DRAFT and draft is None:
        return None
    return method_named(method, target, draft)


def lines(
    name: str,
    method: str | None,
    found: Sequence[PublishedRate],
    ranges: dict[str, AcceptanceRange],
    alphas: Mapping[PublishedRate, float],
) -> list[str]:
    """The answer for a person."""
    only = "" if method is None else f" with {method}"
    total = len(published_rates())
    said = wrap(
        f"published acceptance of {name}{only}: {len(found)} of the {total} rates that ship with "
        f"specsim, from {sum(rate.rows for rate in found)} rows of the catalog"
    )
    if found:
        said += ["", *table(found, alphas), *legend(found, alphas), *unused(found, ranges)]
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


def legend(found: Sequence[PublishedRate], known: Mapping[PublishedRate, float]) -> list[str]:
    """What the marks of the table mean, where it has them."""
    said = []
    if any(rate.assumed and not rate.tree for rate in found):
        said.append("*: how many were drafted is assumed, the publication does not say")
    if any(rate.alpha is None for rate in known):
        said += wrap(
            "~: alpha computed here, as for predict and rank: the one at which the method emits "
            "the published tokens per cycle"
        )
    return said


def unused(found: Sequence[PublishedRate], ranges: Mapping[str, AcceptanceRange]) -> list[str]:
    """Which rates of the table predict and rank do not use, and why."""
    reasons: dict[str, list[str]] = {}
    for rate in found:
        label = rate.method or rate.drafter
        if rate.method is None:
            reason = "specsim has no such method"
        elif not rate.of_a_chain:
            reason = "measured with trees, or how many were drafted is unknown: the alpha of a "
            reason += "chain does not follow"
        elif rate.tree and not (rate.method in ranges and ranges[rate.method].trees):
            reason = "measured with trees, and chains of the method are published"
        elif rate not in rates_of(rate.method):
            reason = "a mean over tasks that are listed themselves"
        else:
            continue
        reasons.setdefault(reason, []).append(label)
    said = []
    for reason, labels in reasons.items():
        names = ", ".join(dict.fromkeys(labels))
        count = f"{len(labels)} rate{'s' * (len(labels) > 1)}"
        said += wrap(f"not used by predict and rank: {count} of {names}: {reason}")
    return said


def alphas_for(found: Sequence[PublishedRate], name: str | None) -> dict[PublishedRate, float]:
    """The alpha of each rate that has one: as published, or the one at which the method emits the
    published tokens per cycle for the target `name`, as predict and rank take it."""
    alphas = {rate: rate.alpha for rate in found if rate.alpha is not None}
    for rate in found if name is not None else ():
        if rate in alphas or rate.method is None or not rate.of_a_chain or rate.tree:
            continue
        drafter = drafter_for(str(name), rate.method)
        if drafter is not None:
            alphas[rate] = float(alphas_of(drafter, [rate])[0])
    return alphas


def table(found: Sequence[PublishedRate], known: Mapping[PublishedRate, float]) -> list[str]:
    """A line for each drafter and task; several temperatures and settings are joined."""
    groups: dict[tuple[str, str, str], list[PublishedRate]] = {}
    for rate in found:
        label = rate.method or "not in specsim"
        groups.setdefault((label, rate.drafter, rate.task), []).append(rate)
    wide = 10 if known else 0  # of the column of alphas, which may be empty
    said = [
        f"{'':{48 + wide}s}{'tokens per':>10s}{'drafted':>12s}",
        f"{'method':15s}{'as published':17s}{'task':16s}{'alpha'[:wide]:>{wide}s}{'cycle':>10s}"
        f"{'per cycle':>12s}",
    ]
    for (label, drafter, task), rates in groups.items():
        alphas = [known[rate] for rate in rates if rate in known]
        computed = "~" if alphas and all(rate.alpha is None for rate in rates) else ""
        tokens = [rate.tokens_per_cycle for rate in rates if rate.tokens_per_cycle is not None]
        said.append(
            f"{label:15s}{cut(drafter, 16):17s}{cut(task, 15):16s}"
            + (f"{computed + span(alphas):>10s}" if known else "")
            + f"{span(tokens):>10s}{drafted(rates):>12s}"
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
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f}-{high:.2f}"


def cut(text: str, most: int) -> str:
    """A text of at most `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
