"""specsim rank: drafts and methods for one deployment in one table; settings of the best."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from specsim import __version__, catalog
from specsim.architecture import drafts_for, model
from specsim.checks import SpecsimError, number, one_count, quoted, within
from specsim.checks.columns import fit, wrap
from specsim.checks.limits import require_limit
from specsim.cli.options import add_memory_share, add_scenario, scenario_of
from specsim.cli.page import notes, priced
from specsim.cli.parser import Commands
from specsim.cli.plan import deployment, most_in_memory, show_commands
from specsim.cli.progress import working
from specsim.cli.published import range_of
from specsim.cli.sentences import doubted, guesses_first, weights_of
from specsim.drafting.methods import NEED_A_DRAFT
from specsim.hardware import System
from specsim.planning import (
    BATCHES,
    ENGINES_WITH_SETTINGS,
    engine_settings,
    fixed_plan,
    launch,
    plan,
    published_head,
)
from specsim.planning.acceptances import AcceptanceRange
from specsim.planning.memory import TOO_LARGE
from specsim.planning.ranking import ANSWER_TOKENS, Candidate, Ranked, rank
from specsim.planning.settings import documented
from specsim.scenario import Resolved, Scenario, method_of, resolve
from specsim.serving import slo_of

MOST_DRAFTS = 4  # draft models that are looked at unless they are named
SMALLER = 4  # at least so many times smaller than the target
MOST_NAMES = 64


@dataclass(frozen=True, slots=True)
class Entrant:
    """One way to draft that is to be priced, or `reason`, why it cannot be."""

    name: str
    scenario: Scenario
    published: AcceptanceRange | None = None
    reason: str | None = None


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "rank", help="drafts and methods for one deployment in one table; settings of the best"
    )
    parser.set_defaults(run=run, draft=None, method=None, draft_precision=None)
    add_scenario(parser, drafting=False)
    parser.add_argument(
        "--users", "--batch", dest="batch", type=int, default=1, metavar="N",
        help="sequences that are decoded together (default 1)",
    )  # fmt: skip
    parser.add_argument(
        "--drafts", metavar="NAME,…",
        help=f"draft models to compare (default: up to {MOST_DRAFTS} of the catalog that share the "
        "tokenizer)",
    )  # fmt: skip
    parser.add_argument(
        "--methods", metavar="NAME,…",
        help="methods to compare, whether or not the engine has them (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--alpha", type=float,
        help="one acceptance for every candidate (default: each method's published range)",
    )  # fmt: skip
    parser.add_argument(
        "--acceptance", action="append", default=[], metavar="NAME=ALPHA",
        help="the alpha of one method or draft model, measured or assumed; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--slo", nargs="+", default=[], metavar="METRIC:MS",
        help="latency limits: ttft:MS (a prompt of --context tokens read alone), tpot:MS (each "
        f"user's token), e2el:MS (an answer of {ANSWER_TOKENS} more tokens)",
    )  # fmt: skip
    parser.add_argument(
        "--price-per-hour",
        type=float,
        metavar="USD",
        help="of the target's devices, for cost per token; a method that needs more devices pays "
        "for them too",
    )
    add_memory_share(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if options.price_per_hour is not None:
        within("--price-per-hour", options.price_per_hour, high=1e9)
    within("--memory-share", options.memory_share, low=1e-6)
    require_limit("batch", options.batch, "--users")
    one_count("--users", options.batch, 1)
    limits = slo_of(options.slo).limits
    scenario = scenario_of(options, alpha=None)
    base = resolve(scenario)
    entrants = list(entrants_of(base, options))
    possible = [each for each in entrants if each.reason is None]
    found = {each.name: resolve(each.scenario) for each in possible}
    with working(f"pricing {len(possible) + 1} candidates"):
        ranked = rank(
            base.target, base.system,
            [Candidate(), *(candidate_of(each, found[each.name]) for each in possible)],
            users=scenario.batch, context=scenario.context, limits_ms=limits,
            price_per_hour=options.price_per_hour, usable=options.memory_share,
            routing_correlation=scenario.routing_correlation,
        )  # fmt: skip
        best = next((each for each in ranked if each.possible), None)
        winner = None if best is None else found.get(best.candidate.name, base)
        commands = {} if winner is None else settings_of(winner, options.memory_share)
    document: dict[str, Any] = {
        "deployment": {
            "target": base.target.name, "accelerator": base.system.accelerator.name,
            "engine": scenario.engine, "precision": base.system.precision.name,
            "tensor_parallel": scenario.tensor_parallel, "users": scenario.batch,
            "context": scenario.context, "slo_ms": limits,
        },
        "ranking": [row_of(each, entrants) for each in ranked],
        "impossible": [
            {"name": each.name, "reason": each.reason} for each in entrants if each.reason
        ],
        "best": None if best is None else best.candidate.name,
        "engine_settings": {} if winner is None else {
            name: engine_settings(
                plan_of(winner), name, winner.drafter, method=winner.method, users=scenario.batch,
                most=most_in_memory(winner, plan_of(winner), options.memory_share),
            ) for name in ENGINES_WITH_SETTINGS
        } if winner.drafter is not None else {},
        "commands": {
            name: {"command": each.command, "notes": list(each.notes)}
            for name, each in commands.items()
        },
        "assumptions": sentences(
            base, found.get(ranked[0].candidate.name, base), ranked, entrants, options
        ),
        "version": __version__,
    }  # fmt: skip
    if options.json:
        print(json.dumps(document, allow_nan=False))
        return 0
    users = scenario.batch
    load = f"{users} user{'s' * (users > 1)} decoding together, {scenario.context} tokens of "
    load += "context each"
    if limits:
        load += "; at most " + ", ".join(f"{ms:g} ms {name}" for name, ms in limits.items())
    load += f"; memory filled to {100 * options.memory_share:.3g} %"
    print(*priced(base, load=load, candidates=len(possible)), "", sep="\n")
    print(*(line for each in verdicts(ranked, limits) for line in wrap(each)), sep="\n")
    print(*table(ranked, base.system), sep="\n")
    print(*excluded(document["impossible"]), sep="\n")
    guesses, others = guesses_first(document["assumptions"])
    print(*(line for sentence in guesses for line in wrap(sentence)), *notes(others), sep="\n")
    if best is not None and winner is not None:
        if scenario.engine in ENGINES_WITH_SETTINGS:
            print("", *fit([f"settings for the first, {best.candidate.name}:"]), sep="\n")
            show_commands({scenario.engine: commands[scenario.engine]})
        else:
            print("", *wrap(
                f"settings of a server for the first, {best.candidate.name}: give --engine "
                f"{', '.join(ENGINES_WITH_SETTINGS[:-1])} or {ENGINES_WITH_SETTINGS[-1]} (--json "
                "has those of all)"
            ), sep="\n")  # fmt: skip
    return 0


# ------------------------------------------------------------------------------ who takes part


def entrants_of(base: Resolved, options: argparse.Namespace) -> Iterator[Entrant]:
    """Every way to draft, with what it needs, or with the reason why it is left out."""
    scenario = base.scenario
    methods = methods_of(options.methods)
    given = given_acceptances(options)
    used = set()
    drafts = drafts_of(base, options.drafts)
    for method in methods:
        needs_draft = method in NEED_A_DRAFT
        reason = None if options.methods else left_out(base, method)
        chosen: Sequence[str | None] = [None]
        if needs_draft:
            chosen = drafts if method == "draft-model" else drafts[:1]
            if not chosen:
                reason = reason or "no draft model of the catalog fits: name one with --drafts"
                chosen = [None]
        for draft in chosen:
            if reason is not None and draft is not None and method != "draft-model":
                draft = None
            name = method if draft is None else f"{method} {draft}"
            asked = replace(scenario, method=method, draft=draft)
            if reason is not None:
                yield Entrant(name, asked, reason=reason)
                continue
            keys = [key for key in (draft, method) if key in given]
            used |= set(keys)
            yield entrant_of(name, asked, given[keys[0]] if keys else options.alpha)
    if unused := [key for key in given if key not in used]:
        raise SpecsimError(
            f"--acceptance {unused[0]} belongs to no candidate that can be priced: name it in "
            "--methods or --drafts, or leave it out"
        )


def entrant_of(name: str, scenario: Scenario, alpha: float | None) -> Entrant:
    """One way to draft at a given alpha, or at its published range; what does not go together is
    the reason why it is left out."""
    try:
        if alpha is not None:
            resolve(replace(scenario, alpha=alpha)).predict(gamma=0)
            return Entrant(name, replace(scenario, alpha=alpha))
        found = range_of(scenario)
        if found is None:
            return Entrant(
                name, scenario,
                reason=f"no published acceptance: give --acceptance {scenario.method}=ALPHA",
            )  # fmt: skip
        chosen = replace(scenario, alpha=found.middle)
        resolve(chosen).predict(gamma=0)
        return Entrant(name, chosen, found)
    except SpecsimError as error:
        return Entrant(name, scenario, reason=str(error))


def left_out(base: Resolved, method: str) -> str | None:
    """Why a method cannot be used in a deployment; None where it can."""
    engine, needs = base.scenario.engine, catalog.lookup("methods", method)["needs"]
    if engine in ENGINES_WITH_SETTINGS and documented(engine, method) is None:
        return f"{engine} documents no such method"
    if method == "mtp" and base.target.mtp_layers == 0:
        return f"{base.target.name} has no MTP module"
    if method == "early-exit":
        return f"needs {needs}"
    is_head = "trained" in needs and "draft model" not in needs
    if is_head and published_head(base.scenario.target, method, engine) is None:
        return f"the catalog knows no head of it for {base.target.name}"
    return None


def methods_of(text: str | None) -> list[str]:
    """The methods to compare, by the catalog's names."""
    if text is None:
        return [name for name in catalog.load("methods") if name != "tree"]
    return [catalog.resolve("methods", name) for name in names("--methods", text)]


