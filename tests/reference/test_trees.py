"""The shape of trees: told in two ways, laid out for a batch, and the likeliest nodes of one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference.trees import Tree, branches, lay_out, likeliest_nodes
from specsim.acceptance.optimal_trees import best_tree
from specsim.checks import SpecsimError

BUSHY = Tree((0, 0, 0, 1, 1, 2, 4, 6))


@st.composite
def trees(draw, most: int = 12) -> Tree:
    parents = [draw(st.integers(0, node)) for node in range(draw(st.integers(0, most)))]
    return Tree.of_parents(parents)


def path_to(tree: Tree, node: int) -> list[int]:
    """The nodes from the root's child down to `node`."""
    return [] if node == 0 else [*path_to(tree, tree.parents[node - 1]), node]


# Told in two ways


def test_a_chain_is_a_tree_with_one_path() -> None:
    assert Tree.branching((1, 1, 1)).parents == (0, 1, 2)
    nothing = Tree.branching(())
    assert (nothing.nodes, nothing.depth, nothing.fanout) == (0, 0, 0)


def test_branching_factors_multiply() -> None:
    tree = Tree.branching((3, 2, 1))
    assert tree.parents == (0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9)
    assert (tree.nodes, tree.depth, tree.fanout) == (15, 3, 3)
    assert [len(level) for level in tree.levels] == [1, 3, 6, 6]
    assert list(tree.levels[2]) == [4, 5, 6, 7, 8, 9]


def test_the_best_tree_of_the_model_is_taken_as_it_is() -> None:
    best = best_tree((0.6, 0.15, 0.08, 0.05, 0.03), nodes=16)
    tree = Tree.of_parents(best.parents[1:])
    assert tree.nodes == 15
    assert [len(level) for level in tree.levels] == torch.bincount(
        torch.as_tensor(best.depths)
    ).tolist()
    assert tree.fanout == best.ranks.max() + 1


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Tree((0, 2)), "node 2 must have a parent in 0 … 1, not 2"),
        (lambda: Tree((-1,)), "node 1 must have a parent in 0 … 0, not -1"),
        (lambda: Tree((0, 1, 0)), "not level by level"),
        (lambda: Tree.of_parents([0, 3]), "node 2 must come after its parent, which is 3"),
        (lambda: Tree.branching((2, 0)), r"at least 1, not \[2, 0\]"),
    ],
)
def test_what_is_no_tree_is_named(make, named: str) -> None:
    with pytest.raises(SpecsimError, match=named):
        make()


# Laid out


@given(st.lists(trees(), min_size=1, max_size=4))
def test_a_layout_is_that_of_walks_by_hand_in_every_row(shapes: list[Tree]) -> None:
    count = min(tree.nodes for tree in shapes)
    shapes = [Tree(tree.parents[:count]) for tree in shapes]  # cut level by level
    parents = torch.tensor([tree.parents for tree in shapes]).view(len(shapes), count).long()
    depth, fanout = (max(getattr(tree, what) for tree in shapes) for what in ("depth", "fanout"))
    layout = lay_out(parents, depth, fanout)
    for row, tree in enumerate(shapes):
        assert layout.depths[row].tolist() == list(tree.depths)
        for node in range(count + 1):
            above = {0, *path_to(tree, node)}
            assert layout.ancestors[row, node].nonzero().flatten().tolist() == sorted(above)
            children = [child for child in range(1, count + 1) if tree.parents[child - 1] == node]
            padded = children + [0] * (fanout - len(children))
            assert layout.children[row, node].tolist() == padded
    assert layout.depth == depth


def test_one_shape_for_a_whole_batch() -> None:
    layout = BUSHY.layout(3)
    assert layout.children.shape == (3, 9, 3)
    for field in layout[:5]:
        assert torch.equal(field[0], field[2])


@pytest.mark.parametrize("tree", [BUSHY, Tree((0,) * 62), Tree((0,) * 63), Tree.branching((70, 1))])
def test_what_a_node_sees_is_told_by_slot_and_by_bit(tree: Tree) -> None:
    """The text and the node's ancestors; trees of 63 and 64 nodes with the root, and of 141."""
    lengths, window = torch.tensor([0, 5]), 200
    nodes = torch.arange(tree.nodes + 1)[-3:]
    kept = branches(tree.layout(2).ancestors[:, -3:], nodes, lengths)
    visible, bits = kept.visible(window), kept.bits()
    assert bits.shape == (2, 3, tree.nodes // 64 + 1)
    for row, length in enumerate(lengths.tolist()):
        for index, node in enumerate(nodes.tolist()):
            above = {0, *path_to(tree, node)}
            seen = {*range(length), *(length + other for other in above)}
            assert set(visible[row, index].nonzero().flatten().tolist()) == seen
            words = [word % (1 << 64) for word in bits[row, index].tolist()]
            assert sum(word << 64 * at for at, word in enumerate(words)) == sum(
                1 << other for other in above
            )


# The likeliest nodes


@given(tree=trees(), seed=st.integers(0, 999), ties=st.booleans(), data=st.data())
def test_the_likeliest_nodes_are_a_tree_and_the_likeliest(tree, seed, ties, data) -> None:
    count = data.draw(st.integers(0, tree.nodes))
    chances = torch.rand((2, tree.nodes), generator=torch.Generator().manual_seed(seed))
    if ties:
        chances = (2 * chances).ceil() / 2  # a half or one
    worth = torch.ones(2, tree.nodes)
    for node in range(1, tree.nodes + 1):
        for above in path_to(tree, node):
            worth[:, node - 1] *= chances[:, above - 1]
    parents = torch.tensor(tree.parents).long().expand(2, -1)
    chosen, new_parents = likeliest_nodes(parents, worth, count)
    for row in range(2):
        by_worth = sorted(range(tree.nodes), key=lambda node: (-worth[row, node].item(), node))
        kept = sorted(by_worth[:count])
        assert chosen[row].tolist() == kept
        number = {0: 0} | {node + 1: index for index, node in enumerate(kept, start=1)}
        assert new_parents[row].tolist() == [number[tree.parents[node]] for node in kept]
