"""The tree of drafts that emits the most tokens for a given number of verified rows.

A node is a drafted token; the root is the last emitted token, whose row the verification needs
anyway. A node is accepted if every token on its path is, so

    tokens per cycle = sum over nodes of the product of acceptances along the path   (root: 1)

and the best tree of n nodes is simply the n largest path products: a child's product never exceeds
its parent's, so the largest n always form a tree. Hence a heap replaces the dynamic program of
Sequoia (arXiv:2402.12374) and gives the same trees; ranking drafts by the drafter's confidence
(EAGLE-2, arXiv:2406.16858) is the same greedy choice with estimated acceptances.

A tree pays only where verification has spare rows: at batch 1, far below the ridge.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from specsim.checks import ArrayLike, Floats, Integers, SpecsimError, one_count, within


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """A draft tree, nodes in falling order of path probability, the root first.

    Every prefix of the nodes is itself the best tree of that size. All fields are (nodes,).
    """

    parents: Integers  # index of the parent node, -1 for the root
    ranks: Integers  # which child of its parent: 0 is the drafter's first choice, -1 for the root
    depths: Integers  # 0 for the root
    path_probs: Floats  # P(this node is accepted), 1 for the root

    @property
    def nodes(self) -> int:
        """Rows of the verification pass, root included."""
        return len(self.parents)

    @property
    def tokens_per_cycle(self) -> float:
        """Mean tokens emitted per cycle, bonus included: the root's 1 is the bonus."""
        return float(self.path_probs.sum())

    @property
    def tokens_per_cycle_by_nodes(self) -> Floats:
        """What the best tree of 1, 2, ..., `nodes` nodes emits per cycle, (nodes,)."""
        return np.cumsum(self.path_probs)

    @property
    def widths(self) -> Integers:
        """Nodes at depth 0 (the root), 1, 2, ...: (depth + 1,)."""
        return np.bincount(self.depths)

    @property
    def draft_rows(self) -> Integers:
        """Rows fed to each draft pass, (draft passes,): the nodes at that depth with children.

        As many passes as the tree is deep; the leaves are never fed.
        """
        with_children = np.unique(self.parents[1:])
        return np.bincount(self.depths[with_children])

    @property
    def survival(self) -> Floats:
        """s_k = P(at least k drafts accepted) = path probability summed over depth k, (depth,)."""
        return np.bincount(self.depths, weights=self.path_probs)[1:].astype(np.float64)


def best_tree(child_probs: ArrayLike, nodes: int, depth: int | None = None) -> Tree:
    """The tree of at most `nodes` nodes (root included) with the most tokens per cycle.

    `child_probs` (children,): p_j, the probability that child j is the accepted one given that its
    parent was: rejections of its earlier siblings are counted in, so the p_j sum to at most 1. They
    must not rise with j. As (depth, children) they may differ by depth, and the tree is at most
    that deep. `depth` limits the longest path (draft passes). Children of probability 0 are never
    added, so the tree may stay smaller than `nodes`.

    Raises SpecsimError for probabilities outside [0, 1], rising, or summing to more than 1.
    Source: Sequoia (arXiv:2402.12374), positional acceptance, solved greedily.
    """
    table = _child_table(child_probs)
    nodes = one_count("nodes", nodes, low=1)
    deepest = len(table) if table.ndim == 2 else nodes
    if depth is not None:
        deepest = min(deepest, one_count("depth", depth))
    chosen: list[tuple[int, int, int, float]] = []
    # Frontier: (-path probability, depth, order of arrival, parent, rank); ties go to the shallow.
    frontier = [(-1.0, 0, 0, -1, -1)]
    arrivals = 0
    while frontier and len(chosen) < nodes:
        negative, level, _, parent, rank = heapq.heappop(frontier)
        chosen.append((parent, rank, level, -negative))
        first_child = (len(chosen) - 1, 0, level + 1)
        next_sibling = (parent, rank + 1, level)
        for parent, rank, level in (first_child, next_sibling):
            if not 1 <= level <= deepest:  # below the limit, or a sibling of the root
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
    if np.any(table.sum(axis=-1) > 1.0 + 1e-9):
        worst = table.sum(axis=-1).max()
        raise SpecsimError(f"child_probs must sum to at most 1 over siblings, got {worst:g}")
    if np.any(np.diff(table, axis=-1) > 0.0):
        raise SpecsimError("child_probs must not rise from one sibling to the next: sort them")
    return table
