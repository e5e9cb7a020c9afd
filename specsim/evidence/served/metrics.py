"""Acceptance from a page of counters: vLLM's (versions 0 and 1), llama.cpp's, SGLang's,
TensorRT-LLM's.

Sources: vllm/v1/spec_decode/metrics.py, vllm/engine/metrics.py (version 0), tools/server of
llama.cpp (`/metrics`), python/sglang/srt/observability/metrics_collector.py, and
tensorrt_llm/metrics/collector.py.
"""

from collections.abc import Callable

from specsim.checks import SpecsimError
from specsim.checks.limits import LIMITS
from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import Account, Printed, printed
from specsim.evidence.served.prometheus import Page, pages
from specsim.evidence.served.tally import Tally


def acceptance(text: str) -> list[Counters]:
    """The acceptance on the pages in a text, one for each engine that speculates."""
    found = [acceptance_of(page) for page in pages(text).values()]
    return [counters for counters in found if counters is not None]


def acceptance_of(page: Page) -> Counters | None:
    """The acceptance on one page; None if its server does not speculate."""
    for reader in READERS[page.engine]:
        if (counters := reader(page)) is not None:
            return counters
    return None


def _counted(page: Page) -> Counters | None:
    """Counters of drafts, draft tokens and accepted tokens, as vLLM and llama.cpp have them."""
    cycles, drafted, accepted = (
        page.total(f"spec_decode_num_{name}_total", f"spec_decode_num_{name}")
        for name in ("drafts", "draft_tokens", "accepted_tokens")
    )
    if accepted is None or drafted is None:
        if cycles is None and accepted is None and drafted is None:
            return None
        missing = "accepted" if accepted is None else "draft"
        raise SpecsimError(
            f"{_kind(page)} lack spec_decode_num_{missing}_tokens_total: give the whole page"
        )
    tally = Tally(_kind(page), page.engine)
    tally.add(
        Account(accepted, drafted, cycles, positions=_positions(page, cycles, accepted, tally))
    )
    tally.cautions += _cautions(page)
    return tally.total()


def _positions(
    page: Page, cycles: float | None, accepted: float, tally: Tally
) -> tuple[Printed, ...] | None:
    name = "spec_decode_num_accepted_tokens_per_pos"
    counts = page.by_label(f"{name}_total", "position") or page.by_label(name, "position")
    if not counts or not cycles:
        return None
    by_place = {int(place): count for place, count in counts.items() if place.isdecimal()}
    most = max(by_place, default=-1)
    if most >= LIMITS["gamma"].most:
        raise SpecsimError(
            f"a position in the log must be at most {LIMITS['gamma'].most:,}, got {most:,}"
        )
    if sorted(by_place) != list(range(most + 1)):
        tally.cautions.append("Some positions are missing; the rates per position are left out.")
        return None
    if abs(sum(by_place.values()) - accepted) > 0.5:
        raise SpecsimError(
            f"{_kind(page)} contradict themselves: {accepted:g} accepted tokens, but "
            f"{sum(by_place.values()):g} over all positions; give a whole page, of one server"
        )
    return tuple(Printed(by_place[place] / cycles, 0.0) for place in range(most + 1))


def _version_0(page: Page) -> Counters | None:
    """vLLM 0: efficiency = emitted / (cycles x (gamma + 1)), cycles = drafted / gamma; both give
    gamma."""
    emitted, drafted, accepted = (
        page.total(f"spec_decode_num_{name}_total", f"spec_decode_num_{name}")
        for name in ("emitted_tokens", "draft_tokens", "accepted_tokens")
    )
    if emitted is None or drafted is None:
        return None
    efficiency, rate = (
        page.gauge("spec_decode_efficiency"),
        page.gauge("spec_decode_draft_acceptance_rate"),
    )
    kind = _kind(page)
    if not drafted or not emitted:
        raise SpecsimError(f"no tokens were drafted in {kind}: the server was idle")
    share = None if accepted is None or page.scrapes > 1 else accepted / drafted
    if share is not None and rate and abs(rate[0] - share) > 0.006:
        raise SpecsimError(
            f"{kind} contradict themselves: a draft acceptance rate of {rate[0]:g}, but "
            f"{accepted:g} of {drafted:g} are {share:.3f}"
        )
    per_draft = emitted / drafted  # = (gamma + 1) / gamma x efficiency
    gamma = None
    if len(efficiency) == 1 and 0 < efficiency[0] < per_draft:
        near = efficiency[0] / (per_draft - efficiency[0])
        if near < 0.5 or near > LIMITS["gamma"].most:
            raise SpecsimError(f"{kind} contradict themselves: they make gamma {near:.3g}")
        gamma = float(round(near))
    if gamma is None:
        raise SpecsimError(
            f"{kind} have no gauge of efficiency, from which cycles would follow: tokens per cycle "
            f"are {per_draft:.4g} x gamma; give --tokens-per-cycle and --gamma"
        )
    cycles = drafted / gamma
    return Counters(
        engine=page.engine + "-0",
        gamma=gamma,
        cycles=cycles,
        drafted=drafted,
        tokens_per_cycle=emitted / cycles,
        cautions=tuple(_cautions(page)),
        source=kind,
    )


