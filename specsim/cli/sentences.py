"""What a prediction rests on, in sentences."""

from collections.abc import Iterable, Sequence

import numpy as np

from specsim import catalog
from specsim.architecture import (
    Architecture,
    Attention,
    Mlp,
    Storage,
    mixers_of,
    mlps_of,
)
from specsim.drafting import DraftModel, TrainedHead
from specsim.hardware import System
from specsim.operators import AUTO, Precision
from specsim.planning import Caution
from specsim.scenario import Resolved

GUESS = "This is a guess."


def assumptions(found: Resolved, sequences: str, doubts: Sequence[Caution] = ()) -> list[str]:
    """What the numbers of a scenario rest on; `sequences` begins the first sentence. Of `doubts`,
    the cautions that hold, a guess comes before everything else."""
    guesses, others = doubted(doubts)
    return [*guesses, *others, *_rests_on(found, sequences)]


def doubted(doubts: Iterable[Caution]) -> tuple[list[str], list[str]]:
    """Cautions as sentences: those that call the numbers a guess, and the others."""
    doubts = list(doubts)
    guesses = [f"{GUESS} {doubt.sentence}" for doubt in doubts if doubt.guess]
    return guesses, [doubt.sentence for doubt in doubts if not doubt.guess]


def _rests_on(found: Resolved, sequences: str) -> list[str]:
    scenario, drafter, devices = found.scenario, found.drafter, found.scenario.tensor_parallel
    said = [
        f"{sequences} {scenario.context} tokens of KV cache each; "
        f"{'one device' if devices == 1 else f'{devices} devices'}.",
        "Weights are read once per pass, the KV cache once per sequence; the embedding is "
        "gathered, not streamed.",
    ]
    said += weights_of(found)
    if drafter is not None:
        said.append(
            "Every sequence advances by its own number of tokens; the bonus or correction token is "
            "counted."
        )
        if isinstance(drafter, DraftModel):
            said.append(
                "The draft keeps its own KV cache, and its first pass of a cycle reads two tokens."
            )
        devices_of_draft = scenario.draft_tensor_parallel or devices
        if drafter.extra_devices:
            own = "a device" if drafter.extra_devices == 1 else f"{drafter.extra_devices} devices"
            said.append(f"The draft has {own} of its own.")
        elif devices_of_draft != devices:
            said.append(
                f"The draft is split over {devices_of_draft} of the target's {devices} devices; "
                "the others wait while it drafts."
            )
        said += drafter.notes
        if (name := found.method) and (scenario.method is not None or name != "draft-model"):
            trust = catalog.lookup("methods", name)["confidence"]
            said.append(f"Parameters of the method {name} come from the catalog ({trust}).")
        said += rolling_back(found.target)
    engine, accelerator = found.system.engine, found.system.accelerator
    if engine.layer_launch_s or engine.pass_launch_s:
        launches = (
            f"Kernels are launched one by one, {engine.layer_launch_s * 1e6:.0f} us a layer and "
            f"{engine.pass_launch_s * 1e6:.0f} us a pass"
        )
        said.append(
            f"{launches}; the CPU that launches them also computes, so the launches add to the "
            "pass."
            if accelerator.is_host
            else f"{launches}, by a host that runs ahead: a pass takes the longer of that and its "
            "kernels."
        )
    said += offloading(found)
    said += unknowns(found.system)
    if not scenario.calibrated:
        said.append(
            f"Constants of the engine {scenario.engine} come from the catalog "
            f"({engine.confidence}), not from a measurement on this machine."
        )
    return said


def offloading(found: Resolved) -> list[str]:
    """What the host holds, how that is priced, and which way it errs."""
    system, target = found.system, found.target
    layers, host = system.offloaded_layers, system.host
    if host is None:
        return []
    held = float(found.footprint(gamma=0).host_bytes)
    on_accelerator = target.num_layers + 1 - layers  # with the LM head, as llama.cpp counts
    return [
        f"{layers} of {target.num_layers} layers lie in host memory, with their cache "
        f"({held / 1e9:.1f} GB for a batch of {found.scenario.batch}), and {host.name} computes "
        f"them ({float(np.max(host.bandwidth_bytes_per_s)) / 1e9:g} GB/s); all others, the LM head "
        f"and a draft are on the accelerator (llama.cpp: -ngl {on_accelerator}). A CPU that "
        "verifies several rows soon waits for its arithmetic, so drafts gain less.",
        "What a host reaches was measured on a Ryzen 9 7950X and is assumed for others. "
        "Optimistic: the host does nothing else, and few rows compute as fast as 512. Pessimistic: "
        "from 32 rows on, llama.cpp copies weights to the accelerator and multiplies there.",
    ]


