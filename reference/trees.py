"""The shape of a tree of drafts: several guesses at a position, verified in one pass.

The root, node 0, is the pending token. Nodes 1 … N are drafted tokens, each a guess at what follows
its parent; every path from the root is a chain of drafts. Nodes are numbered level by level,
siblings in the order in which they are tried. One pass of the target over all N + 1 nodes gives its
distribution after each of them, if a node attends to its own ancestors only and stands at the
position of its depth. Letters: B batch, N nodes without the root, D depth, C most children of a
node.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from specsim.checks import SpecsimError
from specsim.checks.limits import require_limit

NODES = "the number of nodes of a tree"


@dataclass(frozen=True, slots=True)
class Tree:
    """A fixed shape: `parents[i]` is the parent of node i + 1, and 0 is the root.

    Raises SpecsimError if the nodes are not numbered level by level, or are too many.
    """

    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        require_limit("tree_nodes", len(self.parents), NODES)
        for node, parent in enumerate(self.parents, start=1):
            if not 0 <= parent < node:
                raise SpecsimError(
                    f"node {node} must have a parent in 0 … {node - 1}, not {parent}"
                )
        if any(above > below for above, below in pairwise(self.depths)):
            raise SpecsimError(f"the nodes of {self.parents} are not level by level")

    @classmethod
    def branching(cls, factors: Sequence[int]) -> "Tree":
        """Every node at depth d has `factors[d]` children: (3, 2) has 3 + 6 nodes."""
        if any(factor < 1 for factor in factors):
            raise SpecsimError(f"branching factors must be at least 1, not {list(factors)}")
        parents, level = [], [0]
        for factor in factors:
            require_limit("tree_nodes", len(parents) + len(level) * factor, NODES)
            above, first = level, len(parents) + 1
            parents += [node for node in above for _ in range(factor)]
            level = list(range(first, len(parents) + 1))
        return cls(tuple(parents))

    @classmethod
    def of_parents(cls, parents: Iterable[int]) -> "Tree":
        """From the parents of nodes 1, 2, …, in any order that has parents first, for example by
        falling path probability; renumbered level by level."""
        parents = [int(parent) for parent in parents]
        require_limit("tree_nodes", len(parents), NODES)
        depths = [0]
        for node, parent in enumerate(parents, start=1):
            if not 0 <= parent < node:
                raise SpecsimError(f"node {node} must come after its parent, which is {parent}")
            depths.append(depths[parent] + 1)
        order = sorted(range(len(depths)), key=depths.__getitem__)  # stable
        number = {node: index for index, node in enumerate(order)}
        return cls(tuple(number[parents[node - 1]] for node in order[1:]))

    @property
    def nodes(self) -> int:
        """N, the drafted tokens of a cycle; the verification reads one token more."""
        return len(self.parents)

    @property
    def depths(self) -> tuple[int, ...]:
        """The depth of every node, the root's 0 first."""
        depths = [0]
        for parent in self.parents:
            depths.append(depths[parent] + 1)
        return tuple(depths)

    @property
    def depth(self) -> int:
        """D, the longest path from the root."""
        return self.depths[-1]

    @property
    def fanout(self) -> int:
        """C, the most children of a node."""
        return max(map(self.parents.count, set(self.parents)), default=0)

    @property
    def levels(self) -> list[range]:
        """The nodes at depth 0 (the root), 1, …"""
        starts = [self.depths.index(depth) for depth in range(self.depth + 1)]
        return [range(a, b) for a, b in pairwise([*starts, self.nodes + 1])]

    def layout(self, batch: int, device: torch.device | str = "cpu") -> "Layout":
        """The same shape for every sequence of a batch."""
        parents = torch.tensor(self.parents, dtype=torch.long, device=device)
        return lay_out(parents.expand(batch, -1), self.depth, self.fanout)