def _sglang(page: Page) -> Counters | None:
    """Gauges of the last steps; a gauge of 0 is of an idle server. Two scrapes of its counters say
    more than a gauge: tokens after the first of a request, by verifications."""
    lengths = [v for v in page.gauge("spec_accept_length") if v]
    rates = [v for v in page.gauge("spec_accept_rate") if v]
    calls = page.total("spec_verify_calls_total")
    if not page.gauge("spec_accept_length") and calls is None:
        return None
    kind, cautions = _kind(page), _cautions(page)
    if lengths:
        cautions.append("SGLang's accept length is a gauge: of the last steps, not of a whole run.")
        tally = Tally(kind, page.engine)
        length, rate = sum(lengths) / len(lengths), sum(rates) / len(rates) if rates else None
        tally.add(
            Account(
                length=printed(f"{length:.6g}"),
                rate=printed(f"{rate:.6g}") if rate is not None else None,
            )
        )
        tally.cautions += cautions
        return tally.total()
    generated, requests = page.total("generation_tokens_total"), page.total("num_requests_total")
    if not calls or not generated:
        raise SpecsimError(f"no tokens were drafted in {kind}: the server was idle")
    after_first = generated - (requests or 0.0)
    cautions.append(
        "The gauges are those of an idle server; tokens per cycle are generated tokens after the "
        "first of each request, divided by verifications."
    )
    if not calls <= after_first <= calls * (LIMITS["gamma"].most + 1):
        raise SpecsimError(
            f"{kind} contradict themselves: {generated:g} generated tokens in {calls:g} "
            "verifications"
        )
    return Counters(
        page.engine,
        cycles=calls,
        tokens_per_cycle=after_first / calls,
        cautions=tuple(cautions),
        source=kind,
    )


def _tensorrt(page: Page) -> Counters | None:
    """Counters of tokens, and a gauge of the mean length in the last iterations."""
    drafted, accepted = (
        page.total(f"spec_decode_num_{name}_total") for name in ("draft_tokens", "accepted_tokens")
    )
    lengths = [v for v in page.gauge("spec_decode_acceptance_length") if v]
    if accepted is None or drafted is None:
        return None
    tally = Tally(_kind(page), page.engine)
    tally.add(Account(accepted, drafted))
    total = tally.total()
    assert total is not None
    cautions = _cautions(page)
    length = sum(lengths) / len(lengths) if lengths else None
    if length is not None:
        if length < 1:
            raise SpecsimError(f"{_kind(page)} contradict themselves: a mean length of {length:g}")
        cautions.append(
            "The tokens per cycle are a gauge of the last iterations, the accepted and drafted "
            "tokens are counts."
        )
    return Counters(
        page.engine,
        accepted=total.accepted,
        drafted=total.drafted,
        tokens_per_cycle=length,
        cautions=tuple(cautions),
        source=_kind(page),
    )


def _kind(page: Page) -> str:
    since = "since the start" if page.scrapes == 1 else f"between {page.scrapes} scrapes"
    return f"{page.engine}'s Prometheus counters, {since}"


def _cautions(page: Page) -> list[str]:
    models = page.values_of("model_name")
    said = list(page.cautions)
    if len(models) > 1:
        shown = ", ".join(sorted(models)[:3])
        said.append(f"The counters are of {len(models)} models ({shown}); they are added.")
    return said


READERS: dict[str, tuple[Callable[[Page], Counters | None], ...]] = {
    "vllm": (_version_0, _counted),
    "llama.cpp": (_counted,),
    "sglang": (_sglang, _counted),
    "tensorrt-llm": (_tensorrt,),
}
