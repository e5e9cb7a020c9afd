"""The accept rules of speculative decoding: pure functions of probabilities, no model in sight.

Speculative sampling (Leviathan et al., arXiv:2211.17192; Chen et al., arXiv:2302.01318): a drafted
token x ~ q is kept with probability min(1, p(x) / q(x)); at the first one that is not, a token is
drawn from the residual max(p - q, 0), normalised; if all are kept, a bonus token is drawn from the
target's next law. What is emitted then has exactly the target's law. Letters: B batch, G drafted
tokens (gamma), V vocabulary. Every function keeps the dtype it is given.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from reference.sampling import draw


class Verdict(NamedTuple):
    """How many drafted tokens each sequence keeps, (B,), and the token that follows them, (B,)."""

    accepted: Tensor
    next_token: Tensor


def verify(
    target_probs: Tensor, draft_probs: Tensor | None, drafted: Tensor, uniforms: Tensor
) -> Verdict:
    """Token-level speculative sampling.

    `target_probs` (B, G+1, V) are the target's laws at the drafted positions and after them,
    `draft_probs` (B, G, V) the laws that `drafted` (B, G) were drawn from, or None if they were
    chosen without chance (point masses). `uniforms` (B, G+1) in [0, 1) decide: one for each draft,
    the last for the token that follows.
    """
    accepted = leading_run(keeps(target_probs, draft_probs, drafted, uniforms[:, :-1]))
    law = following_law(target_probs, draft_probs, drafted, accepted)
    return Verdict(accepted, draw(law, uniforms[:, -1]))


def keeps(
    target_probs: Tensor, draft_probs: Tensor | None, drafted: Tensor, uniforms: Tensor
) -> Tensor:
    """Whether each draft passes its own test, (B, G): u q(x) < p(x), strict, so that p(x) = 0 never
    passes."""
    p = target_probs[:, :-1].gather(-1, drafted[..., None]).squeeze(-1)
    if draft_probs is None:
        return uniforms < p
    q = draft_probs.gather(-1, drafted[..., None]).squeeze(-1)
    return uniforms * q < p


def leading_run(kept: Tensor) -> Tensor:
    """The number of drafts before the first one that fails, (B,)."""
    return kept.long().cumprod(dim=1).sum(dim=1)


def following_law(
    target_probs: Tensor, draft_probs: Tensor | None, drafted: Tensor, accepted: Tensor
) -> Tensor:
    """The law (B, V) of the token after `accepted` drafts: the residual, or the bonus law if all
    were accepted."""
    at = accepted[:, None, None].expand(-1, 1, target_probs.shape[-1])
    p = target_probs.gather(1, at).squeeze(1)
    gamma = drafted.shape[1]
    if gamma == 0:
        return p
    rejected = accepted.clamp(max=gamma - 1)[
        :, None
    ]  # index of the draft that failed, where there is one
    if draft_probs is None:
        q = torch.zeros_like(p).scatter_(1, drafted.gather(1, rejected), 1.0)
    else:
        q = draft_probs.gather(1, rejected[..., None].expand(-1, 1, p.shape[-1])).squeeze(1)
    remaining = (p - q).clamp(min=0)
    mass = remaining.sum(-1, keepdim=True)
    # where rounding leaves no residual p and q agree, and p itself is the limit
    use_residual = (accepted < gamma)[:, None] & (mass > 0)
    return torch.where(use_residual, remaining / mass.clamp(min=torch.finfo(p.dtype).tiny), p)


def verify_greedy(target_choices: Tensor, drafted: Tensor) -> Verdict:
    """Temperature 0: keep drafts while they equal the target's own choices (B, G+1), then take the
    target's."""
    accepted = leading_run(drafted == target_choices[:, :-1])
    return Verdict(accepted, target_choices.gather(1, accepted[:, None]).squeeze(1))
