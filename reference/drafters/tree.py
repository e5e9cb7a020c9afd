"""A small model drafts a tree: several guesses at a position instead of one.

A level of the tree is one pass of the draft. So a tree needs as many passes as a chain of its
depth, but wider ones. It pays where the verification can read more tokens at little cost.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from reference.cache import KVCache
from reference.drafters import Proposal
from reference.drafters.draft_model import DraftModel
from reference.sampling import SamplingParameters, draw
from reference.sequences import Sequences
from reference.transformer import Transformer
from reference.trees import NODES, Tree, branches, lay_out, likeliest_nodes
from specsim.checks import SpecsimError
from specsim.checks.limits import require_limit


class TreeDraft(DraftModel):
    """What both kinds of tree share: `gamma` is their depth, `nodes` the tokens that they draft.

    The first pass of a cycle reads the pending token and the `gamma` tokens before it. After a path
    was accepted, the draft's cache holds some of its nodes in other slots and lacks the last one;
    reading them again writes them where they belong. So catching up costs rows, never a pass.
    """

    def __init__(self, model: Transformer, depth: int, nodes: int, fanout: int):
        most = model.architecture.vocab_size
        if fanout > most:
            raise SpecsimError(f"a node has {fanout} children, but there are {most} tokens")
        super().__init__(model, depth)
        self.nodes = nodes
        self.rows = depth + 1

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        for model in (target, self.model):
            kinds = model.details.kinds if model.details else ()
            window = min((kind.window for kind in kinds if kind.window), default=self.gamma + 1)
            if window <= self.gamma:
                raise SpecsimError(
                    f"a tree of depth {self.gamma} is deeper than a window of "
                    f"{model.architecture.name}, {window} tokens"
                )
        super().start(sequences, target, cache)

    def read_text(self, sequences: Sequences, sampling: SamplingParameters) -> Tensor:
        """The draft's logits (B, 1, V) after the pending token."""
        positions = sequences.positions(self.rows).sub(self.rows - 1).clamp(min=0)
        tokens = sequences.tokens.gather(1, positions)
        logits = self.model(tokens, positions, self.cache, sequences.window)[:, -1:]
        return sampling.penalise(logits, sequences, tokens[:, :0])

    def read_nodes(
        self,
        sequences: Sequences,
        sampling: SamplingParameters,
        drafted: Tensor,
        nodes: Tensor,
        ancestors: Tensor,
        depth: int,
    ) -> Tensor:
        """The logits (B, T, V) after `nodes` (T,) at one `depth`, with their `ancestors` (B, T, J)
        among the root and the tokens `drafted` (B, J-1) so far."""
        lengths = sequences.lengths
        window = sequences.window + self.spare
        kept = branches(ancestors, nodes, lengths)
        positions = (lengths[:, None] + depth).expand(-1, len(nodes))
        logits = self.model(drafted[:, nodes - 1], positions, self.cache, window, kept)
        return sampling.penalise(logits, sequences, drafted, ancestors)


class Level(NamedTuple):
    """One level of a static tree: the nodes that have children, and these children."""

    depth: int
    nodes: Tensor  # (T,), the nodes that have children
    parents: Tensor  # (T',), of each child: the index of its parent in `nodes`
    ranks: Tensor  # (T',), of each child: how many elder siblings it has
    children: Tensor  # (T, C), the children of each node; 0 where there is none


class StaticTree(TreeDraft):
    """Drafts a `tree` of a fixed shape: at every node the likeliest children, or with `drawn`
    children that are drawn as the target samples, without replacement by default.

    A drawn child is accepted more often than the likeliest one; the likeliest children are always
    distinct. At temperature 0 both are the same. Raises SpecsimError for a tree wider than the
    vocabulary.
    """

    def __init__(
        self, model: Transformer, tree: Tree, drawn: bool = False, replacement: bool = False
    ):
        super().__init__(model, tree.depth, tree.nodes, tree.fanout)
        self.tree, self.drawn, self.replacement = tree, drawn, replacement
        self.place: tuple[int, torch.device] | None = None

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        super().start(sequences, target, cache)
        batch = len(sequences.tokens)
        place = batch, self.model.device
        if place != self.place:  # buffers that keep their place need not be recorded again
            self.place, self.layout = place, self.tree.layout(*place)
            self.levels = [self.level(depth) for depth in range(self.tree.depth)]

    def level(self, depth: int) -> Level:
        """The level at `depth`, 0 for the root."""
        below = self.tree.levels[depth + 1]
        above = [self.tree.parents[node - 1] for node in below]
        nodes = sorted(set(above))
        ranks = [above[:index].count(parent) for index, parent in enumerate(above)]
        children = torch.zeros((len(nodes), max(ranks) + 1), dtype=torch.long)
        for node, parent, rank in zip(below, above, ranks, strict=True):
            children[nodes.index(parent), rank] = node
        parents = torch.tensor([nodes.index(parent) for parent in above])
        tensors = torch.tensor(nodes), parents, torch.tensor(ranks), children
        return Level(depth, *(tensor.to(self.model.device) for tensor in tensors))

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        drafted, draft_probs = sequences.tokens[:, :0], []
        for level in self.levels:
            if level.depth == 0:
                logits = self.read_text(sequences, sampling)
            else:
                ancestors = self.layout.ancestors[:, level.nodes, : drafted.shape[1] + 1]
                logits = self.read_nodes(
                    sequences, sampling, drafted, level.nodes, ancestors, level.depth
                )
            if self.drawn and not sampling.greedy:
                chance = chance_of(uniforms, level)
                probs = sampling.probabilities(logits)
                tokens, drawn_from = draw_children(probs, chance, self.replacement)
                draft_probs.append(drawn_from[:, level.parents, level.ranks])
            else:
                tokens = logits.topk(level.children.shape[1]).indices  # (B, T, C)
            drafted = torch.cat((drafted, tokens[:, level.parents, level.ranks]), dim=1)
        probabilities = torch.cat(draft_probs, dim=1) if draft_probs else None
        return Proposal(drafted, probabilities, None, self.layout)


