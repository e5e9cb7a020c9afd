"""What a pass takes: work x system -> seconds, and the ledger of a cycle.

`roofline` prices one pass operator by operator, `placement` where its layers lie, `passes` one pass
or very many at once, and `ledger` adds up the passes and waits of a cycle.
"""

from specsim.cost.ledger import Entry, Ledger, Product, Wait
from specsim.cost.passes import ModelPass
from specsim.cost.placement import step_time
from specsim.cost.roofline import BOUNDS, ForwardTime, Term, forward_time

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
    "step_time",
]
