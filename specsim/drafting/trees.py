"""Trees of drafts: gamma counts the drafted nodes, so a verification has gamma + 1 rows as ever.

A parent's first child is accepted with the chain's probability a_k at its depth; every further
sibling catches a share of what its elders left: p_2 = r_2 (1 - p_1), p_3 = r_3 (1 - p_1 - p_2), …,
and never more than the sibling before it.
The shares are read from a vector of child probabilities (the catalog's is illustrative, assumed).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from specsim.acceptance import Acceptance, GammaDependent, PerPosition
from specsim.acceptance.optimal_trees import Tree, best_tree
from specsim.checks import ArrayLike, Floats, Integers, SpecsimError, require_count, whole
from specsim.checks.limits import require_limit
from specsim.cost import Ledger
from specsim.drafting.drafter import Around, Drafter, further_rows
from specsim.hardware import System
from specsim.operators import Workload

SIBLINGS = (0.60, 0.15, 0.08, 0.05, 0.03)  # children of one node: an example, assumed


@dataclass(frozen=True, slots=True)
class StaticTree(Around):
    """One fixed shape: for every gamma the greedy-optimal tree of gamma nodes and a root, built for
    `child_probs` (Sequoia, arXiv:2402.12374). Any acceptance is then evaluated on that shape.

    A draft pass per depth, as wide as the nodes there that have children.
    """

    drafter: Drafter
    child_probs: Sequence[float] = SIBLINGS
    depth: int = 6

    def __post_init__(self) -> None:
        require_count("depth", self.depth)
        require_limit("gamma", self.depth, "the depth of a tree")
        best_tree(self.child_probs, 1)  # refuses what is not a vector of child probabilities

    @property
    def gammas(self) -> Integers:
        return np.arange(64)

    def gammas_within(self, positions: int) -> Integers:
        return self.gammas  # positions are depths here, gamma counts nodes

    def shape(self, gamma: int) -> Tree:
        """The tree of `gamma` drafted nodes; smaller where no child is left to add."""
        return best_tree(self.child_probs, gamma + 1, self.depth)

    @property
    def max_gamma(self) -> int | None:
        return None  # nodes, of which even few heads can fill any number

    def cycle(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        gamma = whole("gamma", gamma)
        largest = self.shape(int(gamma.max(initial=0)))
        passes: dict[int, Integers] = {}  # by their rows: how many of them each gamma takes
        for nodes in np.unique(gamma[gamma > 0]):
            for rows in _draft_rows(largest, int(nodes))[1:]:
                passes[rows] = passes.get(rows, np.zeros_like(gamma)) + (gamma == nodes)
        cycle = self._first_step(system, workload, gamma).times(gamma > 0)
        for rows, many in passes.items():
            cycle += self._wide_step(system, workload, rows).times(many)
        return cycle

    def _first_step(self, system: System, workload: Workload, gamma: Integers) -> Ledger:
        """The first pass reads again what was accepted: one path, and not all nodes."""
        return self.drafter.first_step(system, workload, np.minimum(gamma, self.depth))

    def _wide_step(self, system: System, workload: Workload, rows: int) -> Ledger:
        """A pass that drafts the children of `rows` nodes of each sequence."""
        further = further_rows(system, workload.batch, rows)
        return self.step(system, workload.of_rows(rows)) + Ledger.of(further)

    def held_bytes(
        self, system: System, *, batch: ArrayLike, slots: ArrayLike, states: ArrayLike = 1
    ) -> tuple[ArrayLike, ArrayLike]:
        return self.drafter.held_bytes(system, batch=batch, slots=slots, states=states)

    def acceptance_of(self, chain: Acceptance) -> Acceptance:
        return _FixedShape(self, self.drafter.acceptance_of(chain))

    @property
    def notes(self) -> tuple[str, ...]:
        return (
            "gamma counts the nodes of a tree; a node's further children catch the shares of what "
            "the first leaves that the catalog assumes.",
            *self.drafter.notes,
        )


@dataclass(frozen=True, slots=True)
class DynamicTree(StaticTree):
    """Expanded to a fixed depth and width, then cut to the gamma likeliest nodes, every cycle anew
    (EAGLE-2, arXiv:2406.16858): the best tree for the acceptance at hand.

    The draft passes are the same whatever is kept: one row, then `children` rows per depth. What
    adapting to each context gains beyond the mean acceptance is not counted (pessimistic).
    """

    children: int = 10

    def __post_init__(self) -> None:
        StaticTree.__post_init__(self)
        require_count("children", self.children)
        require_limit("children", self.children, "the children of a node")

    def cycle(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        gamma = np.asarray(gamma)
        first = self._first_step(system, workload, gamma)
        wide = self._wide_step(system, workload, self.children)
        return first.times(gamma > 0) + wide.times(np.clip(gamma, 1, self.depth) - 1)

    def acceptance_of(self, chain: Acceptance) -> Acceptance:
        return _BestShape(self, self.drafter.acceptance_of(chain))


@dataclass(frozen=True, slots=True)
class _FixedShape:
    """Tokens per cycle of one fixed shape under a chain's acceptance."""

    tree: StaticTree
    chain: Acceptance

    def survival(self, k: ArrayLike) -> Floats:
        raise SpecsimError("a tree's survival depends on its nodes: use at(gamma).survival(k)")

    def at(self, gamma: int) -> PerPosition:
        shape = self.tree.shape(gamma)
        paths = self._paths(shape)
        depths = range(1, max(gamma, 1) + 1)
        by_depth = [sum(paths[i] for i in np.flatnonzero(shape.depths == d)) for d in depths]
        zero = np.zeros_like(paths[0])
        vector = np.stack([zero + s for s in by_depth], axis=-1)
        return PerPosition(np.minimum(vector, 1.0))

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats:
        gamma = whole("gamma", gamma)
        paths = self._paths(self.tree.shape(int(gamma.max(initial=0))))
        return _pick(np.cumsum(np.stack(paths, axis=-1), axis=-1), gamma)

    def _paths(self, shape: Tree) -> list[Floats]:
        """P(accepted) of every node, each shaped as the chain's parameters."""
        chances = _children(self.chain, self.tree.child_probs, max(1, int(shape.depths.max())))
        paths = [np.ones(chances.shape[2:])]
        nodes = zip(shape.parents, shape.ranks, shape.depths, strict=True)
        for parent, rank, depth in list(nodes)[1:]:
            paths.append(paths[parent] * chances[depth - 1, rank])
        return paths


