"""The groups in which a reader looks for a model or an accelerator, and what a method needs.

A list of ipywidgets has no headings, and an entry that only looks like one would be chosen by the
arrow keys. So the rows of one group stand together in a list, and a second, short list narrows it
to one group (`finding.Finder`).
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache

from specsim import catalog
from specsim.architecture import model

OTHERS = "others"
# the first family with a word that begins a name, or follows a hyphen in it; the rest is `OTHERS`
FAMILIES = {
    "DeepSeek": ("deepseek",),
    "Llama": ("llama", "codellama", "tinyllama", "vicuna"),
    "Qwen": ("qwen", "qwq"),
    "Gemma": ("gemma",),
    "GPT": ("gpt",),
    "OPT": ("opt",),
    "GLM": ("glm",),
    "Mistral": ("mistral", "mixtral", "devstral"),
    "Phi": ("phi",),
    "Nemotron": ("nemotron",),
    "SmolLM": ("smollm",),
    "Kimi": ("kimi",),
    "MiniMax": ("minimax",),
}
KINDS = {
    "datacentre-gpu": "data centre", "workstation-gpu": "workstation", "consumer-gpu": "consumer",
    "npu": "accelerator cards", "tpu": "TPU", "apple": "computers", "edge": "small boards",
    "phone": "phones", "cpu": "processors",
}  # fmt: skip


def family(name: str) -> str:
    """The family of a model of the catalog, by its name."""
    parts = name.split("-")
    for known, words in FAMILIES.items():
        if any(part.startswith(words) for part in parts):
            return known
    return OTHERS


def maker(name: str) -> str:
    """Who makes an accelerator of the catalog, and for what: `NVIDIA, data centre`."""
    row = catalog.load("accelerators")[name]
    kind = str(row["kind"])
    made = str(row["name"]).split()[0].replace("Raspberry", "Raspberry Pi")
    return f"{made}, {KINDS.get(kind, kind)}"


GROUP_OF = {"models": family, "accelerators": maker}


@cache
def groups(table: str) -> dict[str, tuple[str, ...]]:
    """The names of a table (`models` or `accelerators`) by group: the largest family, or the maker
    with the most machines, first, `others` last, and within a group as in the catalog."""
    found: dict[str, list[str]] = {}
    for name in catalog.load(table):
        found.setdefault(GROUP_OF[table](name), []).append(name)
    sizes = Counter(group.partition(", ")[0] for group, names in found.items() for _ in names)
    kinds = [*KINDS.values()]

    def place(group: str) -> tuple[bool, int, str, int]:
        made, _, kind = group.partition(", ")
        return group == OTHERS, -sizes[made], made, kinds.index(kind) if kind in kinds else -1

    return {group: tuple(found[group]) for group in sorted(found, key=place)}


def grouped(table: str, names: Sequence[str] | None = None) -> list[str]:
    """The names (all of the table unless given), those of one group together."""
    wanted = None if names is None else set(names)
    every = [name for members in groups(table).values() for name in members]
    return [name for name in every if wanted is None or name in wanted]


@cache
def draft_label(name: str) -> str:
    """A draft with its size: `llama-3.2-1b (1.2 billion)`."""
    billions = model(name).parameters / 1e9
    size = f"{billions:.1f} billion" if billions >= 1 else f"{1e3 * billions:.0f} million"
    return f"{name} ({size})"


@cache
def methods() -> tuple[tuple[str, str], ...]:
    """The methods, each as a label that says what it needs, in short words, and a name: those with
    the same need stand together."""
    rows = catalog.load("methods")
    needs = {name: str(row["needs"]) for name, row in rows.items()}
    first = {need: place for place, need in reversed(list(enumerate(needs.values())))}
    order = sorted(needs, key=lambda name: first[needs[name]])
    return tuple((_needing(name, needs[name]), name) for name in order)


def _needing(name: str, need: str) -> str:
    words = "nothing needed" if need == "nothing" else need.removeprefix("a ")
    return name if words == name.replace("-", " ") else f"{name} ({words})"