def drafts_of(base: Resolved, text: str | None) -> list[str]:
    """The draft models to compare: those named, or of each size the catalog's nearest in name."""
    if text is not None:
        for name in (found := names("--drafts", text)):
            model(name, base.scenario.like)  # an unknown name is a mistake, not a reason
        return found
    own = base.target.name
    most = base.target.parameters / SMALLER
    rows = catalog.load("models")
    by_size: dict[int, str] = {}
    for name in drafts_for(base.target):
        size = rows[name]["parameters"]
        near = alike(name, own) > alike(by_size.get(size, ""), own)
        if size <= most and (size not in by_size or near):
            by_size[size] = name
    return list(by_size.values())[:MOST_DRAFTS]


def alike(name: str, other: str) -> int:
    """How many characters two names begin with in common."""
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(name, other, strict=False))
    )


def names(option: str, text: str) -> list[str]:
    """The names of a comma-separated list, each once."""
    found = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(found) or len(found) > MOST_NAMES:
        raise SpecsimError(f"{option} takes up to {MOST_NAMES} names, comma-separated, not "
                           f"{quoted(text)}")  # fmt: skip
    return found


def given_acceptances(options: argparse.Namespace) -> dict[str, float]:
    """The alpha of each method or draft model that has one of its own."""
    if options.alpha is not None:
        within("--alpha", options.alpha)
    found = {}
    for text in options.acceptance:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise SpecsimError(
                f"--acceptance takes NAME=ALPHA, such as eagle-3=0.7, not {quoted(text)}"
            )
        alpha = number(f"--acceptance {name}", value)
        within(f"--acceptance {name}", alpha)
        with suppress(SpecsimError):  # a draft model, by the name of --drafts
            name = catalog.resolve("methods", name)
        found[name] = alpha
    return found


