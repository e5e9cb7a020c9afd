"""The accept rules of speculative decoding: pure functions of probabilities, no model in sight.

Speculative sampling (Leviathan et al., arXiv:2211.17192; Chen et al., arXiv:2302.01318): a drafted
token x ~ q is kept with probability min(1, p(x) / q(x)); at the first one that is not, a token is
drawn from the residual max(p - q, 0), normalised; if all are kept, a bonus token is drawn from the
target's next distribution. What is emitted then has exactly the target's distribution. Letters:
B batch, G drafted tokens (gamma), V vocabulary. Every function keeps the dtype it is given.

The rules, all with the same arguments (`RULES` has them by name):

    token     the above, one draft at a time; exact
    block     the drafts judged as a whole; exact, and never fewer are accepted
    match     the target draws its own tokens, and drafts are kept while they are the same; exact
    typical   every draft that is not improbable is kept; LOSSY

A sequence may have drafted fewer than G tokens: `counts` (B,) says how many, all G if it is None.
Later tokens are never kept, and the bonus token follows the last one that counts. Where a drafter
stops may depend on the tokens before the stop, but not on the token that is left out: that would
select drafts, and those left would not have the distribution q.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reference.sampling import draw


class Verdict(NamedTuple):
    """How many drafted tokens each sequence keeps, (B,), and the token that follows them, (B,)."""

    accepted: Tensor
    next_token: Tensor


def verify(
    target_probs: Tensor,
    draft_probs: Tensor | None,
    drafted: Tensor,
    uniforms: Tensor,
    counts: Tensor | None = None,
) -> Verdict:
    """Token-level speculative sampling.

    Arguments: `target_probs` (B, G+1, V) are the target's distributions at the drafted positions
    and after them; `draft_probs` (B, G, V) are those that `drafted` (B, G) were drawn from, or None
    if the drafts were not drawn (point masses). `uniforms` (B, G+1) in [0, 1) decide: one for each
    draft, the last for the token that follows.
    """
    accepted = leading_run(keeps(target_probs, draft_probs, drafted, uniforms[:, :-1]), counts)
    probs = next_probs(target_probs, draft_probs, drafted, accepted, counts)
    return Verdict(accepted, draw(probs, uniforms[:, -1]))


def keeps(
    target_probs: Tensor, draft_probs: Tensor | None, drafted: Tensor, uniforms: Tensor
) -> Tensor:
    """Whether each draft passes its own test, (B, G): u q(x) < p(x), strict, so that p(x) = 0 never
    passes."""
    p = target_probs.gather(-1, drafted[..., None]).squeeze(-1)
    if draft_probs is None:
        return uniforms < p
    q = draft_probs.gather(-1, drafted[..., None]).squeeze(-1)
    return uniforms * q < p


def leading_run(kept: Tensor, counts: Tensor | None = None) -> Tensor:
    """The number of drafts, of `counts` (B,), before the first one that fails, (B,)."""
    if counts is not None:
        kept = kept & (torch.arange(kept.shape[1], device=kept.device) < counts[:, None])
    return kept.cumprod(dim=1).sum(dim=1)


def next_probs(
    target_probs: Tensor,
    draft_probs: Tensor | None,
    drafted: Tensor,
    accepted: Tensor,
    counts: Tensor | None = None,
) -> Tensor:
    """The distribution (B, V) of the token after `accepted` drafts: the residual, or the target's
    own if all were accepted."""
    gamma = drafted.shape[1]
    if gamma == 0:
        return target_probs[:, 0]
    at = accepted[:, None, None].expand(-1, 1, target_probs.shape[-1])
    p = target_probs.gather(1, at).squeeze(1)
    rejected = accepted.clamp(max=gamma - 1)[:, None]  # the draft that failed, where there is one
    if draft_probs is None:
        q = torch.zeros_like(p).scatter_(1, drafted.gather(1, rejected), 1.0)
    else:
        q = draft_probs.gather(1, rejected[..., None].expand(-1, 1, p.shape[-1])).squeeze(1)
    failed = accepted < (gamma if counts is None else counts)
    return torch.where(failed[:, None], residual(p, q), p)


def residual(p: Tensor, q: Tensor) -> Tensor:
    """The distribution max(p - q, 0), normalised, of the token that replaces a rejected draft."""
    remaining = (p - q).clamp(min=0)
    mass = remaining.sum(-1, keepdim=True)
    # where rounding leaves no residual, p and q agree, and the limit is p itself
    return torch.where(mass > 0, remaining / mass.clamp(min=torch.finfo(p.dtype).tiny), p)


def verify_block(
    target_probs: Tensor,
    draft_probs: Tensor | None,
    drafted: Tensor,
    uniforms: Tensor,
    counts: Tensor | None = None,
) -> Verdict:
    """Block verification (Sun et al., arXiv:2403.10444): a draft that would fail on its own is
    kept if better drafts follow it.

    The longest prefix whose test u_i < h_i passes is kept (`block_chances`). Every prefix is
    tested; a failed test does not end the block. If i drafts are kept, the next token is drawn from
    max(P_i p - q, 0), normalised. For point masses this is the token rule, which is then used.
    """
    if draft_probs is None:
        return verify(target_probs, None, drafted, uniforms, counts)
    worth, chances = block_chances(target_probs, draft_probs, drafted)
    lengths = torch.arange(worth.shape[1], device=drafted.device)
    if counts is not None:  # a shorter block ends after its last draft that counts
        ends = lengths[1:] == counts[:, None]
        chances = torch.where(lengths[1:] <= counts[:, None], chances, 0).where(~ends, worth[:, 1:])
    passed = F.pad(uniforms[:, :-1] < chances, (1, 0), value=True)  # the empty prefix passes
    accepted = (lengths * passed).amax(1)
    probs = next_probs(worth[..., None] * target_probs, draft_probs, drafted, accepted, counts)
    return Verdict(accepted, draw(probs, uniforms[:, -1]))


def block_chances(
    target_probs: Tensor, draft_probs: Tensor, drafted: Tensor
) -> tuple[Tensor, Tensor]:
    """The weights P_0 … P_G (B, G+1) of the prefixes, and the probabilities h_1 … h_G (B, G) that
    their tests pass.

    P_0 = 1 and P_i = min(1, P_{i-1} p / q). With R_i, the mass of max(P_i p - q, 0) at the next
    position, h_i = R_i / (R_i + 1 - P_i); at the end h_G = P_G.
    """
    p = target_probs[:, :-1].gather(-1, drafted[..., None])
    q = draft_probs.gather(-1, drafted[..., None])
    ratios = (p / q.clamp(min=torch.finfo(q.dtype).tiny)).squeeze(-1)  # (B, G)
    worth = [torch.ones_like(target_probs[:, 0, 0])]
    for ratio in ratios.unbind(1):
        worth.append((worth[-1] * ratio).clamp(max=1))
    worth = torch.stack(worth, dim=1)
    inner = worth[:, 1:-1]  # P_1 … P_{G-1}
    excess = (inner[..., None] * target_probs[:, 1:-1] - draft_probs[:, 1:]).clamp(min=0).sum(-1)
    left = excess + 1 - inner
    # 0 / 0: the prefix is certain and p = q after it, so any probability is exact
    chances = torch.where(left > 0, excess / left, 1.0)
    return worth, torch.cat((chances, worth[:, 1:][:, -1:]), dim=1)


def verify_match(
    target_probs: Tensor,
    draft_probs: Tensor | None,
    drafted: Tensor,
    uniforms: Tensor,
    counts: Tensor | None = None,
) -> Verdict:
    """Sample and match: the target draws a token at every position, and drafts are kept while they
    equal those tokens.

    Only the target's draws are emitted, so the result is exact for any drafter, and q is not
    needed. `uniforms` (B, G+1), or (B, G+1, V) for a race (see `draw`), may be the drafter's own:
    more is accepted if both draw with the same numbers. If the numbers belong to positions in the
    text (`noise.SharedNoise`), the text does not depend on the drafter.
    """
    return verify_greedy(draw(target_probs, uniforms), drafted, counts)


def verify_typical(
    target_probs: Tensor,
    draft_probs: Tensor | None,
    drafted: Tensor,
    uniforms: Tensor,
    counts: Tensor | None = None,
    epsilon: float = 0.09,
    delta: float = 0.3,
) -> Verdict:
    """Typical acceptance (Medusa, arXiv:2401.10774), LOSSY: keep a draft if p(x) exceeds
    min(epsilon, delta exp(-entropy of p)), whatever q was.

    The token that follows is drawn from p. More drafts are accepted, but likely tokens come out too
    often and rare ones too seldom.
    """
    at_drafts = target_probs[:, :-1]
    p = at_drafts.gather(-1, drafted[..., None]).squeeze(-1)
    thresholds = (delta * torch.special.entr(at_drafts).sum(-1).neg().exp()).clamp(max=epsilon)
    accepted = leading_run(p > thresholds, counts)
    probs = next_probs(target_probs, torch.zeros_like(at_drafts), drafted, accepted)
    return Verdict(accepted, draw(probs, uniforms[:, -1]))


def verify_greedy(target_choices: Tensor, drafted: Tensor, counts: Tensor | None = None) -> Verdict:
    """Temperature 0: keep drafts while they equal the target's own choices (B, G+1), then take the
    target's."""
    accepted = leading_run(drafted == target_choices[:, :-1], counts)
    return Verdict(accepted, target_choices.gather(1, accepted[:, None]).squeeze(1))


RULES = {
    "token": verify,
    "block": verify_block,
    "match": verify_match,
    "typical": verify_typical,
}
LOSSLESS = frozenset(RULES) - {"typical"}
