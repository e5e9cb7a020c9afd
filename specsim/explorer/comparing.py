"""Two settings side by side: A, which was kept, and B, which is shown."""

import html
from collections.abc import Callable
from dataclasses import dataclass

from specsim.explorer.cards import rate
from specsim.explorer.scenarios import NAMES, ExplorerScenario, PredictedScenario
from specsim.explorer.sentences import milliseconds
from specsim.planning.economics import dollars_per_million_tokens

A_TIE = 0.005  # a smaller difference is said to be none
LABELS = {"alpha": "α", "gamma": "γ", "tensor_parallel": "tensor parallel"}


@dataclass(frozen=True, slots=True)
class Kept:
    """A scenario as its controls held it, and its prediction."""

    scenario: ExplorerScenario
    shown: PredictedScenario


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """A quantity of both, as it is shown, and whether it is a setting or a result."""

    name: str
    a: str
    b: str
    is_setting: bool = False


def differences(a: Kept, b: Kept) -> list[ComparedRow]:
    """The settings in which the two differ, of those that are used."""
    found = []
    for name in NAMES:
        one, other = (getattr(each.shown.scenario, name) for each in (a, b))
        if one != other:
            label = LABELS.get(name, name.replace("_", " "))
            found.append(ComparedRow(label, written(name, one), written(name, other), True))
    return found


def written(name: str, value: object) -> str:
    """A setting as a reader would write it."""
    if value is None or value == ():
        return "best" if name == "gamma" else "none"
    if isinstance(value, tuple):
        return ", ".join(f"{each:g}" for each in value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(
        value, float) else str(value)  # fmt: skip


def results(a: Kept, b: Kept) -> list[ComparedRow]:
    """What is predicted for both."""
    quantities = dict(QUANTITIES)
    if all(each.shown.scenario.price_per_hour > 0 for each in (a, b)):
        quantities["per million tokens"] = lambda shown: f"${dollars(shown):.2f}"
    return [ComparedRow(name, say(a.shown), say(b.shown)) for name, say in quantities.items()]


def verdict(a: Kept, b: Kept) -> str:
    """Which of the two gives more, to one user and in all."""
    each = token_s(a.shown) / token_s(b.shown)
    every = tokens_per_s(b.shown) / tokens_per_s(a.shown)
    if abs(each - 1) < A_TIE and abs(every - 1) < A_TIE:
        return "A and B are as fast as each other."
    said = f"B gives each user {each:.2f} times the tokens per second of A"
    if abs(every / each - 1) < A_TIE:
        return f"{said}."
    return f"{said}, and {every:.2f} times as many in all."


def as_html(a: Kept, b: Kept) -> str:
    """A sentence and a table: settings that differ, then results."""
    settings = differences(a, b)
    if not settings:
        return (
            '<p class="specsim-note">A is what is shown. Change anything: this becomes B, and both '
            "stand side by side.</p>"
        )
    rows = "".join(_row(row) for row in [*settings, *results(a, b)])
    return (
        f'<p role="status"><b>{html.escape(verdict(a, b))}</b></p>'
        '<table class="specsim-load"><tr><th scope="col">A and B</th><th scope="col">A, kept</th>'
        f'<th scope="col">B, shown</th></tr>{rows}</table>'
    )


def _row(row: ComparedRow) -> str:
    kind = ' class="specsim-setting"' if row.is_setting else ""
    cells = "".join(f"<td>{html.escape(each)}</td>" for each in (row.a, row.b))
    return f'<tr{kind}><th scope="row">{html.escape(row.name)}</th>{cells}</tr>'


def token_s(shown: PredictedScenario) -> float:
    """Seconds per token of one sequence."""
    return shown.of("cycle_s") / shown.of("tokens_per_cycle")


def tokens_per_s(shown: PredictedScenario) -> float:
    """Of all sequences."""
    return shown.scenario.batch / token_s(shown)


def memory(shown: PredictedScenario) -> str:
    """Of the fullest device, and whether that is too much."""
    held = shown.footprint(gamma=shown.gamma)
    return f"{float(held.total_bytes) / 1e9:.1f} GB{'' if held.fits else ', too much'}"


def dollars(shown: PredictedScenario) -> float:
    """Per million tokens, every device paid for."""
    devices = shown.scenario.tensor_parallel + shown.over.extra_devices
    hour = shown.scenario.price_per_hour * devices
    return float(dollars_per_million_tokens(hour, tokens_per_s(shown)))


QUANTITIES: dict[str, Callable[[PredictedScenario], str]] = {
    "γ that is used": lambda shown: str(shown.gamma),
    "speedup over plain": lambda shown: f"{shown.speedup:.2f}×",
    "time per token": lambda shown: milliseconds(token_s(shown)),
    "tokens/s, all": lambda shown: rate(tokens_per_s(shown)),
    "tokens per cycle": lambda shown: f"{shown.of('tokens_per_cycle'):.2f}",
    "memory": memory,
}
