"""The card for many users: does the promise hold, with which policy, and what do others give?"""

import html

from specsim import serving
from specsim.checks import SpecsimError
from specsim.explorer.copying import as_serving_code, as_serving_command, copiable
from specsim.explorer.scenarios import NAMES, ExplorerScenario, PredictedScenario
from specsim.explorer.sentences import milliseconds
from specsim.explorer.under_load import KEPT, UnderLoad, compare, first_token_s, kept, serve

LOAD = ("users", "rate", "prompt", "answer", "ttft_ms", "tpot_ms")  # the controls of the card
WITHOUT_EFFECT = ("batch", "context", "temperature", "price_per_hour")


class LoadCard:
    """What the card shows, as HTML: `first` in a moment, `then` with more policies.

    Neither raises an error: the card says what is wrong.
    """

    def __init__(self) -> None:
        self.html = ""
        self.found: UnderLoad | None = None
        self._key: tuple[object, ...] = ()

    def first(self, shown: PredictedScenario) -> None:
        """No draft and the best single gamma; nothing is done where that is shown already."""
        key = tuple(getattr(shown.scenario, n) for n in NAMES if n not in WITHOUT_EFFECT)
        if key == self._key:
            return
        self._key, self.found = key, None
        try:
            self.found = serve(shown)
            self.html = as_html(shown.scenario, self.found)
        except SpecsimError as problem:
            self.html = refused(problem)

    def then(self, shown: PredictedScenario) -> None:
        """The gamma that is set and a schedule too, where they differ from what is shown."""
        if self.found is None:
            return
        try:
            found = compare(shown, self.found)
        except SpecsimError as problem:
            self.html = refused(problem)
            return
        if len(found.runs) > len(self.found.runs):
            self.found, self.html = found, as_html(shown.scenario, found)

    def refuse(self) -> None:
        """Show nothing: the sentence of the page says why there is no prediction."""
        self.html, self.found, self._key = "", None, ()


def refused(problem: SpecsimError) -> str:
    """Why nothing can be simulated, in the card."""
    said = html.escape(f"Not simulated: {problem}.")
    return f'<p class="specsim-problem" role="status">{said}</p>'


def sentences(scenario: ExplorerScenario, found: UnderLoad) -> list[str]:
    """Whether the promise holds, and what the best policy gives compared with no draft."""
    best, off = found.best, found.off
    who = f"{scenario.rate:g} requests/s" if scenario.rate else (
        "1 user" if scenario.users == 1 else f"{scenario.users:,} users")  # fmt: skip
    limits = f"TTFT {scenario.ttft_ms:g} ms, {1e3 / scenario.tpot_ms:.3g} tokens/s each"
    holds = "holds" if found.holds else "does not hold"
    least = "" if found.holds else f"; {KEPT:.0%} would be enough"
    said = [
        f"{who}, {limits}: the promise {holds}. With {named(best.policy)}, {kept(best):.0%} of the "
        f"requests keep it{least}."
    ]
    if best is not off and (before := speed(off)) and (after := speed(best)):
        said.append(f"Each user gets {after:.0f} tokens/s, without a draft {before:.0f}.")
    elif found.fixed is not None:
        said.append("Speculation does not pay under this load.")
    if best.state == "overloaded":
        said.append("The queue grows as long as requests come.")
    return said


def named(policy: str) -> str:
    """A policy in words."""
    if policy == "off":
        return "no draft"
    return "γ by batch" if policy == "scheduled" else f"γ = {policy.removeprefix('fixed:')}"


def speed(run: serving.Served) -> float | None:
    """Tokens per second of a user, after the first token."""
    mean = run.summary["mean_tpot_ms"]
    return 1e3 / mean if mean else None


def as_html(scenario: ExplorerScenario, found: UnderLoad) -> str:
    """Sentences, a table with a row for each policy, and what to copy."""
    rows = "".join(_row(run, run is found.best) for run in found.runs)
    heads = ("policy", "each user", "first token, p90", "keep the promise", "good requests", "all")
    head = "".join(f"<th>{name}</th>" for name in heads)
    small = (
        f"Simulated: {len(found.load):,} requests with lognormal lengths; batch and context follow "
        "from them. p90: nine of ten are below. Of users, the first request of each does not count "
        "there: all ask at the same moment."
    )
    said = html.escape(" ".join(sentences(scenario, found)))
    policy = found.best.policy
    return (
        f'<p role="status"><b>{said}</b></p><table class="specsim-load"><tr>{head}</tr>{rows}'
        f'</table><p class="specsim-note">{html.escape(small)}</p>'
        + copiable("command", as_serving_command(scenario, policy, len(found.load)))
        + copiable("Python", as_serving_code(scenario, policy, len(found.load)))
    )


def _row(run: serving.Served, best: bool) -> str:
    found, each = run.summary, speed(run)
    first = first_token_s(run)
    cells = (
        f"{named(run.policy)}{' (best)' if best else ''}",
        "–" if each is None else f"{each:.0f} tokens/s",
        "grows" if first is None else milliseconds(first),
        f"{kept(run):.0%}",
        f"{run.goodput:.2f}/s",
        f"{found['output_throughput']:,.0f} tokens/s",
    )
    inside = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    return f"<tr{' class=specsim-best' if best else ''}>{inside}</tr>"
