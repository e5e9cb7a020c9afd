"""The accept rules of trees: pure functions of probabilities, as exact as those of chains.

They walk down from the root. At a node with the target's law p its children are tried in turn
(SpecInfer, arXiv:2305.09781): child x, drawn from q, is kept with probability min(1, p(x) / q(x));
if it is not, p becomes the residual max(p - q, 0), normalised, for the next one. Where no child is
left the next token is drawn from what p has become. That has the target's law for any q that the
child was *really* drawn from, given its elder siblings:

    with replacement      q is the same for every sibling
    without replacement   q without the elder siblings, normalised: accepts more
    without chance        the likeliest children; each a point mass on itself

Letters: B batch, N nodes without the root, D depth, C most children of a node, V vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reference.sampling import draw
from reference.trees import Layout
from reference.verification import residual


class TreeVerdict(NamedTuple):
    """The walk: how many levels down it went, (B,), by which nodes, (B, D), and the token that
    follows, (B,). Behind the last node `path` repeats it."""

    accepted: Tensor
    path: Tensor
    next_token: Tensor


def verify_tree(
    target_probs: Tensor,
    draft_probs: Tensor | None,
    drafted: Tensor,
    uniforms: Tensor,
    layout: Layout,
) -> TreeVerdict:
    """Multi-round rejection down the tree.

    `target_probs` (B, N+1, V) are the target's laws after every node, the root first; `draft_probs`
    (B, N, V) the laws that `drafted` (B, N) were drawn from, each given its elder siblings, or None
    if they were chosen without chance. `uniforms` (B, N+1) in [0, 1): one for each draft's test,
    the last for the token that follows.
    """
    if draft_probs is None:
        return match_tree(target_probs, None, drafted, uniforms, layout)
    node = torch.zeros_like(drafted[:, 0]) if drafted.shape[1] else drafted.new_zeros(len(drafted))
    accepted, law, path = node, target_probs[:, 0], []
    for level in range(layout.depth):
        for child in row(layout.children, node).unbind(1):
            tried = (child > 0) & (accepted == level)
            draft = (child - 1).clamp(min=0)
            q, token = row(draft_probs, draft), row(drafted, draft)[:, None]
            ratio_test = (
                row(uniforms, draft) * q.gather(1, token)[:, 0] < law.gather(1, token)[:, 0]
            )
            kept = tried & ratio_test
            law = torch.where((tried & ~kept)[:, None], residual(law, q), law)
            law = torch.where(kept[:, None], row(target_probs, child), law)
            node = torch.where(kept, child, node)
            accepted = accepted + kept
        path.append(node)
    return TreeVerdict(accepted, stacked(path, node), draw(law, uniforms[:, -1]))


def match_tree(
    target_probs: Tensor,
    draft_probs: Tensor | None,
    drafted: Tensor,
    uniforms: Tensor,
    layout: Layout,
) -> TreeVerdict:
    """Sample and match: the target draws a token at every node; where it is among the children, the
    walk goes on.

    Exact for any children. For children chosen without chance it is also the multi-round rule
    itself: trying point masses in turn, with p(x) and then what is left of p, keeps each child
    with p(x) of the node, and so does one draw from p that looks for itself among them.
    `uniforms` (B, N+1), one for each node, the root first; or (B, D+1, V) for races (see `draw`),
    one for each place, shared by the nodes that stand there.
    """
    if uniforms.ndim == target_probs.ndim:
        uniforms = uniforms.gather(1, layout.depths[..., None].expand_as(target_probs))
    return follow(draw(target_probs, uniforms), drafted, layout)


def follow(choices: Tensor, drafted: Tensor, layout: Layout) -> TreeVerdict:
    """Walk down as long as a child is the target's own choice (B, N+1) at its parent; greedy
    decoding does nothing else."""
    node, path = choices.new_zeros(len(choices)), []
    tokens = F.pad(drafted, (1, 0))  # (B, N+1); the root's is never asked for
    beyond = choices.shape[1]
    for _ in range(layout.depth):
        children = row(layout.children, node)  # (B, C)
        wanted = row(choices, node)[:, None]
        matching = (children > 0) & (tokens.gather(1, children) == wanted)
        child = torch.where(matching, children, beyond).amin(1)  # the eldest of equal siblings
        node = torch.where(child < beyond, child, node)
        path.append(node)
    return TreeVerdict(row(layout.depths, node), stacked(path, node), row(choices, node))


def row(table: Tensor, index: Tensor) -> Tensor:
    """table[b, index[b]] of a table (B, R, …), for `index` (B,)."""
    return table[torch.arange(len(index), device=index.device), index]


def stacked(path: list[Tensor], node: Tensor) -> Tensor:
    return torch.stack(path, dim=1) if path else node.new_zeros((len(node), 0))


TREE_RULES = {"token": verify_tree, "match": match_tree}  # both lossless
