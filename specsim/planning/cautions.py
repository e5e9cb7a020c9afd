"""Where a prediction may be trusted less: a sentence for each reason, guesses first.

Each reason is a fact of the catalog that the numbers of a scenario go beyond. A prediction is a
*guess* where it rests on nothing that was measured on such a machine or with such a model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim import catalog
from specsim.architecture import Architecture, Experts, billions, mlps_of, tokenizer_of
from specsim.checks import ArrayLike
from specsim.drafting import Drafter, DraftModel, Eagle
from specsim.hardware import System
from specsim.prediction import FEW_ROWS

GPUS = ("datacentre-gpu", "workstation-gpu", "consumer-gpu")
KINDS = {
    "datacentre-gpu": "a data-centre GPU",
    "workstation-gpu": "a workstation's GPU",
    "consumer-gpu": "a consumer's GPU",
    "npu": "an accelerator for neural networks",
    "edge": "an edge device",
    "apple": "an Apple chip",
    "phone": "a phone",
    "tpu": "a TPU",
    "cpu": "a CPU",
}
# Formats that few accelerators compute in, and the ones that take their place.
NARROW = {"fp8": (), "fp4": ("fp8",), "int8": ()}
# Formats of one engine's files, whose kernels others lack or have as an experiment; and the engines
# that run these alone, beside what is not quantised.
FILES = {
    "GGUF": ("q8_0", "q4_0", "q4_k_m", "q4_k_s", "q2_k"),
    "MLX": ("mlx-8bit", "mlx-4bit"),
}
READS = {"llama.cpp": "GGUF", "llama.cpp-2024": "GGUF", "mlx": "MLX"}
UNQUANTISED = ("fp32", "bf16", "fp16")
EXPERTS_ALONE = "mxfp4-moe"
ONLY_NVIDIA = ("tensorrt-llm",)  # engines that run on no other maker's chips
OTHER_MAKERS = (
    "alchemist",
    "battlemage",
    "cdna",
    "rdna",
    "gaudi",
    "apple",
    "tpu",
    "arm-soc",
    "x86",
)
NEAR = 2.0  # sizes and contexts within this factor of a row's count as inside its range


@dataclass(frozen=True, slots=True)
class Caution:
    """A sentence, and whether the prediction is a guess for this reason."""

    sentence: str
    guess: bool = False


def find_cautions(
    target: Architecture,
    system: System,
    drafter: Drafter | None = None,
    *,
    batch: ArrayLike = 1,
    context: ArrayLike = 1024,
    gamma: ArrayLike = 0,
) -> list[Caution]:
    """What the catalog says against trusting a prediction in full, guesses first; empty if nothing.

    Of arrays of batches, contexts or gammas, the largest counts.
    """
    most = {"batch": int(np.max(batch)), "context": int(np.max(context))}
    found = [
        *about_models(target, drafter, most["context"]),
        *about_machine(system),
        *about_arithmetic(target, system),
        *about_formats(target, system),
        *about_speculation(system, drafter, np.asarray(batch), np.asarray(gamma)),
        *about_graphs(system, np.asarray(batch) * (np.asarray(gamma) + 1)),
        *about_range(target, system, batch=np.asarray(batch), context=most["context"]),
    ]
    return sorted(found, key=lambda caution: not caution.guess)


def about_models(target: Architecture, drafter: Drafter | None, context: int) -> Iterator[Caution]:
    """A method that the target does not ship, a context beyond a model's, an unknown tokenizer."""
    if isinstance(drafter, Eagle) and drafter.own_layer and target.mtp_layers == 0:
        yield Caution(
            f"{target.name} ships no module that predicts a further token (MTP): the gain is that "
            "of a module which somebody would have to train.",
            guess=True,
        )
    models, drafts = [target], []
    if isinstance(drafter, DraftModel):
        draft = drafter.architecture
        drafts.append(draft)
        if drafter.window is None:
            models.append(draft)
        if None in (tokenizer_of(draft), tokenizer_of(target)):
            yield Caution(
                f"Whether {draft.name} shares the tokenizer of {target.name} is unknown: only the "
                "sizes of their vocabularies were compared."
            )
    for model in (target, *drafts):
        if model.read_as is not None:
            yield Caution(f"{model.name}: {model.read_as}", guess=True)
    for model in models:
        if context > model.max_context:
            yield Caution(
                f"{model.name} was made for {model.max_context:,} tokens, and {context:,} are "
                "priced: the times hold, but not the acceptance, nor the quality of the text."
            )


def about_machine(system: System) -> Iterator[Caution]:
    """An engine that was never fitted on that kind of machine, more devices than fast links."""
    accelerator, rows = system.accelerator, fitted_on(system)
    if rows is not None and accelerator.kind is not None:
        kinds = rows["kinds"]
        known = accelerator.kind in kinds or (
            accelerator.kind in GPUS and any(kind in GPUS for kind in kinds)
        )
        if not known:
            yield Caution(
                f"No measurement of {system.engine.name} is from "
                f"{KINDS.get(accelerator.kind, accelerator.kind)} like {accelerator.name}: its "
                f"constants come from {', '.join(rows['families'])}.",
                guess=True,
            )
        elif accelerator.family not in rows["families"]:
            yield Caution(
                f"No measurement of {system.engine.name} is from {accelerator.family}: its "
                f"constants come from {', '.join(rows['families'])}."
            )
    family = accelerator.family or ""
    if system.engine.name in ONLY_NVIDIA and family.startswith(OTHER_MAKERS):
        yield Caution(
            f"{system.engine.name} runs on NVIDIA's GPUs alone, and {accelerator.name} is none.",
            guess=True,
        )
    joined = accelerator.link_devices
    if joined is not None and system.tensor_parallel > joined:
        yield Caution(
            f"The fast links of {accelerator.name} join {joined} devices, and "
            f"{system.tensor_parallel} are priced as if they joined all: much too fast, if the "
            "others are reached over a network.",
            guess=True,
        )


