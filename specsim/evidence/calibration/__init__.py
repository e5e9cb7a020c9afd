"""Timings of probes on this machine -> a fitted System, with its fit error.

| module | what it does |
|---|---|
| `timings` | fits a CPU: stacks of matrix products, attention, the stages of decoding cycles |
| `kernels` | fits a GPU: each matrix product and attention kernel in a table, then the stages |
| `files` | writes and reads a calibration file |
"""

from specsim.evidence.calibration.files import from_json, load, to_json
from specsim.evidence.calibration.kernels import (
    CacheProbe,
    KernelProbes,
    ProductProbe,
    fit_kernels,
    probes_to_json,
)
from specsim.evidence.calibration.timings import (
    AttentionProbe,
    Calibration,
    LinearProbe,
    Probes,
    StageProbe,
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
    "LinearProbe",
    "Probes",
    "ProductProbe",
    "StageProbe",
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
