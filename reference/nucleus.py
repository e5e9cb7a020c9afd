"""The nucleus of a distribution over a large vocabulary, without sorting all of it.

To sort 131,072 logits takes a CPU longer than many a forward pass of a draft model. The nucleus of
top-p sampling is mostly a small part of them, which is found by a selection and then sorted. Where
it is larger the whole row is sorted, so the tokens that are kept are always the same.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

WIDE = 4096  # tokens of a vocabulary; of so many or more, the likeliest are sorted first,
FEWER = 32  # which are so many times fewer


def may_choose(logits: Tensor) -> bool:
    """Whether code may branch on `logits`: a GPU would have to wait for them, and compiled code is
    cut where it branches."""
    return logits.is_cpu and not torch.compiler.is_compiling()


def nucleus_of_few(
    logits: Tensor,
    top_p: float | Tensor,
    reaching: Callable[[Tensor, Tensor, Tensor, float | Tensor], Tensor],
) -> Tensor:
    """What `keep_nucleus` returns for `logits` (..., V), from the likeliest V / 32 tokens of every
    row, and from all tokens of a row where these do not hold its nucleus.

    `reaching` masks the tokens that are too late in an order, see `sampling`. The nucleus is found
    if it ends above the least likely of the few, because a token that equals that one may be
    missing among them. A row with NaN has no such end.
    """
    few = logits.topk(logits.shape[-1] // FEWER, sorted=False).indices
    few = few.sort(-1).values  # so that of equal logits the lowest id comes first
    ordered, order = logits.gather(-1, few).sort(dim=-1, descending=True, stable=True)
    order = few.gather(-1, order)
    nucleus = reaching(logits, ordered, order, top_p)
    is_dropped = nucleus.gather(-1, order) == -math.inf
    missed = ~(is_dropped | (ordered > ordered[..., -1:])).all(-1)
    if missed.any():
        if isinstance(top_p, Tensor):
            top_p = top_p.expand_as(logits[..., :1])[missed]
        rest = logits[missed]
        whole = rest.sort(dim=-1, descending=True, stable=True)
        nucleus[missed] = reaching(rest, whole.values, whole.indices, top_p)
    return nucleus