def candidate_of(entrant: Entrant, found: Resolved) -> Candidate:
    """What is priced of one way to draft."""
    alpha = entrant.scenario.alpha or 0.0
    published = entrant.published
    alphas = (alpha, alpha, alpha)
    if published is not None:
        alphas = (published.low, published.middle, published.high)
    return Candidate(
        method=method_of(entrant.scenario), draft=entrant.scenario.draft, drafter=found.drafter,
        alphas=alphas,
    )  # fmt: skip


# ------------------------------------------------------------------------------------ settings


def plan_of(found: Resolved) -> Any:
    """The plan of the best at the middle acceptance: for the batches of `specsim plan`, and for as
    many as there are users."""
    if found.drafter is None:
        return fixed_plan(0, found.scenario.batch)
    batches = sorted({*BATCHES, found.scenario.batch})
    return plan(
        found.target, found.drafter, found.system, batches=batches, gammas=found.gammas,
        context=found.scenario.context, routing_correlation=found.scenario.routing_correlation,
        **found.scenario.acceptance,
    )  # fmt: skip


def settings_of(found: Resolved, memory_share: float) -> dict[str, Any]:
    """The commands that start each engine with the plan of the best, as `specsim plan` does: one
    length is that of the users of the ranking."""
    planned = plan_of(found)
    return {
        name: launch(
            name,
            deployment(found, memory_share),
            planned,
            target=found.target,
            drafter=found.drafter,
            users=found.scenario.batch,
            most=most_in_memory(found, planned, memory_share),
        )
        for name in ENGINES_WITH_SETTINGS
    }


