"""Timings of probes on this machine -> a fitted System, with its fit error.

| module | what it does |
|---|---|
| `probes` | what was timed on a CPU: stacks of matrix products, attention, stages of cycles |
| `timings` | fits a CPU to them, and says how stable it was |
| `overheads` | fits what is neither products nor attention, from the stages of decoding cycles |
| `regression` | fits without negative coefficients |
| `kernels` | fits a GPU: each matrix product and attention kernel in a table, then the stages |
| `files` | writes and reads a calibration file, and a file of a GPU's timings |
"""

from specsim.evidence.calibration.files import (
    from_json,
    load,
    load_probes,
    probes_from_json,
    probes_to_json,
    to_json,
)
from specsim.evidence.calibration.kernels import (
    CacheProbe,
    KernelProbes,
    ProductProbe,
    fit_kernels,
)
from specsim.evidence.calibration.overheads import Calibration, explained, with_overheads
from specsim.evidence.calibration.probes import (
    AttentionProbe,
    LinearProbe,
    Probes,
    StageProbe,
)
from specsim.evidence.calibration.regression import non_negative_fit, non_negative_least_squares
from specsim.evidence.calibration.timings import (
    STABLE,
    attention_rates,
    fit,
    weight_efficiency,
)

__all__ = [
    "STABLE",
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
    "load",
    "load_probes",
    "non_negative_fit",
    "non_negative_least_squares",
    "probes_from_json",
    "probes_to_json",
    "to_json",
    "weight_efficiency",
    "with_overheads",
]
