"""The accelerator: what its datasheet says, bytes and FLOP per second, nothing of the software."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specsim import catalog
from specsim.checks import (
    Floats,
    SpecsimError,
    quoted,
    require_positive,
    require_size,
    require_text,
)
from specsim.checks.shown import Shown, gigabytes, short

# What links devices where the catalog knows no link, assumed and on the careful side: cards that
# share a host its PCIe 3.0 x16, both directions together; whole computers (Apple's, phones, boards,
# CPUs) a network of 10 Gbit/s. With it, the seconds of an all-reduce of a few bytes.
CARDS = ("datacentre-gpu", "workstation-gpu", "consumer-gpu", "npu", "tpu")
PCIE_BYTES_PER_S = 32e9
PCIE_LATENCY_S = 20e-6
NETWORK_BYTES_PER_S, NETWORK_LATENCY_S = 2.5e9, 100e-6


@dataclass(frozen=True, slots=True, repr=False)
class Accelerator(Shown):
    """Datasheet values: bytes, bytes per second, dense FLOP per second by the arithmetic's name.

    `None` or absent is unknown. The bandwidth may be an array, as everything that is asked may be.
    """

    name: str
    bandwidth_bytes_per_s: float | Floats
    flops_per_s: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: float | None = None
    confidence: str = "measured"
    family: str | None = None  # "hopper", "apple": what an engine's constants may depend on
    kind: str | None = None  # "datacentre-gpu", "edge"
    # to its peers, both directions together; `link_rate` is what counts where it is unknown
    link_bytes_per_s: float | None = None
    link_latency_s: float = 5e-6  # of an all-reduce of a few bytes
    l2_bytes: float | None = None  # the last cache before the memory
    link_devices: int | None = None  # that its fast links join; None where nobody said

    def __post_init__(self) -> None:
        for name in ("name", "confidence", "family", "kind"):
            if (text := getattr(self, name)) is not None or name in ("name", "confidence"):
                require_text(f"accelerator: {name}", text)
        if not isinstance(self.flops_per_s, Mapping):
            raise SpecsimError(
                f"{self.name}: flops_per_s must be a table, not {quoted(self.flops_per_s)}"
            )
        require_positive(f"{self.name}: bandwidth_bytes_per_s", self.bandwidth_bytes_per_s)
        for math, rate in self.flops_per_s.items():
            require_positive(f"{self.name}: flops_per_s of {math}", rate)
        for name in ("memory_bytes", "link_bytes_per_s", "l2_bytes"):
            if getattr(self, name) is not None:
                require_positive(f"{self.name}: {name}", getattr(self, name))
        if self.link_devices is not None:
            require_size(f"{self.name}: link_devices", self.link_devices)
        require_positive(f"{self.name}: link_latency_s", self.link_latency_s, or_zero=True)

    @property
    def has_peers(self) -> bool:
        """Whether several of them are known to share a model: they are linked, or cards."""
        return self.link_bytes_per_s is not None or self.kind in CARDS

    @property
    def link_rate(self) -> float | Floats:
        """Bytes per second to its peers, both directions together; assumed where unknown."""
        if self.link_bytes_per_s is not None:
            return self.link_bytes_per_s
        return PCIE_BYTES_PER_S if self.has_peers else NETWORK_BYTES_PER_S

    @property
    def is_host(self) -> bool:
        """Whether it launches its own kernels, as a CPU does: then launching adds to computing."""
        return self.kind == "cpu"

    def rate(self, math: str) -> float:
        """Dense FLOP/s of the arithmetic called `math`; infinite, never the bound, if unknown."""
        # without a unit for a format, the operands are converted to the next wider one there is
        wider = ("fp4", "fp8", "bf16", "fp16", "bf16", "fp32")
        candidates = wider[wider.index(math) :] if math in wider else (math,)
        if math == "int8":
            candidates += wider[2:]
        known = (self.flops_per_s[name] for name in candidates if name in self.flops_per_s)
        return next(known, float("inf"))

    def _facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "bandwidth": f"{short(np.asarray(self.bandwidth_bytes_per_s) / 1e9)} GB/s",
            "bf16": f"{short(np.asarray(self.rate('bf16')) / 1e12)} TFLOP/s",
            "memory": "unknown" if self.memory_bytes is None else gigabytes(self.memory_bytes),
        }


def accelerator(name: str) -> Accelerator:
    """The accelerator called `name` in the catalog; SpecsimError with the nearest names if none."""
    row = catalog.lookup("accelerators", name)
    latency_s = PCIE_LATENCY_S if row.get("kind") in CARDS else NETWORK_LATENCY_S
    return Accelerator(
        name=catalog.resolve("accelerators", name),
        bandwidth_bytes_per_s=row["bandwidth_bytes_per_s"],
        flops_per_s=dict(row.get("flops_per_s", {})),
        memory_bytes=row.get("memory_bytes"),
        confidence=row["confidence"],
        family=row.get("family"),
        kind=row.get("kind"),
        link_bytes_per_s=row.get("link_bytes_per_s"),
        link_latency_s=row.get("link_latency_s", latency_s),
        l2_bytes=row.get("l2_bytes"),
        link_devices=row.get("link_devices"),
    )
