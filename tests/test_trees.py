"""Draft trees: greedy against dynamic programming, exhaustive search and exact verification.

Worked examples carry their id (L1, L2, L3) in the test's id.
"""

import itertools
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from specsim.acceptance import IID, overlap, pmf
from specsim.acceptance.optimal_trees import best_tree
from specsim.checks import SpecsimError

PRINTED = 6e-6
CHILDREN = (0.6, 0.15, 0.08, 0.05, 0.03)
TARGET, DRAFT = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])


def widths(tree):
    """The number of nodes at depth 0 (the root), 1, 2, ..."""
    return np.bincount(tree.depths).tolist()


def best_value(child_probs, nodes, depth):
    """Sequoia's dynamic program: the root and the best split of the rest among its children."""

    @lru_cache(None)
    def subtree(size, levels):
        return 1.0 + siblings(size - 1, 0, levels) if size else 0.0

    @lru_cache(None)
    def siblings(size, child, levels):
        if size == 0 or levels == 0 or child == len(child_probs):
            return 0.0
        return max(
            child_probs[child] * subtree(first, levels - 1)
            + siblings(size - first, child + 1, levels)
            for first in range(1, size + 1)
        )

    return subtree(nodes, depth)


@st.composite
def child_lists(draw):
    """Sibling probabilities: falling, summing to at most 1."""
    parts = draw(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4))
    scale = draw(st.floats(0.0, 1.0)) / max(sum(parts), 1e-9)
    return sorted((part * min(scale, 1.0) for part in parts), reverse=True)


@pytest.mark.parametrize(
    ("nodes", "best", "three_deep", "chain"),
    [
        pytest.param(2, 1.60000, 1.60000, 1.60000, id="L1-2"),
        pytest.param(4, 2.17600, 2.17600, 2.17600, id="L1-4"),
        pytest.param(8, 2.63560, 2.58600, 2.45801, id="L1-8"),
        pytest.param(16, 3.10136, 2.95400, 2.49929, id="L1-16"),
        pytest.param(32, 3.56283, 3.25820, 2.50000, id="L1-32"),
        pytest.param(64, 4.00845, 3.42199, 2.50000, id="L1-64"),
    ],
)
def test_tree_against_chain(nodes, best, three_deep, chain):
    assert_allclose(best_tree(CHILDREN, nodes).tokens_per_cycle, best, atol=PRINTED)
    assert_allclose(best_tree(CHILDREN, nodes, depth=3).tokens_per_cycle, three_deep, atol=PRINTED)
    assert_allclose(best_tree(CHILDREN[:1], nodes).tokens_per_cycle, chain, atol=PRINTED)
    assert_allclose(IID(0.6).tokens_per_cycle(nodes - 1), chain, atol=PRINTED)


@given(child_lists(), st.integers(1, 14), st.integers(0, 5))
def test_greedy_is_the_dynamic_program(child_probs, nodes, depth):
    found = best_tree(child_probs, nodes, depth).tokens_per_cycle
    assert_allclose(found, best_value(tuple(child_probs), nodes, depth), rtol=1e-12)


@given(child_lists(), child_lists(), st.integers(1, 6))
def test_greedy_is_exhaustive_search_also_where_depths_differ(first, second, nodes):
    """Every set of nodes that holds its parents, over two levels of children."""
    width = max(len(first), len(second))
    table = np.array([level + [0.0] * (width - len(level)) for level in (first, second)])
    products = {(): 1.0}
    for i in range(width):
        products[(i,)] = table[0, i]
        products |= {(i, j): table[0, i] * table[1, j] for j in range(width)}
    others = [node for node in products if node]
    best = max(
        sum(products[node] for node in {(), *chosen})
        for chosen in itertools.combinations(others, min(nodes - 1, len(others)))
        if {node[:-1] for node in chosen} <= {(), *chosen}
    )
    assert_allclose(best_tree(table, nodes).tokens_per_cycle, best, rtol=1e-12)


