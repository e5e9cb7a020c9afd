"""What to set: the best gamma, up to which batch speculation pays, and what the answer hangs on.

| file | question |
|---|---|
| `gammas` | the best gamma three ways, for each batch, and the batch where it stops paying |
| `settings` | the same as vLLM, SGLang and TensorRT-LLM want it written |
| `sensitivity` | which input moves the speedup most |
"""

from specsim.planning.elasticities import sensitivity
from specsim.planning.gammas import (
    BATCHES,
    BestGamma,
    Crossover,
    Plan,
    best_gamma,
    closed_form,
    crossover,
    marginal_rule,
    plan,
)
from specsim.planning.settings import ENGINES_WITH_SETTINGS, batch_ranges, engine_settings

__all__ = [
    "BATCHES",
    "ENGINES_WITH_SETTINGS",
    "BestGamma",
    "Crossover",
    "Plan",
    "batch_ranges",
    "best_gamma",
    "closed_form",
    "crossover",
    "engine_settings",
    "marginal_rule",
    "plan",
    "sensitivity",
]
