"""The accept rules of trees: pure functions of probabilities, as exact as those of chains.

They walk down from the root. At a node with the target's distribution p its children are tried in
turn (SpecInfer, arXiv:2305.09781). Child x, drawn from q, is kept with probability
min(1, p(x) / q(x)). If it is not kept, p becomes the residual max(p - q, 0), normalised, for the
next child. If no child is kept, the next token is drawn from what p has become. The result has the
target's distribution if q is the distribution that the child was *really* drawn from, given its
elder siblings:

    with replacement      q is the same for every sibling
    without replacement   q without the elder siblings, normalised: accepts more
    not drawn             the likeliest children; q is a point mass on the child

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
    """The path from the root that was accepted, and the token after it."""

    accepted: Tensor  # (B,), nodes on the path
    path: Tensor  # (B, D), these nodes; the last one is repeated up to D
    next_token: Tensor  # (B,)


def verify_tree(
    target_probs: Tensor,
    draft_probs: Tensor | None,
    drafted: Tensor,
    uniforms: Tensor,
    layout: Layout,
) -> TreeVerdict:
    """Multi-round rejection down the tree.

    Arguments: `target_probs` (B, N+1, V) are the target's distributions after every node, the root
    first; `draft_probs` (B, N, V) are those that `drafted` (B, N) were drawn from, each given its
    elder siblings, or None if they were not drawn. `uniforms` (B, N+1) in [0, 1): one for the test
    of each draft, the last for the token that follows.
    """
    if draft_probs is None:
        return match_tree(target_probs, None, drafted, uniforms, layout)
    node = torch.zeros_like(drafted[:, 0]) if drafted.shape[1] else drafted.new_zeros(len(drafted))
    accepted, p, path = node, target_probs[:, 0], []
    for level in range(layout.depth):
        for child in row(layout.children, node).unbind(1):
            tried = (child > 0) & (accepted == level)
            draft = (child - 1).clamp(min=0)
            q, token = row(draft_probs, draft), row(drafted, draft)[:, None]
            passes = row(uniforms, draft) * q.gather(1, token)[:, 0] < p.gather(1, token)[:, 0]
            kept = tried & passes
            p = torch.where((tried & ~kept)[:, None], residual(p, q), p)
            p = torch.where(kept[:, None], row(target_probs, child), p)
            node = torch.where(kept, child, node)
            accepted = accepted + kept
        path.append(node)
    return TreeVerdict(accepted, stacked(path, node), draw(p, uniforms[:, -1]))


def match_tree(
    target_probs: Tensor,
    draft_probs: Tensor | None,
    drafted: Tensor,
    uniforms: Tensor,
    layout: Layout,
) -> TreeVerdict:
    """Sample and match: the target draws a token at every node; if a child is that token, the walk
    goes on there.

    Exact for any children. For children that were not drawn it is the multi-round rule itself: that
    rule keeps each child with the node's p(x), and so does one draw from p. `uniforms` (B, N+1),
    one for each node, the root first; or (B, D+1, V) for races (see `draw`), one for each position,
    shared by the nodes that stand there.
    """
    if uniforms.ndim == target_probs.ndim:
        uniforms = uniforms.gather(1, layout.depths[..., None].expand_as(target_probs))
    return follow(draw(target_probs, uniforms), drafted, layout)


def follow(choices: Tensor, drafted: Tensor, layout: Layout) -> TreeVerdict:
    """Walk down as long as a child is the target's own choice (B, N+1) at its parent; of equal
    siblings the eldest. Greedy decoding is only this.

    All steps at once: a node is on the path if it, and every node above it, is what was chosen.
    """
    chosen = drafted == choices.gather(1, layout.parents)  # (B, N)
    repeats = (drafted[:, :, None] == drafted[:, None]) & layout.elders
    chosen = F.pad(chosen & ~repeats.any(-1), (1, 0), value=True)
    on_path = (chosen[:, None] | ~layout.ancestors).all(-1)  # (B, N+1), one node at each depth
    levels = torch.arange(layout.depth + 1, device=drafted.device)[:, None]
    nodes = torch.arange(choices.shape[1], device=drafted.device)
    path = ((on_path[:, None] & (layout.depths[:, None] <= levels)) * nodes).amax(-1)  # (B, D+1)
    return TreeVerdict(on_path.sum(-1) - 1, path[:, 1:], row(choices, path[:, -1]))


def row(table: Tensor, index: Tensor) -> Tensor:
    """table[b, index[b]] of a table (B, R, …), for `index` (B,)."""
    at = index.view(-1, *[1] * (table.ndim - 1)).expand(-1, 1, *table.shape[2:])
    return table.gather(1, at)[:, 0]


def stacked(path: list[Tensor], node: Tensor) -> Tensor:
    """The nodes of a path, (B, D), which may be empty."""
    return torch.stack(path, dim=1) if path else node.new_zeros((len(node), 0))


TREE_RULES = {"token": verify_tree, "match": match_tree}  # both lossless