@given(child_lists(), st.integers(1, 40), st.integers(0, 6))
def test_tree_is_well_formed(child_probs, nodes, depth):
    tree = best_tree(child_probs, nodes, depth)
    assert (tree.parents[0], tree.ranks[0], tree.depths[0], tree.path_probs[0]) == (-1, -1, 0, 1.0)
    for node in range(1, tree.nodes):
        parent, rank = tree.parents[node], tree.ranks[node]
        assert parent < node
        assert tree.depths[node] == tree.depths[parent] + 1 <= depth
        assert tree.path_probs[node] == tree.path_probs[parent] * child_probs[rank]
        older = (tree.parents == parent) & (tree.ranks == rank - 1)
        assert rank == 0 or older.sum() == 1  # no child without its earlier sibling
    assert len(tree.depths) == tree.nodes <= nodes
    assert np.all(np.diff(tree.path_probs) <= 0.0)
    smaller = [best_tree(child_probs, n, depth).tokens_per_cycle for n in range(1, tree.nodes + 1)]
    assert_allclose(tree.tokens_per_cycle_by_nodes, smaller, rtol=1e-12)
    assert_allclose(1.0 + tree.survival.sum(), tree.tokens_per_cycle, rtol=1e-12)
    assert_allclose(pmf(np.minimum(tree.survival, 1.0)).sum(), 1.0, rtol=1e-12)


def test_widths_and_draft_rows_price_the_draft_passes():
    tree = best_tree((0.6, 0.3), 6)  # root, 0, 00 and 1, 000 and 01 or 10
    assert widths(tree) == [1, 2, 2, 1]
    assert tree.draft_rows.tolist() == [1, 1, 1]
    wide = best_tree([(0.5, 0.4), (0.5, 0.4)], 7)
    assert widths(wide) == [1, 2, 4]
    assert wide.draft_rows.tolist() == [1, 2]  # leaves are verified, never fed to the drafter
    only_root = best_tree(CHILDREN, 1)
    assert (widths(only_root), only_root.draft_rows.tolist()) == ([1], [])
    assert only_root.tokens_per_cycle == 1.0


def test_a_tree_uses_no_node_that_is_never_accepted():
    assert widths(best_tree((1.0, 0.0), 4)) == [1, 1, 1, 1]
    assert best_tree((0.0,), 4).nodes == 1
    assert best_tree([(0.5,), (0.0,)], 4).nodes == 2


# ------------------------------------------------------------ several children, verified losslessly


def verify_children(target, drafts):
    """The output distribution and P(any accepted) if x_i ~ drafts[i](earlier ones) are tried."""
    output, accepted = np.zeros(len(target)), 0.0
    pending = [(1.0, target, ())]
    for draft in drafts:
        after = []
        for weight, left, tried in pending:
            probs = draft(tried)
            output += weight * np.minimum(left, probs)
            accepted += weight * overlap(left, probs)
            residual = np.maximum(left - probs, 0.0)
            for token in np.flatnonzero(probs > left):  # drafted and rejected
                reached = weight * (probs[token] - left[token])
                after.append((reached, residual / residual.sum(), (*tried, token)))
        pending = after
    for weight, left, _ in pending:
        output += weight * left
    return output, accepted


def without(tried):
    """The draft distribution without the tried tokens, renormalised."""
    left = np.where(np.isin(np.arange(3), tried), 0.0, DRAFT)
    return left / left.sum()


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        pytest.param(lambda tried: DRAFT, 0.76000, id="L2-with-replacement"),
        pytest.param(without, 0.80857, id="L2-without-replacement"),
    ],
)
def test_two_sampled_children(draft, expected):
    output, accepted = verify_children(TARGET, [draft, draft])
    assert_allclose(accepted, expected, atol=PRINTED)
    assert_allclose(output, TARGET, rtol=1e-12)


def test_L3_point_mass_children_accept_their_target_mass():
    points = [lambda tried, x=x: np.eye(3)[x] for x in (1, 2)]
    output, accepted = verify_children(TARGET, points)
    assert_allclose(accepted, 0.5)
    assert_allclose(output, TARGET, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_tree((0.3, 0.6), 4), "must not rise"),
        (lambda: best_tree((0.7, 0.6), 4), "sum to at most 1 over siblings, got 1.3"),
        (lambda: best_tree((1.2,), 4), "child_probs must be within .* got 1.2"),
        (lambda: best_tree(0.5, 4), r"got shape \(\)"),
        (lambda: best_tree((), 4), r"got shape \(0,\)"),
        (lambda: best_tree(CHILDREN, 0), "nodes must be a whole number >= 1, got 0"),
        (lambda: best_tree(CHILDREN, 4, depth=-1), "depth must be a whole number >= 0, got -1"),
    ],
)
def test_refusals_name_the_value(call, message):
    with pytest.raises(SpecsimError, match=message):
        call()
