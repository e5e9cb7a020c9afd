"""What one forward pass must move and compute, operator by operator: counts, no seconds.

A draft step, a plain decode step and a verification are the same function of a model and a
`Workload` (batch, rows per sequence, context); verifying gamma drafts is a pass of gamma + 1 rows.
Weights are read once per pass, keys and values once per sequence whatever the rows, and FLOPs grow
with the rows.
"""

from specsim.operators.experts import distinct_experts
from specsim.operators.formats import AUTO, PRECISIONS, Precision, precision, precision_of
from specsim.operators.forward import forward_work
from specsim.operators.launches import head_norms
from specsim.operators.sharding import Sharding, require_even_split
from specsim.operators.storage import (
    body_bytes,
    cache_bytes,
    first_layers_bytes,
    stored_weight_bytes,
)
from specsim.operators.work import (
    ATTENTION,
    COLLECTIVE,
    ELEMENTWISE,
    LINEAR,
    ForwardWork,
    Operator,
)
from specsim.operators.workload import PLAIN_STEP, Workload

__all__ = [
    "ATTENTION",
    "AUTO",
    "COLLECTIVE",
    "ELEMENTWISE",
    "LINEAR",
    "PLAIN_STEP",
    "PRECISIONS",
    "ForwardWork",
    "Operator",
    "Precision",
    "Sharding",
    "Workload",
    "body_bytes",
    "cache_bytes",
    "distinct_experts",
    "first_layers_bytes",
    "forward_work",
    "head_norms",
    "precision",
    "precision_of",
    "require_even_split",
    "stored_weight_bytes",
]