class Layout(NamedTuple):
    """The shapes of a batch's trees, on the device, where each sequence may have its own."""

    parents: Tensor  # (B, N)
    depths: Tensor  # (B, N+1), how far after the pending token a node stands
    ancestors: Tensor  # (B, N+1, N+1), the attention mask: [b, i, j] if j is i or above it
    elders: Tensor  # (B, N, N): [b, i, j] if node j + 1 is an elder sibling of node i + 1
    children: Tensor  # (B, N+1, C), in the order they are tried; 0 where there is none
    depth: int  # an upper bound on the length of a path


def lay_out(parents: Tensor, depth: int, fanout: int) -> Layout:
    """The layout of trees with these `parents` (B, N).

    `depth` and `fanout` are upper bounds on the length of a path and on the children of a node.
    They are not checked, because nothing here may wait for the device.
    """
    batch, count = parents.shape
    nodes = torch.arange(count + 1, device=parents.device)
    above = F.pad(parents, (1, 0))  # the root is its own parent
    ancestors = torch.zeros((batch, count + 1, count + 1), dtype=torch.bool, device=nodes.device)
    node = nodes.expand(batch, -1)
    for _ in range(depth + 1):
        ancestors.scatter_(2, node[..., None], True)
        node = above.gather(1, node)
    siblings = parents[:, :, None] == parents[:, None]  # (B, N, N)
    elders = siblings & (nodes[1:, None] > nodes[1:])
    children = parents.new_zeros((batch, (count + 1) * fanout))
    children.scatter_(1, parents * fanout + elders.sum(-1), nodes[1:].expand(batch, -1))
    children = children.view(batch, count + 1, fanout)
    return Layout(parents, ancestors.sum(-1) - 1, ancestors, elders, children, depth)


class Branches(NamedTuple):
    """Where a pass over trees keeps T of their nodes, and what these see: the text and their
    ancestors. In a chain both follow from the positions. Node j is kept in slot lengths + j."""

    slots: Tensor  # (B, T), of the cache
    lengths: Tensor  # (B,), slots of the text, which come before the root's
    ancestors: Tensor  # (B, T, J), which of the first J nodes a node sees, itself included

    def visible(self, window: int) -> Tensor:
        """Which of the first `window` slots the nodes see, (B, T, S)."""
        rows, known = self.ancestors.shape[1:]
        slots = torch.arange(window, device=self.lengths.device)
        text = (slots < self.lengths[:, None])[:, None].expand(-1, rows, -1)
        of_tree = self.lengths[:, None, None] + torch.arange(known, device=self.lengths.device)
        return text.scatter(2, of_tree.expand(-1, rows, -1), self.ancestors)

    @property
    def known(self) -> int:
        """J, the nodes of the tree so far, which have the slots from `lengths` on."""
        return self.ancestors.shape[2]

    def bits(self) -> Tensor:
        """The ancestors, (B, T, W): node j is bit j mod 64 of word j // 64."""
        words = F.pad(self.ancestors, (0, -self.known % 64)).unflatten(2, (-1, 64))
        return (words.long() << torch.arange(64, device=words.device)).sum(-1)


def branches(ancestors: Tensor, nodes: Tensor, lengths: Tensor) -> Branches:
    """`nodes` (T,) of trees after texts of `lengths` (B,), and their `ancestors` (B, T, J)."""
    return Branches(lengths[:, None] + nodes, lengths, ancestors)


def likeliest_nodes(parents: Tensor, worth: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` candidates with the highest `worth` (B, M): their indices (B, N), and the parents
    (B, N) of the tree that they form, as in `Layout`.

    `worth` is the drafter's own probability of the path. A child's never exceeds its parent's, so
    the best candidates form a tree (EAGLE-2, arXiv:2406.16858); ties go to the lower index.
    """
    order = worth.sort(dim=1, descending=True, stable=True).indices
    chosen = order[:, :count].sort(dim=1).values
    number = torch.zeros_like(F.pad(worth, (1, 0)), dtype=torch.long)
    numbers = torch.arange(1, count + 1, device=worth.device).expand(len(worth), -1)
    number.scatter_(1, chosen + 1, numbers)  # candidate j is the node j + 1 of the whole tree
    return chosen, number.gather(1, parents.gather(1, chosen))