@dataclass(frozen=True, slots=True)
class _BestShape:
    """Tokens per cycle of the best tree for each acceptance."""

    tree: DynamicTree
    chain: Acceptance

    def survival(self, k: ArrayLike) -> Floats:
        raise SpecsimError("a tree's survival depends on its nodes: use at(gamma).survival(k)")

    def at(self, gamma: int) -> PerPosition:
        survival = self._best(gamma).survival
        return PerPosition(np.minimum(np.pad(survival, (0, max(0, gamma - len(survival)))), 1.0))

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats:
        gamma = whole("gamma", gamma)
        nodes = int(gamma.max(initial=0))
        deepest = min(self.tree.depth, max(nodes, 1))
        chances = _children(self.chain, self.tree.child_probs, deepest)
        shape = chances.shape[2:]
        flat = chances.reshape(*chances.shape[:2], -1)
        tokens = [
            np.cumsum(self._tree(flat[:, :, i], nodes).path_probs) for i in range(flat.shape[2])
        ]
        longest = max((len(each) for each in tokens), default=1)
        padded = [np.pad(each, (0, longest - len(each)), mode="edge") for each in tokens]
        return _pick(np.array(padded).reshape(*shape, longest), gamma)

    def _best(self, gamma: int) -> Tree:
        chances = _children(self.chain, self.tree.child_probs, min(self.tree.depth, max(gamma, 1)))
        if chances.ndim > 2:
            raise SpecsimError("a dynamic tree's survival is known for one acceptance at a time")
        return self._tree(chances, gamma)

    def _tree(self, chances: Floats, nodes: int) -> Tree:
        return best_tree(chances, nodes + 1, self.tree.depth)


def _children(chain: Acceptance, child_probs: Sequence[float], depth: int) -> Floats:
    """P(child accepted | parent accepted), (depth, children, parameters of the chain...).

    A survival vector that ends above `depth` ends the tree there (pessimistic)."""
    if isinstance(chain, GammaDependent):
        chain = chain.at(depth)
    if isinstance(chain, PerPosition):  # what lies deeper than is known is never accepted
        known = np.asarray(chain.vector)
        missing = max(0, depth - known.shape[-1])
        chain = PerPosition(np.pad(known, [(0, 0)] * (known.ndim - 1) + [(0, missing)]))
    designed = np.asarray(child_probs, float)
    left = 1.0 - np.cumsum(designed) + designed  # what the elders leave each child
    shares = np.divide(designed, left, out=np.zeros_like(designed), where=left > 1e-12)
    survival = [np.asarray(chain.survival(k), float) for k in range(depth + 1)]
    rows = []
    for above, here in pairwise(survival):
        first = np.divide(here, above, out=np.zeros(np.shape(here + above)), where=above > 0)
        row, rest = [first], 1.0 - first
        for part in shares[1:]:
            # a drafter ranks its choices: none is likelier than the one before it
            row.append(np.minimum(part * rest, row[-1]))
            rest = rest - row[-1]
        rows.append(np.stack(row))
    return np.stack(np.broadcast_arrays(*rows))


def _draft_rows(tree: Tree, nodes: int) -> list[int]:
    """Rows of each draft pass of the prefix with `nodes` drafted nodes: `Tree.draft_rows` of it."""
    with_children = np.unique(tree.parents[1 : nodes + 1])
    return np.bincount(tree.depths[with_children]).tolist()


def _pick(table: Floats, gamma: ArrayLike) -> Floats:
    """table[..., gamma], gamma broadcasting with the leading axes, capped at the last column."""
    index = np.minimum(np.asarray(gamma), table.shape[-1] - 1)
    shape = np.broadcast_shapes(table.shape[:-1], index.shape)
    table = np.broadcast_to(table, (*shape, table.shape[-1]))
    index = np.broadcast_to(index, shape)[..., None]
    return np.take_along_axis(table, index, axis=-1)[..., 0]
