"""The models and machines that the questions are about, on the roofline unless said otherwise."""

from dataclasses import replace
from typing import Any

from specsim.architecture import Architecture, model
from specsim.hardware import Accelerator, Engine, System, accelerator, catalog_engine
from specsim.operators import PRECISIONS, Precision
from specsim.prediction import Prediction
from specsim.speculation import predict

LLAMA_70B, LLAMA_8B = model("llama-3-70b"), model("llama-3-8b")
LLAMA_1B = model("llama-3.2-1b")
BF16 = PRECISIONS["bf16"]
GB, GIB = 1e9, 2.0**30

WITHOUT_CONTEXT = 1  # the shortest context there is: its cache is a millionth of the weights


def roofline(chip: str | Accelerator, precision: str = "bf16", devices: int = 1) -> System:
    """A chip as its datasheet has it: full bandwidth, full dense rate, no overhead."""
    found = accelerator(chip) if isinstance(chip, str) else chip
    return System(found, catalog_engine("ideal", precision), PRECISIONS[precision], devices)


H100 = roofline("h100-sxm")


def streamed_bytes(shape: Architecture, bytes_per_weight: float = 2.0) -> float:
    """Weights that a pass reads: all but the embedding, of which a row per token is gathered. A
    tied table is read once, as the LM head."""
    gathered = 0 if shape.tied_head else shape.embedding_parameters
    return bytes_per_weight * (shape.parameters - gathered)


def plain(shape: Architecture, system: System, **scenario: Any) -> Prediction:
    """A plain decode step, at a context of next to nothing unless said otherwise."""
    return predict(shape, None, system, **({"context": WITHOUT_CONTEXT} | scenario))


def of_bandwidth(system: System, share: float) -> System:
    """The same machine where weights and cache arrive at `share` of its bandwidth."""
    engine = replace(system.engine, weight_efficiency=share, kv_efficiency=share)
    return replace(system, engine=engine)


def with_link(system: System, latency_s: float, bytes_per_s: float) -> System:
    """The same machine with other links between its devices."""
    chip = replace(system.accelerator, link_latency_s=latency_s, link_bytes_per_s=bytes_per_s)
    return replace(system, accelerator=chip)


def toy(name: str, parameters: float) -> Architecture:
    """A model that is next to nothing but one matrix of so many parameters (its LM head)."""
    return Architecture(name, round(parameters / 1e6), 1, 1, 1, 2, 1, 1_000_000)


def toy_machine(bandwidth_bytes_per_s: float, flops_per_s: float) -> System:
    """A chip of two numbers; caches take nothing."""
    stored: Precision = replace(BF16, kv_bytes=0.0)
    return System(
        Accelerator("chip", bandwidth_bytes_per_s, {"bf16": flops_per_s}), Engine("toy"), stored
    )