def rolling_back(target: Architecture) -> list[str]:
    """What a verification costs where the target remembers more than keys and values."""
    said = []
    if target.state_bytes:
        said.append(
            f"{target.name} has recurrent layers, whose state cannot be cut back to the last "
            f"accepted token: a verification of gamma drafts writes gamma + 1 states of "
            f"{target.state_bytes / 1e6:.0f} MB for each sequence, and memory holds as many (vLLM; "
            "pessimistic for engines that compute states again)."
        )
    if any(isinstance(each, Attention) and each.indexer for each, _ in mixers_of(target)):
        said.append(
            "Sparse attention: each row of a verification reads tokens of its own choice, none in "
            "common with the others (pessimistic)."
        )
    return said


CLASSES = {
    "mlp": "MLPs", "attention": "attention", "recurrent": "linear attention", "experts": "experts",
    "shared": "shared experts", "head": "LM head", "table": "embedding",
}  # fmt: skip


def weights_of(found: Resolved) -> list[str]:
    """In which precision target and draft are priced, and what their checkpoints say."""
    scenario, used = found.scenario, found.system.precision
    said = [_weights(found.target, used, scenario.auto, "--precision", scenario.calibrated)]
    if isinstance(found.drafter, DraftModel) and scenario.draft is not None:
        draft, asked = found.drafter.architecture, found.drafter.precision
        own = found.drafter.priced_on(found.system).precision
        if draft.stored is not None or own.name != used.name:
            said.append(_weights(draft, own, asked == AUTO, "--draft-precision"))
    if isinstance(found.drafter, TrainedHead):
        head, asked = found.drafter.head.body, found.drafter.precision
        own = found.drafter.priced_on(found.system).precision
        said.append(_weights(head, own, asked in (None, AUTO), "--draft-precision"))
    return said


def _weights(
    model: Architecture, used: Precision, auto: bool, option: str, calibrated: bool = False
) -> str:
    stored = model.stored
    if stored is None:
        said = f"Weights of {model.name} in {used.name}"
        return f"{said}: its config names no quantisation." if auto else f"{said}."
    own = f"{stored.name} ({stored.source}: {stored.method})"
    if not auto:
        who = f"The {used.name} of the calibration" if calibrated else f"{option} {used.name}"
        if stored.refusal is not None:
            return f"{who} is priced; {model.name} says: {stored.refusal}."
        if stored.name == used.name:
            return f"{who} is priced with its usual scales; {model.name} itself says {own}."
        return f"{who} overrides what {model.name} says of itself, {own}."
    said = f"Weights of {model.name} as its own file says, {own}"
    if stored.formats:
        said += f": {_bits(model, stored)}"
    if stored.kv_bits is not None:
        said += f"; KV cache of {8 * used.kv_bytes:g} bits"
    return f"{said}."


def _bits(model: Architecture, stored: Storage) -> str:
    """The bits of each class of modules, those that are alike together."""
    alike: dict[str, list[str]] = {}
    has_mlps = any(isinstance(each, Mlp) for each, _ in mlps_of(model))
    for kind, bits, _ in stored.formats:
        if kind == "mlp" and not has_mlps:
            continue
        alike.setdefault(f"{bits:.4g}", []).append(CLASSES[kind])
    parts = [f"{bits} bits in {', '.join(kinds)}" for bits, kinds in alike.items()]
    return f"{'; '.join(parts)} (scales included)"


def guesses_first(sentences: Sequence[str]) -> tuple[list[str], list[str]]:
    """The sentences that call the numbers a guess, to be printed before them, and the others."""
    guesses = [each for each in sentences if each.startswith(GUESS)]
    return guesses, [each for each in sentences if each not in guesses]


def unknown_link(system: System) -> list[str]:
    """What is assumed of the link between several devices where nobody knows it."""
    accelerator = system.accelerator
    if system.tensor_parallel == 1 or accelerator.link_bytes_per_s is not None:
        return []
    return [
        f"No link between several {accelerator.name} is known. Assumed: "
        f"{accelerator.link_rate / 1e9:g} GB/s, both directions together, and "
        f"{accelerator.link_latency_s * 1e6:g} us per all-reduce, "
        f"{'as over PCIe 3.0' if accelerator.has_peers else 'as over a network of 10 Gbit/s'}."
    ]


def unknowns(system: System) -> list[str]:
    """What the catalog does not know about the accelerator, and which way that errs."""
    accelerator, math = system.accelerator, system.precision.math
    said = []
    if np.isinf(accelerator.rate(math)):
        said.append(
            f"Compute unknown: no {math} rate of {accelerator.name} is known, so arithmetic is "
            "never the bound (optimistic for large batches and long drafts)."
        )
    said += unknown_link(system)
    if accelerator.memory_bytes is None:
        said.append(
            f"The memory of {accelerator.name} is unknown, so nobody checks whether the scenario "
            "fits."
        )
    return said