# ----------------------------------------------------------------------------------- the answer


def row_of(ranked: Ranked, entrants: Sequence[Entrant]) -> dict[str, Any]:
    """A candidate as plain data; lists are for the low, the middle and the high acceptance."""
    candidate = ranked.candidate
    about = next((each for each in entrants if each.name == candidate.name), None)
    published = None if about is None else about.published
    return {
        "name": candidate.name,
        "method": candidate.method,
        "draft": candidate.draft,
        "alpha": None if candidate.drafter is None else list(candidate.alphas),
        "published_rates": None if published is None else published.rates,
        "gamma": ranked.gamma,
        "speedup": None if ranked.cannot_tell else ranked.speedups.tolist(),
        "tokens_per_s": ranked.tokens_per_s.tolist(),
        "token_s": ranked.token_s.tolist(),
        "ttft_s": ranked.ttft_s,
        "memory_bytes": ranked.memory_bytes,
        "devices": ranked.devices,
        "dollars_per_million": ranked.dollars_per_million,
        "fits": ranked.missing is None,
        "missing": ranked.missing,
        "misses": list(ranked.misses),
    }


def verdicts(ranked: Sequence[Ranked], limits: Mapping[str, float]) -> list[str]:
    """What the table says in a sentence: what leads and how it is sorted, or that nothing fits, or
    that nothing keeps to the limits."""
    first = ranked[0]
    if all(each.missing is not None for each in ranked):
        plain = next((each for each in ranked if each.candidate.drafter is None), first)
        what = "the memory" if plain.verdict == TOO_LARGE else "the share of the memory"
        return [f"NOTHING FITS {what}. {plain.candidate.name}: {plain.missing}."]
    said = []
    misses = [each.misses for each in ranked if each.missing is None]
    missed = [name for name in limits if all(name in each for each in misses)]
    if limits and all(misses):
        missed = missed or list(limits)
        said.append(
            "NO ROW KEEPS the limits that were asked for "
            f"({', '.join(f'{name} {limits[name]:g} ms' for name in missed)})."
        )
    known = [each for each in ranked if each.missing is None]
    if not any(each.cannot_tell or each.speedups[1] > 1.0 for each in known):
        said.append("No way to draft is faster than plain decoding.")
    order = "what fits" + (", then what keeps the limits" if limits else "")
    return [*said, f"sorted by {order}, then tokens/s per device"]


def table(ranked: Sequence[Ranked], system: System) -> list[str]:
    """The ranking for a person."""
    nothing = all(each.missing is not None for each in ranked)
    none_keeps = len({each.misses for each in ranked}) == 1
    dollars = any(each.dollars_per_million is not None for each in ranked)
    wide = 24 if dollars else 30
    lines = [
        f"   {'':{wide}s}{'':6s}{'speedup':>8s}{'speedup':>11s}{'tokens/s':>10s}{'ms/token':>9s}"
        + (f"{'USD per':>9s}" if dollars else ""),
        f"   {'':{wide}s}{'gamma':>6s}{'median':>8s}{'p10-p90':>11s}{'all users':>10s}"
        f"{'a user':>9s}" + (f"{'M tokens':>9s}" if dollars else ""),
    ]
    for place, each in enumerate(ranked, start=1):
        name = each.candidate.name
        name = name if len(name) <= wide else name[: wide - 1] + "…"
        low, middle, high = each.speedups.tolist()
        gain = "unknown" if each.cannot_tell else f"{middle:.2f}x"
        span = "" if each.cannot_tell or low == high else f"{low:.2f}-{high:.2f}"
        cost = each.dollars_per_million
        lines.append(
            f"{place:2d} {name:{wide}s}{each.gamma:6d}{gain:>8s}{span:>11s}"
            f"{each.tokens_per_s[1]:10.0f}{each.token_s[1] * 1e3:9.2f}"
            + ("" if cost is None else f"{cost:9.3f}")
        )
        lines += said_of(each, system, nothing, none_keeps)
    lines.append(memory_line(ranked))
    if any(low != high for low, _, high in (each.candidate.alphas for each in ranked)):
        lines += wrap(
            "p10-p90: over the published acceptance alone. The range leaves out the engine's "
            f"error, {system.engine.band} of a step."
        )
    return [line for part in lines for line in fit([part])]


