"""What one forward pass must move and compute, operator by operator: counts, no machine.

Width is the unit. A draft step, a plain decode step and a verification are the same function of
(model, batch, rows per sequence, context); verifying gamma drafts is a pass of gamma + 1 rows.
Weights are read once per pass, keys and values once per sequence whatever the rows, FLOPs grow with
the rows.
"""

from specsim.work.experts import distinct_experts
from specsim.work.formats import PRECISIONS, Precision, precision, require_positive
from specsim.work.forward import forward_work
from specsim.work.operators import (
    ATTENTION,
    COLLECTIVE,
    ELEMENTWISE,
    LINEAR,
    ForwardWork,
    Operator,
)
from specsim.work.sharding import Sharding, require_even_split

__all__ = [
    "ATTENTION",
    "COLLECTIVE",
    "ELEMENTWISE",
    "LINEAR",
    "PRECISIONS",
    "ForwardWork",
    "Operator",
    "Precision",
    "Sharding",
    "distinct_experts",
    "forward_work",
    "precision",
    "require_even_split",
    "require_positive",
]