def chance_of(uniforms: Tensor, level: Level) -> Tensor:
    """The random numbers of a level's children: of `uniforms` (B, N+1) one for each child,
    (B, T, C); of races (B, N+1, V) those of the children's position, (B, T, C, V)."""
    if uniforms.ndim == 3:
        return uniforms[:, level.depth, None, None].expand(-1, *level.children.shape, -1)
    return uniforms[:, (level.children - 1).clamp(min=0)]


class ConfidenceTree(TreeDraft):
    """Drafts the tree that is most probable to the draft model (EAGLE-2, arXiv:2406.16858).

    At every depth the `width` paths with the highest probability are continued, with `width`
    children each. Of all nodes seen, the `nodes` most probable ones are verified. Nothing is drawn.
    Raises SpecsimError if fewer than `nodes` are seen.
    """

    def __init__(self, model: Transformer, nodes: int, depth: int, width: int = 4):
        if depth < 1 or width < 1:
            raise SpecsimError(f"depth and width must be at least 1, not {depth} and {width}")
        require_limit("tree_nodes", nodes, NODES)
        require_limit("tree_nodes", width, "the width of a tree")
        seen = width + (depth - 1) * width**2
        if not depth <= nodes <= seen:
            raise SpecsimError(
                f"a tree of depth {depth} and width {width} has {depth} to {seen} nodes, "
                f"not {nodes}"
            )
        super().__init__(model, depth, nodes, width)
        self.spare = max(0, (depth - 1) * width - nodes)  # more may be continued than are kept
        self.width = width

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        width, lengths = self.width, sequences.lengths
        logits = self.read_text(sequences, sampling)
        worth = torch.ones_like(logits[:, :, 0])  # (B, T), of each path that is continued
        followed = sequences.tokens[:, :0]  # the tokens of these paths, level by level
        last = torch.zeros_like(lengths)[:, None]  # the index of their last node in all candidates
        ancestors = torch.ones_like(last, dtype=torch.bool)[..., None]  # (B, T, 1 + followed)
        tokens, parents, worths = [], [], []  # of all candidates
        for depth in range(1, self.gamma + 1):
            chances = confidence(logits, sampling).topk(width)
            worths.append((worth[..., None] * chances.values).flatten(1))  # (B, T · width)
            tokens.append(chances.indices.flatten(1))
            parents.append(last.repeat_interleave(width, dim=1))
            if depth == self.gamma:
                break
            best = worths[-1].topk(width, dim=1).indices
            worth = worths[-1].gather(1, best)
            first = 1 + sum(level.shape[1] for level in tokens[:-1])
            last, above = first + best, best // width
            followed = torch.cat((followed, tokens[-1].gather(1, best)), dim=1)
            own = torch.eye(width, dtype=torch.bool, device=lengths.device)
            ancestors = ancestors.gather(1, above[..., None].expand(-1, -1, ancestors.shape[2]))
            ancestors = torch.cat((ancestors, own.expand(len(lengths), -1, -1)), dim=2)
            nodes = torch.arange(width, device=lengths.device) + followed.shape[1] - width + 1
            logits = self.read_nodes(sequences, sampling, followed, nodes, ancestors, depth)
        chosen, parents = likeliest_nodes(
            torch.cat(parents, dim=1), torch.cat(worths, dim=1), self.nodes
        )
        drafted = torch.cat(tokens, dim=1).gather(1, chosen)
        return Proposal(drafted, None, None, lay_out(parents, self.gamma, width))


def confidence(logits: Tensor, sampling: SamplingParameters) -> Tensor:
    """The draft's probabilities (B, T, V); greedy decoding takes those at temperature 1."""
    return (SamplingParameters(1.0) if sampling.greedy else sampling).probabilities(logits)


def probs_without(probs: Tensor, taken: Tensor) -> Tensor:
    """The distribution (..., V) of a token drawn without replacement, after the distinct tokens
    `taken` (..., T).

    If no other token has a probability above 0, it is uniform over the rest; the accept rule is
    exact for any distribution.
    """
    left = probs.scatter(-1, taken, 0)
    untaken = torch.ones_like(probs).scatter(-1, taken, 0)
    left = torch.where(left.sum(-1, keepdim=True) > 0, left, untaken)
    return left / left.sum(-1, keepdim=True)


def draw_children(
    probs: Tensor, uniforms: Tensor, replacement: bool = False
) -> tuple[Tensor, Tensor]:
    """One child for each of the `uniforms` (..., C), or (..., C, V) for races: the tokens (..., C)
    and the distributions (..., C, V) that they were drawn from, given their elder siblings."""
    tokens, drawn_from = torch.empty_like(probs[..., :0], dtype=torch.long), []
    for chance in uniforms.unbind(probs.ndim - 1):
        unchanged = replacement or not drawn_from
        drawn_from.append(probs if unchanged else probs_without(probs, tokens))
        tokens = torch.cat((tokens, draw(drawn_from[-1], chance)[..., None]), dim=-1)
    return tokens, torch.stack(drawn_from, dim=-2)
