"""The tree of drafts that emits the most tokens for a given number of verified rows.

A node is a drafted token. The root is the last emitted token, whose row every verification has. A
node is accepted if all tokens on its path are accepted, so

    tokens per cycle = sum over nodes of the product of acceptances along the path   (root: 1)

and the best tree of n nodes has the n largest path products. The product of a child is never above
that of its parent, so the n largest always form a tree. So a heap gives the same trees as the
dynamic program of Sequoia (arXiv:2402.12374). To rank drafts by the drafter's confidence (EAGLE-2,
arXiv:2406.16858) is the same greedy choice with estimated acceptances.

A tree pays only if further rows cost the verification little: at batch 1, far below the ridge.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from specsim.checks import ArrayLike, Floats, Integers, SpecsimError, one_count, within
from specsim.checks.limits import require_limit


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """A draft tree; its nodes are in falling order of path probability, with the root first.

    The first n nodes are the best tree of n nodes. All fields are (nodes,).
    """

    parents: Integers  # index of the parent node, -1 for the root
    ranks: Integers  # 0 for the drafter's most likely child of a parent, then 1, …; -1 for the root
    depths: Integers  # 0 for the root
    path_probs: Floats  # P(this node is accepted), 1 for the root

    @property
    def nodes(self) -> int:
        """Rows of the verification pass, root included."""
        return len(self.parents)

    @property
    def tokens_per_cycle(self) -> float:
        """Mean tokens emitted per cycle, bonus included: the 1 of the root is the bonus."""
        return float(self.path_probs.sum())

    @property
    def tokens_per_cycle_by_nodes(self) -> Floats:
        """Tokens per cycle of the best trees of 1, 2, ..., `nodes` nodes, (nodes,)."""
        return np.cumsum(self.path_probs)

    @property
    def draft_rows(self) -> Integers:
        """Rows of each draft pass, (depth of the tree,): the nodes at that depth with children.

        Leaves are in no draft pass.
        """
        with_children = np.unique(self.parents[1:])
        return np.bincount(self.depths[with_children])

    @property
    def survival(self) -> Floats:
        """s_k = P(at least k drafts accepted) = path probability summed over depth k, (depth,)."""
        return np.bincount(self.depths, weights=self.path_probs)[1:].astype(np.float64)


def best_tree(child_probs: ArrayLike, nodes: int, depth: int | None = None) -> Tree:
    """The tree of at most `nodes` nodes (root included) with the most tokens per cycle.

    `child_probs` (children,): p_j, the probability that child j is accepted if its parent is
    accepted. It includes the rejection of the earlier siblings, so the p_j sum to at most 1. They
    must not rise with j. An array (depth, children) has different values for each depth, and the
    tree is at most that deep. `depth` limits the longest path (draft passes). Children with
    probability 0 are not added, so the tree can have fewer than `nodes` nodes.

    Raises SpecsimError for probabilities outside [0, 1], rising, or summing to more than 1.
    Source: Sequoia (arXiv:2402.12374), positional acceptance, solved greedily.
    """
    table = _child_table(child_probs)
    require_limit("tree_nodes", nodes, "the nodes of a tree")
    nodes = one_count("nodes", nodes, low=1)
    deepest = len(table) if table.ndim == 2 else nodes
    if depth is not None:
        deepest = min(deepest, one_count("depth", depth))
    chosen: list[tuple[int, int, int, float]] = []
    # Frontier: (-path probability, depth, order of arrival, parent, rank). The shallower of two
    # equal nodes comes first.
    frontier = [(-1.0, 0, 0, -1, -1)]
    arrivals = 0
    while frontier and len(chosen) < nodes:
        negative, level, _, parent, rank = heapq.heappop(frontier)
        chosen.append((parent, rank, level, -negative))
        first_child = (len(chosen) - 1, 0, level + 1)
        next_sibling = (parent, rank + 1, level)
        for parent, rank, level in (first_child, next_sibling):
            if not 1 <= level <= deepest:  # too deep, or a sibling of the root
                continue
            probs = table[level - 1] if table.ndim == 2 else table
            if rank < len(probs) and probs[rank] > 0.0:
                arrivals += 1
                path_prob = chosen[parent][3] * float(probs[rank])
                heapq.heappush(frontier, (-path_prob, level, arrivals, parent, rank))
    parents, ranks, depths, path_probs = zip(*chosen, strict=True)
    return Tree(np.array(parents), np.array(ranks), np.array(depths), np.array(path_probs))


def _child_table(child_probs: ArrayLike) -> Floats:
    table = within("child_probs", child_probs)
    if table.ndim not in (1, 2) or table.size == 0:
        raise SpecsimError(
            f"child_probs must be (children,) or (depth, children), got shape {table.shape}"
        )
    require_limit("children", table.shape[-1], "the children of a node")
    if np.any(table.sum(axis=-1) > 1.0 + 1e-9):
        worst = table.sum(axis=-1).max()
        raise SpecsimError(f"child_probs must sum to at most 1 over siblings, got {worst:g}")
    if np.any(np.diff(table, axis=-1) > 0.0):
        raise SpecsimError("child_probs must not rise from one sibling to the next: sort them")
    return table
