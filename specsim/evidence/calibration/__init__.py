"""Probe timings -> a System, with its fit error.

`laps` fits stacks of products, attention and decoding cycles, which is all that a CPU needs;
`kernels` fits a GPU's products and attention one by one, in tables, before the same laps; `files`
writes and reads the result.
"""

from specsim.evidence.calibration.files import from_json, load, to_json
from specsim.evidence.calibration.kernels import (
    CacheProbe,
    KernelProbes,
    ProductProbe,
    fit_kernels,
    probes_to_json,
)
from specsim.evidence.calibration.laps import (
    AttentionProbe,
    Calibration,
    LapProbe,
    LinearProbe,
    Probes,
    attention_rates,
    explained,
    fit,
    kernel_overhead,
    non_negative_fit,
    non_negative_least_squares,
    weight_efficiency,
    with_overheads,
)

__all__ = [
    "AttentionProbe",
    "CacheProbe",
    "Calibration",
    "KernelProbes",
    "LapProbe",
    "LinearProbe",
    "Probes",
    "ProductProbe",
    "attention_rates",
    "explained",
    "fit",
    "fit_kernels",
    "from_json",
    "kernel_overhead",
    "load",
    "non_negative_fit",
    "non_negative_least_squares",
    "probes_to_json",
    "to_json",
    "weight_efficiency",
    "with_overheads",
]
