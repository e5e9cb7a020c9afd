"""What the fullest device holds, as a bar: weights, caches, the draft, and what is left."""

import html
from dataclasses import dataclass

import numpy as np

from specsim.checks.extras import needed
from specsim.explorer.scenarios import PredictedScenario
from specsim.planning.memory import capacity_words

with needed("the explorer", "notebooks"):
    from specsim.figures import COLOURS


@dataclass(frozen=True, slots=True)
class HeldPart:
    """Gigabytes of one kind, and their colour."""

    name: str
    gigabytes: float
    colour: str


def parts_of(shown: PredictedScenario) -> list[HeldPart]:
    """What is held at the gamma that is shown, without what is nothing."""
    held = shown.footprint(gamma=shown.gamma)
    found = (
        ("weights", held.weight_bytes, COLOURS["weights"]),
        ("KV cache", held.kv_bytes, COLOURS["kv"]),
        ("draft", held.draft_weight_bytes, COLOURS["draft"]),
        ("draft's cache", held.draft_kv_bytes, COLOURS["cycle"]),
        ("logits", held.logit_bytes, COLOURS["compute"]),
    )
    parts = [HeldPart(name, float(np.ravel(of)[0]) / 1e9, colour) for name, of, colour in found]
    return [part for part in parts if part.gigabytes > 0]


def sentence(shown: PredictedScenario) -> str:
    """The same in words: the parts, and of how much."""
    parts, held = parts_of(shown), shown.footprint(gamma=shown.gamma)
    capacity = held.capacity_bytes
    said = ", ".join(f"{part.name} {size(part.gigabytes)}" for part in parts)
    total = sum(part.gigabytes for part in parts)
    if capacity is None:
        return f"Memory: {said}; how much the accelerator has is unknown."
    each = " each" if shown.scenario.tensor_parallel > 1 else ""
    left = capacity / 1e9 - total
    rest = f"{size(left)} left" if left >= 0 else f"{size(-left)} too much"
    return f"Memory: {said}; {rest} of {capacity_words(held, shown.system)}{each}."


def as_html(shown: PredictedScenario) -> str:
    """The bar, with a line at what may be filled if it holds more, and the sentence."""
    parts, capacity = parts_of(shown), shown.footprint(gamma=shown.gamma).capacity_bytes
    total = sum(part.gigabytes for part in parts)
    there = total if capacity is None else capacity / 1e9
    scale = 100 / max(total, there)
    cells = "".join(
        f'<i style="width:{part.gigabytes * scale:.2f}%;background:{part.colour}" '
        f'title="{html.escape(part.name)} {size(part.gigabytes)}"></i>'
        for part in parts
    )
    end = f'<u style="left:{there * scale:.2f}%"></u>' if total > there else ""
    words = sentence(shown)
    legend = html.escape(words)
    for part in parts:
        mark = f'<b style="color:{part.colour}">■</b> '
        name = html.escape(f"{part.name} {size(part.gigabytes)}")
        legend = legend.replace(name, mark + name, 1)
    return (
        f'<div class="specsim-memory"><div role="img" aria-label="{html.escape(words)}">{cells}'
        f'{end}</div><p class="specsim-note">{legend}</p></div>'
    )


def size(gigabytes: float) -> str:
    """With as many digits as are worth showing."""
    if gigabytes >= 10:
        return f"{gigabytes:,.0f} GB"
    return f"{gigabytes:.1f} GB" if gigabytes >= 0.1 else f"{gigabytes * 1e3:.3g} MB"
