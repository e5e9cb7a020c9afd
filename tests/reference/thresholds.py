"""Where a test of a uniform number stops holding: what the exact checkers of the rules share."""

from collections.abc import Callable

import torch
from torch import Tensor

ROWS_AT_ONCE = 3000  # about where a call of a rule begins to take longer for more rows


def last_u_where(
    holds: Callable[[Tensor], Tensor], tests: int, bisections: int, rows: int = 1
) -> Tensor:
    """Where in [0, 1] each of so many `tests` stops holding; it holds up to some u, not after.

    `holds` is asked at several u at once, (tests, K): bisection, in two to sixteen parts at a time,
    as a call of a few rows takes as long as one of many. A test at one u needs so many `rows`.
    """
    bits = next(n for n in (4, 3, 2, 1) if n == 1 or (2**n - 1) * tests * rows <= ROWS_AT_ONCE)
    low, width = torch.zeros((tests, 1), dtype=torch.float64), 1.0
    for _ in range(-(-bisections // bits)):
        width /= 2**bits  # exact, as every u is
        held = holds(low + width * torch.arange(1, 2**bits))
        low += width * held.long().cumprod(1).sum(1, keepdim=True)
    return (low + width / 2).squeeze(1)
