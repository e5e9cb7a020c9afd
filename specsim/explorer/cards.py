"""What it costs and how long it takes: a card for each, plain beside speculative."""

import html
from dataclasses import dataclass

import numpy as np

from specsim.drafting import DraftModel
from specsim.explorer.sentences import milliseconds
from specsim.explorer.setting import Scenario
from specsim.planning.economics import dollars_per_million_tokens, token_cost
from specsim.planning.memory import footprint
from specsim.planning.prefill import time_to_first_token


@dataclass(frozen=True, slots=True)
class Card:
    """A quantity by its name: the number as it is shown, and a line of smaller print."""

    name: str
    number: str
    note: str


def cards(scenario: Scenario) -> list[Card]:
    """Speedup, latency, throughput, first token, memory, money, energy."""
    tokens, cycle_s = scenario.of("tokens_per_cycle"), scenario.of("cycle_s")
    plain_s, batch = scenario.of("step_s"), scenario.setting.batch
    token_s = cycle_s / tokens
    low, high = scenario.band("speedup")
    found = [
        Card(
            "speedup", f"{scenario.speedup:.2f}×", f"γ = {scenario.gamma}; {low:.2f} to {high:.2f}"
        ),
        Card("per token", milliseconds(token_s), f"plain {milliseconds(plain_s)}"),
        Card("tokens/s, all", rate(batch / token_s), f"plain {rate(batch / plain_s)}"),
        first_token(scenario),
        memory(scenario),
    ]
    return found + money_and_energy(scenario, token_s, plain_s)


def first_token(scenario: Scenario) -> Card:
    """Of a prompt as long as the context, to an idle engine."""
    drafter = scenario.drafter
    draft = drafter.architecture if isinstance(drafter, DraftModel) else None
    prompt = scenario.setting.context
    first = time_to_first_token(scenario.target, scenario.system, prompt=prompt, draft=draft)
    return Card("first token", milliseconds(float(first.total_s)), f"prompt of {prompt:,}, alone")


def memory(scenario: Scenario) -> Card:
    held = footprint(scenario.target, scenario.system, **scenario.in_memory)
    total, capacity = float(held.total_bytes) / 1e9, held.capacity_bytes
    if capacity is None:
        return Card("memory", f"{total:.1f} GB", "the chip's is not known")
    fits = "of" if held.fits else "does not fit in"
    each = " each" if scenario.setting.tensor_parallel > 1 else ""
    return Card("memory", f"{total:.1f} GB", f"{fits} {capacity / 1e9:.0f} GB{each}")


def money_and_energy(scenario: Scenario, token_s: float, plain_s: float) -> list[Card]:
    setting, batch = scenario.setting, scenario.setting.batch
    devices = setting.tensor_parallel
    found = []
    if setting.price_per_hour > 0:
        plain_hour = setting.price_per_hour * devices
        hour = setting.price_per_hour * (devices + scenario.over.extra_devices)
        dollars = float(dollars_per_million_tokens(hour, batch / token_s))
        plain = float(dollars_per_million_tokens(plain_hour, batch / plain_s))
        found.append(Card("per million tokens", f"${dollars:.2f}", f"plain ${plain:.2f}"))
    note = f"plain {joules(scenario, 0):.2g} J; assumed rates"
    found.append(Card("energy per token", f"{joules(scenario, scenario.gamma):.2g} J", note))
    return found


def joules(scenario: Scenario, gamma: int) -> float:
    """Per token, by the orders of magnitude of `economics`."""
    return float(np.ravel(token_cost(scenario.predict(gamma=gamma)).joules)[0])


def rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.1f}"


def as_html(shown: list[Card]) -> str:
    """The cards, each a name, a number and its small print."""

    def cell(card: Card) -> str:
        name, number, note = (html.escape(part) for part in (card.name, card.number, card.note))
        return f"<div><span>{name}</span><b>{number}</b><small>{note}</small></div>"

    return f'<div class="specsim-cards">{"".join(map(cell, shown))}</div>'
