"""The models and systems that the questions are about, on the roofline unless said otherwise."""

from dataclasses import replace
from typing import Any

from specsim import architecture
from specsim.architecture import Architecture
from specsim.hardware import Accelerator, Engine, System, accelerator, catalog_engine
from specsim.operators import PRECISIONS, Precision
from specsim.prediction import Prediction
from specsim.speculation import predict

LLAMA_70B, LLAMA_8B, LLAMA_1B = map(
    architecture.model, ("llama-3-70b", "llama-3-8b", "llama-3.2-1b")
)
BF16 = PRECISIONS["bf16"]
GB, GIB = 1e9, 2.0**30

WITHOUT_CONTEXT = 1  # the shortest possible context: its cache is a millionth of the weights


def roofline(device: str | Accelerator, precision: str = "bf16", devices: int = 1) -> System:
    """An accelerator at its datasheet's full bandwidth and full dense FLOP/s, without overhead."""
    found = accelerator(device) if isinstance(device, str) else device
    return System(found, catalog_engine("ideal", precision), PRECISIONS[precision], devices)


H100 = roofline("h100-sxm")


def streamed_bytes(model: Architecture, bytes_per_weight: float = 2.0) -> float:
    """The bytes of weights that a pass reads: all but the embedding table, of which it reads one
    row per token. A tied table is read once, as the LM head."""
    gathered = 0 if model.tied_head else model.embedding_parameters
    return bytes_per_weight * (model.parameters - gathered)


def plain(model: Architecture, system: System, **scenario: Any) -> Prediction:
    """A plain decode step, at a context of one token unless said otherwise."""
    return predict(model, None, system, **({"context": WITHOUT_CONTEXT} | scenario))


def of_bandwidth(system: System, share: float) -> System:
    """The same system, reading weights and cache at `share` of its bandwidth."""
    engine = replace(system.engine, weight_efficiency=share, kv_efficiency=share)
    return replace(system, engine=engine)


def with_link(system: System, latency_s: float, bytes_per_s: float) -> System:
    """The same system with other links between its devices."""
    device = replace(system.accelerator, link_latency_s=latency_s, link_bytes_per_s=bytes_per_s)
    return replace(system, accelerator=device)


def toy(name: str, parameters: float) -> Architecture:
    """A model of about one matrix with this many parameters (its LM head)."""
    return Architecture(name, round(parameters / 1e6), 1, 1, 1, 2, 1, 1_000_000)


def toy_system(bandwidth_bytes_per_s: float, flops_per_s: float) -> System:
    """A system of two numbers, bandwidth and FLOP/s; the KV cache takes no bytes."""
    stored: Precision = replace(BF16, kv_bytes=0.0)
    return System(
        Accelerator("toy", bandwidth_bytes_per_s, {"bf16": flops_per_s}), Engine("toy"), stored
    )
