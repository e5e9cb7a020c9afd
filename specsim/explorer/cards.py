"""Speed, memory and cost as cards, each next to the value of plain decoding."""

import html
from dataclasses import dataclass

import numpy as np

from specsim.drafting import DraftModel
from specsim.explorer.scenarios import PredictedScenario
from specsim.explorer.sentences import milliseconds
from specsim.planning.economics import dollars_per_million_tokens, token_cost
from specsim.planning.memory import capacity_words
from specsim.planning.prefill import time_to_first_token


@dataclass(frozen=True, slots=True)
class Card:
    """A quantity: its name, the number as it is shown, and a note in small print."""

    name: str
    number: str
    note: str


def cards_of(shown: PredictedScenario) -> list[Card]:
    """Speedup, latency, throughput, first token, memory, money, energy."""
    tokens, cycle_s = shown.of("tokens_per_cycle"), shown.of("cycle_s")
    plain_s, batch = shown.of("step_s"), shown.scenario.batch
    token_s = cycle_s / tokens
    low, high = shown.band("speedup")
    found = [
        Card("speedup", f"{shown.speedup:.2f}×", f"γ = {shown.gamma}; {low:.2f} to {high:.2f}"),
        Card("per token", milliseconds(token_s), f"plain {milliseconds(plain_s)}"),
        Card("tokens/s, all", rate(batch / token_s), f"plain {rate(batch / plain_s)}"),
        first_token(shown),
        memory(shown),
    ]
    return found + money_and_energy(shown, token_s, plain_s)


def first_token(shown: PredictedScenario) -> Card:
    """Time to the first token of a prompt as long as the context, at an idle engine."""
    drafter = shown.drafter
    draft = drafter.architecture if isinstance(drafter, DraftModel) else None
    prompt = shown.scenario.context
    first = time_to_first_token(shown.target, shown.system, prompt=prompt, draft=draft)
    return Card("first token", milliseconds(float(first.total_s)), f"prompt of {prompt:,}, alone")


def memory(shown: PredictedScenario) -> Card:
    """What the fullest device holds, of how much."""
    held = shown.footprint(gamma=shown.gamma)
    total, capacity = float(held.total_bytes) / 1e9, held.capacity_bytes
    if capacity is None:
        return Card("memory", f"{total:.1f} GB", "the accelerator's is unknown")
    fits = "of" if held.fits else "does not fit in"
    each = " each" if shown.scenario.tensor_parallel > 1 else ""
    note = f"{fits} {capacity_words(held, shown.system)}{each}"
    return Card("memory", f"{total:.1f} GB", note)


def money_and_energy(shown: PredictedScenario, token_s: float, plain_s: float) -> list[Card]:
    """Dollars (where a price is set) and joules per token, with those of plain decoding."""
    scenario, batch = shown.scenario, shown.scenario.batch
    devices = scenario.tensor_parallel
    found = []
    if scenario.price_per_hour > 0:
        plain_hour = scenario.price_per_hour * devices
        hour = scenario.price_per_hour * (devices + shown.over.extra_devices)
        dollars = float(dollars_per_million_tokens(hour, batch / token_s))
        plain = float(dollars_per_million_tokens(plain_hour, batch / plain_s))
        found.append(Card("per million tokens", f"${dollars:.2f}", f"plain ${plain:.2f}"))
    note = f"plain {joules(shown, 0):.2g} J; assumed rates"
    found.append(Card("energy per token", f"{joules(shown, shown.gamma):.2g} J", note))
    return found


def joules(shown: PredictedScenario, gamma: int) -> float:
    """Per token, from the assumed energies per byte and FLOP of `economics`."""
    return float(np.ravel(token_cost(shown.predict(gamma=gamma)).joules)[0])


def rate(per_s: float) -> str:
    """Tokens per second, as they are shown."""
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.1f}"


def as_html(cards: list[Card]) -> str:
    """The cards as HTML."""

    def cell(card: Card) -> str:
        name, number, note = (html.escape(part) for part in (card.name, card.number, card.note))
        return f"<div><span>{name}</span><b>{number}</b><small>{note}</small></div>"

    return f'<div class="specsim-cards">{"".join(map(cell, cards))}</div>'
