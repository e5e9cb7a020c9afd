"""One cycle of a tree of drafts: the stages of `cycle`, where several tokens stand at a position.

The target reads all N + 1 nodes in one pass. Node j is kept in slot lengths + j of the cache and
stands at the position of its depth. The accept rule walks down the tree, and the keys and values of
the path it took are moved to where those of a chain would be.

Letters: B batch, N nodes without the root, D depth, V vocabulary. What `cycle` declares with G + 1
columns has N + 1 here; `Drafted.positions` are the slots of the nodes.
"""

import math

import torch
from torch import Tensor

from reference.cycle import Cycle, Verified
from reference.drafters import Proposal
from reference.sampling import likeliest
from reference.settings import RunSettings
from reference.tree_verification import TREE_RULES, TreeVerdict, follow
from reference.trees import branches


class TreeCycle(Cycle):
    """The cycle of a drafter that proposes trees; `gamma` is their depth."""

    @property
    def width(self) -> int:
        """Nodes of the next proposal."""
        return self.drafter.nodes

    def verify(self) -> None:
        """Read the pending token and all nodes in one pass of the target; a node sees the text and
        its own ancestors."""
        sequences, sampling = self.sequences, self.settings.sampling
        _, tokens, proposal, _ = self.drafted
        ancestors = proposal.tree.ancestors
        positions = sequences.lengths[:, None] + proposal.tree.depths
        nodes = torch.arange(self.width + 1, device=positions.device)
        kept = branches(ancestors, nodes, sequences.lengths)
        hidden = self.target.hidden(tokens, positions, self.cache, sequences.window, kept)
        logits = self.target.head(hidden)
        logits = sampling.penalise(logits, sequences, proposal.tokens, ancestors)
        self.verified = Verified(hidden, logits)

    def decide(self) -> None:
        """Accept a path from the root, and emit one token more."""
        slots, tokens, proposal, uniforms = self.drafted
        hidden, logits = self.verified
        is_finite = logits.amax(-1).abs() < math.inf
        tree = proposal.tree
        accepted, path, next_token = accept_path(self.settings, logits, proposal, uniforms)
        if proposal.probabilities is not None:
            # a child with NaN probabilities spoils the choice at its parent
            broken = (~(proposal.probabilities[..., 0] < math.inf)).long()
            broken = torch.zeros_like(tokens).scatter_add_(1, tree.parents, broken)
            is_finite = is_finite & (broken == 0)
        nodes = torch.cat((torch.zeros_like(path[:, :1]), path), dim=1)  # (B, D+1), from the root
        is_finite = is_finite.gather(1, nodes)
        # after the end of a path its last node is repeated; what is moved there does not count
        positions = slots[:, : nodes.shape[1]]
        self.cache.move(slots.gather(1, nodes), positions)
        hidden = hidden.gather(1, nodes[..., None].expand(-1, -1, hidden.shape[2]))
        self.drafter.observe(hidden, positions)
        drafted = tokens.gather(1, nodes[:, 1:])
        result = self.sequences.commit(drafted, accepted, next_token, tree.depths.amax(1))
        self.write_result(result, is_finite)


def accept_path(
    settings: RunSettings, logits: Tensor, proposal: Proposal, uniforms: Tensor
) -> TreeVerdict:
    """Apply the accept rule of trees to the target's logits (B, N+1, V)."""
    drafted, draft_probs, _, tree = proposal
    if settings.sampling.greedy:
        return follow(likeliest(logits), drafted, tree)
    target_probs = settings.sampling.probabilities(logits)
    return TREE_RULES[settings.rule](target_probs, draft_probs, drafted, uniforms, tree)
