"""Layers that lie in host memory and are computed by the host's CPU: who can do that, and how fast.

llama.cpp holds the last layers of a model and its LM head on the accelerator, and the first ones,
with their cache, on the host (`-ngl`). What a host reaches was measured on one desktop, so the
constants here are assumed for every other.
"""

from collections.abc import Mapping
from dataclasses import replace

from specsim.checks import SpecsimError
from specsim.checks.limits import require_limit
from specsim.hardware.accelerators import CARDS, Accelerator, accelerator
from specsim.hardware.engines import Engine

DEFAULT_HOST = "ryzen-9-7950x"  # a desktop with two channels of DDR5, assumed
OFFLOADING = ("llama.cpp", "llama.cpp-2024")  # engines whose layers the host can compute
# Of the host's fp32 vector rate, by format: quantised weights multiply as int8 in vector units, and
# llama.cpp has no use for a 16-bit rate. LLaMA-3.1-8B on a Ryzen 9 7950X, 16 threads, pp512 of
# llama.cpp build 4384: 108 tokens/s in Q4_K_S, 154 in Q4_0, 148 in Q8_0, 79 in BF16
# (ikawrakow/ik_llama.cpp discussion #164). Optimistic for formats below 4 bits (Q3_K_S: 85).
COMPUTE_EFFICIENCY: Mapping[str, float] = {
    "default": 0.68, "q4_0": 0.98, "q8_0": 0.95, "fp16": 0.49, "bf16": 0.49, "fp32": 0.49,
}  # fmt: skip
# Of the host's bandwidth: 4.05 tokens/s of 15.0 GB in BF16, the same source.
WEIGHT_EFFICIENCY = 0.73
# From how times rise with the context in llama.cpp build 5635 on the same machine (ik_llama.cpp
# PR #518): 2,048 tokens more add 7.65 ms to a step and 1.41 s to 512 rows.
KV_EFFICIENCY = 0.42
ATTENTION_COMPUTE_EFFICIENCY = 0.17
MATHS = ("fp32", "fp16", "bf16", "fp8", "fp4", "int8", "int4")


def host_named(name: str | None) -> Accelerator:
    """The CPU of the catalog called `name`; None is the assumed desktop.

    Raises SpecsimError for an unknown name, and for an accelerator that is no CPU.
    """
    found = accelerator(DEFAULT_HOST if name is None else name)
    require_cpu(found)
    return found


def require_cpu(host: Accelerator) -> None:
    """SpecsimError unless `host` is a CPU whose vector rate is known."""
    if not host.is_host:
        raise SpecsimError(
            f"the host must be a CPU ({DEFAULT_HOST}, core-i9-14900k, …), not {host.name}"
        )
    if "fp32" not in host.flops_per_s:
        raise SpecsimError(f"no fp32 rate of the host {host.name} is known")


def require_offloadable(
    layers: object, chip: Accelerator, engine: Engine, devices: int, host: object
) -> None:
    """SpecsimError unless `engine` can leave `layers` of a model on chip's `host`."""
    require_limit("layers", layers, "offloaded layers")  # type: ignore[arg-type]
    if not isinstance(layers, int) or isinstance(layers, bool) or layers < 0:
        raise SpecsimError(f"offloaded layers must be a whole number >= 0, not {layers!r}")
    if host is not None and not isinstance(host, Accelerator):
        raise SpecsimError(f"the host must be an Accelerator, not {type(host).__name__}")
    if not layers:
        return
    if engine.name == "mlx" or (chip.kind not in CARDS and chip.kind is not None):
        whose = "mlx runs on" if engine.name == "mlx" else f"{chip.name} has"
        raise SpecsimError(
            f"{whose} one memory for CPU and accelerator: leaving layers to the host gains nothing"
        )
    if engine.name not in OFFLOADING:
        raise SpecsimError(
            f"{engine.name} cannot leave layers to the host; engines that can: "
            f"{', '.join(OFFLOADING)}"
        )
    if devices > 1:
        raise SpecsimError(f"layers left to a host are priced for one accelerator, not {devices}")
    if isinstance(host, Accelerator):
        require_cpu(host)


def vector_host(host: Accelerator) -> Accelerator:
    """The host as llama.cpp uses it: every arithmetic at its fp32 vector rate."""
    return replace(host, flops_per_s=dict.fromkeys(MATHS, host.rate("fp32")))


def host_engine(name: str, precision: str, source: Engine) -> Engine:
    """What llama.cpp reaches of a CPU with weights in `precision`; its band is that of `source`.

    Every further row of a pass computes again, from the second on; the first is in the weights'
    efficiency. The small kernels are in the efficiencies of the products (measured end to end).
    """
    reached = COMPUTE_EFFICIENCY.get(precision, COMPUTE_EFFICIENCY["default"])
    return Engine(
        name=name,
        weight_efficiency=WEIGHT_EFFICIENCY,
        compute_efficiency=reached,
        vector_efficiency=reached,
        vector_rows=1e15,  # a CPU has no other units, whatever the width
        kv_efficiency=KV_EFFICIENCY,
        attention_compute_efficiency=ATTENTION_COMPUTE_EFFICIENCY,
        error=source.error,
        overhead_error=source.overhead_error,
        source="ikawrakow/ik_llama.cpp discussion #164 and PR #518: llama.cpp on a Ryzen 9 7950X",
    )