def about_arithmetic(target: Architecture, system: System) -> Iterator[Caution]:
    """A format of weights and activations for which the accelerator has no arithmetic."""
    chip, math = system.accelerator, system.storing(target).precision.math
    if math in NARROW and chip.flops_per_s and math not in chip.flops_per_s:
        wider = next((name for name in NARROW[math] if name in chip.flops_per_s), "16 bits")
        yield Caution(
            f"No {math} arithmetic on {chip.name}: products are priced in {wider}. Does the "
            "engine support such weights there?"
        )


def about_formats(target: Architecture, system: System) -> Iterator[Caution]:
    """A format that stores experts alone, for a model without any; one that the engine is not known
    to run."""
    engine, name = system.engine.name, system.storing(target).precision.name
    if name == EXPERTS_ALONE:
        if not any(isinstance(mlp, Experts) for mlp, _ in mlps_of(target)):
            yield Caution(
                f"{target.name} has no experts, and {name} stores nothing but experts in fewer "
                "bits: all its weights are priced in 16 bits.",
                guess=True,
            )
        return
    if engine not in catalog.load("engines") or engine == "ideal":
        return
    own = READS.get(engine)
    kind = next((kind for kind, names in FILES.items() if name in names), None)
    if kind is not None and kind != own:
        yield Caution(
            f"{name} is a format of {kind} files, and {engine} is not known to run it at this "
            "speed, or at all.",
            guess=True,
        )
    elif own is not None and kind is None and name not in UNQUANTISED:
        yield Caution(
            f"{engine} is not known to run {name}: its {own} files have {', '.join(FILES[own])}.",
            guess=True,
        )


def about_speculation(
    system: System, drafter: Drafter | None, batch: Any, gamma: Any
) -> Iterator[Caution]:
    """An unknown arithmetic rate, an engine whose speculation was never measured, or never on such
    a machine."""
    if drafter is None or not np.any(gamma > 0):
        return
    chip, engine = system.accelerator, system.engine.name
    if np.isinf(chip.rate(system.precision.activation_math)) and np.any(
        (gamma > 0) & (batch * (gamma + 1) > FEW_ROWS)
    ):
        yield Caution(
            f"Cannot tell what speculation gains: the arithmetic rate of {chip.name} is not "
            f"published, and a verification of more than {FEW_ROWS} rows may be bound by it. "
            "Measure a pass of several rows there.",
            guess=True,
        )
    if engine not in catalog.load("engines") or engine == "ideal":
        return
    kinds = catalog.load("engines")[engine].get("speculated_on")
    if kinds is None:
        yield Caution(
            f"No published speedup of {engine} states its inputs: what speculation costs it beside "
            "the passes is assumed, and the band is that of engines left out of the fit."
        )
    elif chip.kind is not None and chip.kind not in kinds:
        measured = " and ".join(KINDS.get(kind, kind) for kind in kinds)
        yield Caution(
            f"Every published speedup of {engine} is from {measured}: what speculation costs it "
            f"on {KINDS.get(chip.kind, chip.kind)} is taken from there."
        )


def about_graphs(system: System, tokens: ArrayLike) -> Iterator[Caution]:
    """A pass of more `tokens` than the engine records as a CUDA graph."""
    captured = captured_tokens(system)
    widest = int(np.max(tokens))
    if captured is not None and widest > captured:
        yield Caution(
            f"A pass of {widest:,} tokens, batch × (γ + 1), is wider than {system.engine.name} "
            f"records as a CUDA graph unless told otherwise ({captured}): it is slower than priced."
        )


def captured_tokens(system: System) -> int | None:
    """Tokens of the widest pass that the engine records by default; None where unknown."""
    found: int | None = catalog.load("launch").get(system.engine.name, {}).get("captured")
    return found


def about_range(
    target: Architecture, system: System, *, batch: Any, context: int
) -> Iterator[Caution]:
    """A scenario outside the range of the published rows that the engine was fitted to."""
    rows = fitted_on(system)
    if rows is None or "batch" not in rows:
        return
    outside = []
    size = target.parameters / 1e9
    for label, values, factor, (low, high) in (
        (billions(target.parameters) + " parameters", [size], NEAR, rows["billions"]),
        ("a batch of {:,.0f}", [np.min(batch), np.max(batch)], 1.0, rows["batch"]),
        ("a context of {:,.0f} tokens", [context], NEAR, rows["context"]),
    ):
        beyond = [v for v in values if not low / factor <= v <= high * factor]
        if beyond:
            measured = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            outside.append(f"{label.format(beyond[-1])} ({measured} measured)")
    if outside:
        yield Caution(
            f"Outside the rows that {system.engine.name} was fitted to: {', '.join(outside)}."
        )


def fitted_on(system: System) -> catalog.Row | None:
    """The ranges of the published rows behind an engine of the catalog, or behind the relative
    whose constants it takes; None for an engine without any, and for a calibration."""
    engines = catalog.load("engines")
    name = system.engine.name
    while name in engines:
        row = engines[name]
        if "fitted_on" in row:
            found: catalog.Row = row["fitted_on"]
            return found
        name = row.get("like", "")
    return None
