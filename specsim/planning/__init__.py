"""What to set: the best gamma, up to which batch speculation pays, and what the answer hangs on.

| file | question |
|---|---|
| `gammas` | the best gamma three ways, for each batch, and the batch where it stops paying |
| `heads` | the published head that a command can name |
| `settings` | the same as vLLM, SGLang and TensorRT-LLM want it written |
| `launching` | the whole command that starts them with it |
| `server_settings` | what else such a command sets: cache, memory, limits |
| `cautions` | why a prediction may be trusted less |
| `elasticities` | which input moves the speedup most |
"""

from specsim.planning.cautions import Caution, captured_tokens, find_cautions
from specsim.planning.elasticities import sensitivity
from specsim.planning.gammas import (
    BATCHES,
    BestGamma,
    Crossover,
    Plan,
    best_gamma,
    closed_form,
    crossover,
    fixed_plan,
    marginal_rule,
    plan,
)
from specsim.planning.heads import published_head
from specsim.planning.launching import Deployment, Launch, launch
from specsim.planning.server_settings import ServerSettings
from specsim.planning.settings import ENGINES_WITH_SETTINGS, batch_ranges, engine_settings

__all__ = [
    "BATCHES",
    "ENGINES_WITH_SETTINGS",
    "BestGamma",
    "Caution",
    "Crossover",
    "Deployment",
    "Launch",
    "Plan",
    "ServerSettings",
    "batch_ranges",
    "best_gamma",
    "captured_tokens",
    "closed_form",
    "crossover",
    "engine_settings",
    "find_cautions",
    "fixed_plan",
    "launch",
    "marginal_rule",
    "plan",
    "published_head",
    "sensitivity",
]