def said_of(
    ranked: Ranked, system: System, nothing: bool = False, none_keeps: bool = False
) -> list[str]:
    """Why a candidate stands lower than its numbers say; where `nothing` fits, or none keeps any of
    the limits, that is said once, above."""
    said = []
    if more := ranked.devices - system.tensor_parallel:
        each = f"{float(ranked.tokens_per_s[1]) / ranked.devices:.0f} tokens/s per device"
        said.append(f"     +{more} device{'s' * (more > 1)} for the drafts: {each}")
    if ranked.missing is not None and not nothing:
        said += wrap(f"{ranked.verdict}: {ranked.missing}", "     ")
    if ranked.misses and not none_keeps:
        said += wrap(f"misses the limit of {', '.join(ranked.misses)}", "     ")
    if ranked.cannot_tell:
        said += wrap("the accelerator's arithmetic rate is unknown", "     ")
    return said


def memory_line(ranked: Sequence[Ranked]) -> str:
    """How much memory the candidates take."""
    sizes = [each.memory_bytes / 1e9 for each in ranked]
    low, high = f"{min(sizes):.1f}", f"{max(sizes):.1f}"
    span = low if low == high else f"{low} to {high}"
    return f"memory of the fullest device: {span} GB; time to first token: " + (
        f"{ranked[0].ttft_s * 1e3:.0f} ms for the first, without waiting"
    )


def excluded(impossible: Sequence[dict[str, Any]]) -> list[str]:
    """Those that were not priced, with their reasons, those of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for each in impossible:
        by_reason.setdefault(each["reason"], []).append(each["name"])
    return [
        line
        for reason, these in by_reason.items()
        for line in wrap(f"not possible: {', '.join(these)}: {reason}")
    ]


def sentences(
    base: Resolved,
    first: Resolved,
    ranked: Sequence[Ranked],
    entrants: Sequence[Entrant],
    options: argparse.Namespace,
) -> list[str]:
    """What the ranking rests on, and what is uncertain of its first candidate, whether or not that
    fits."""
    guesses, doubts = doubted(first.cautions(gamma=ranked[0].gamma))
    said = [*guesses, *doubts]
    published = [each for each in entrants if each.published is not None]
    if published:
        said.append(
            "Acceptance was not given: each method is priced at the 10th percentile (low), the "
            "median and the 90th percentile (high) of its published rates, of other models and "
            "traffic. Two candidates whose ranges overlap are not told apart by them: measure."
        )
        for method, about in {each.published.method: each.published for each in published
                              if each.published}.items():  # fmt: skip
            whose = "of this target" if about.of_target else f"with {', '.join(about.models)}"
            said.append(
                f"{method}: alpha {about.low:.2f}, {about.middle:.2f}, {about.high:.2f} from "
                f"{about.rates} rate{'s' * (about.rates > 1)} {whose}"
                f"{'; of trees, so optimistic for one chain' if about.trees else ''}."
            )
        several = [each for each in published if each.scenario.method == "draft-model"]
        if len(several) > 1:
            said.append(
                "Draft models of every size are given the same acceptance, so the smallest looks "
                "best; a larger one accepts more. Give each its own: --acceptance NAME=ALPHA."
            )
    engine = base.system.engine
    said.append(
        f"Speedups are for {options.batch} user{'s' * (options.batch > 1)}, on top of the "
        f"engine's own error: a step is predicted to {engine.band} (80 % band)."
    )
    said += weights_of(base)
    if options.slo:
        said.append(
            "Latencies are means without waiting for other requests; specsim serve-sim simulates "
            "arrivals and percentiles."
        )
    return said
