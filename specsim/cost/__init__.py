"""What a pass takes: work x system -> seconds, and the ledger of a cycle.

`roofline` prices one pass operator by operator, `passes` very many passes at once, and `ledger`
adds up the passes and waits of a cycle.
"""

from specsim.cost.ledger import Entry, Ledger, ModelPass, Product, Wait, model_pass
from specsim.cost.passes import pass_s
from specsim.cost.roofline import (
    BOUNDS,
    ForwardTime,
    Term,
    forward_time,
    step_time,
)

__all__ = [
    "BOUNDS",
    "Entry",
    "ForwardTime",
    "Ledger",
    "ModelPass",
    "Product",
    "Term",
    "Wait",
    "forward_time",
    "model_pass",
    "pass_s",
    "step_time",
]
