"""Exactness of trees by enumeration: what (draft, walk, residual, bonus) emits has the right
distribution.

As in `test_verification`, the checker knows nothing of how a rule works: it finds by bisection
where the rule's decisions change, and integrates over chance exactly. Here a decision is the node
at which the walk ends, and so the path. The same checker rejects the defects that are planted.
Worked examples carry an id (L1, L2, …) in the test's id.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from thresholds import last_u_where
from torch import Tensor
from torch.testing import assert_close

from reference.drafters.tree import draw_children, probs_without
from reference.sampling import draw
from reference.tree_verification import (
    TREE_RULES,
    TreeVerdict,
    follow,
    match_tree,
    row,
    stacked,
    verify_tree,
)
from reference.trees import Layout, Tree, lay_out
from reference.verification import residual, verify, verify_greedy
from specsim.acceptance.optimal_trees import best_tree

Rule = Callable[[Tensor, Tensor | None, Tensor, Tensor, Layout], TreeVerdict]

EXACT = 1e-9
START = 0  # the token that every text follows
BISECTIONS = 36

PAIR, TRIPLE, FORK = Tree.branching((2,)), Tree.branching((3,)), Tree.branching((1, 2))
COMB, BINARY = Tree((0, 0, 1)), Tree.branching((2, 2))
CROOKED = Tree((0, 0, 1, 1, 3))
# vocabulary and shape; together they take seconds
WORLDS = [
    (2, PAIR), (2, CROOKED), (2, BINARY), (3, PAIR), (3, TRIPLE), (3, COMB), (3, FORK),
    (3, Tree.branching((1,) * 3)), (4, COMB), (5, PAIR), (5, TRIPLE), (5, FORK),
]  # fmt: skip
by_world = pytest.mark.parametrize(
    ("size", "tree"), WORLDS, ids=lambda x: str(getattr(x, "parents", x))
)


# Bigram worlds: row c of a table is the distribution of the token after c


def random_tables(seed: int, size: int, zeros: float = 0.0) -> tuple[Tensor, Tensor]:
    """Target and draft tables (V, V), with about a share `zeros` of forbidden tokens in each."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand((2, size, size), generator=generator, dtype=torch.float64).log().neg()
    forbidden = torch.rand((2, size, size), generator=generator) < zeros
    forbidden.scatter_(2, torch.randint(size, (2, size, 1), generator=generator), False)
    weights = weights.masked_fill(forbidden, 0.0)
    target, draft = weights / weights.sum(-1, keepdim=True)
    return target, draft


def all_strings(size: int, length: int) -> Tensor:
    strings = list(itertools.product(range(size), repeat=length))
    return torch.tensor(strings, dtype=torch.long).view(size**length, length)


def same_everywhere(*distribution: float) -> Tensor:
    return torch.tensor(distribution, dtype=torch.float64).expand(len(distribution), -1)


B_TARGET, B_DRAFT = same_everywhere(0.5, 0.3, 0.2), same_everywhere(0.2, 0.5, 0.3)


@dataclass(frozen=True)
class Drafting:
    """Trees of tokens (K, N) that may be drafted, their chances (K,), and distributions (K, N, V)
    reported."""

    tree: Tree
    tokens: Tensor
    weights: Tensor
    reported: Tensor | None

    @property
    def layout(self) -> Layout:
        return self.tree.layout(len(self.tokens))

    def distributions(self, table: Tensor) -> Tensor:
        """The distributions (K, N+1, V) after every node."""
        return table[F.pad(self.tokens, (1, 0), value=START)]


def sampled(draft: Tensor, tree: Tree, replacement: bool = False) -> Drafting:
    """Every tree that children drawn one after the other may give, as `probs_without` says."""
    tokens = all_strings(len(draft), tree.nodes)
    texts = F.pad(tokens, (1, 0), value=START)
    distributions, elders = [], {}
    for node, parent in enumerate(tree.parents, start=1):
        taken = elders.setdefault(parent, [])
        distribution = draft[texts[:, parent]]
        if taken and not replacement:
            distribution = probs_without(distribution, texts[:, taken])
        distributions.append(distribution)
        taken.append(node)
    distributions = torch.stack(distributions, dim=1)
    weights = distributions.gather(-1, tokens[..., None]).squeeze(-1).prod(1)
    return Drafting(tree, tokens, weights, distributions)


def likeliest(draft: Tensor, tree: Tree) -> Drafting:
    """The likeliest children of every node, without chance."""
    texts, ranks = [START], []
    for node, parent in enumerate(tree.parents):
        ranks.append(tree.parents[:node].count(parent))
        texts.append(draft[texts[parent]].argsort(descending=True, stable=True)[ranks[-1]].item())
    ones = torch.ones(1, dtype=torch.float64)
    return Drafting(tree, torch.tensor([texts[1:]]), ones, None)


def told(drafting: Drafting, size: int) -> Drafting:
    """The same point masses, with their one-hot distributions reported."""
    one_hot = F.one_hot(drafting.tokens, size).double()
    return Drafting(drafting.tree, drafting.tokens, drafting.weights, one_hot)


# The checker


def decisions(rule: Rule, target: Tensor, drafting: Drafting) -> tuple[Tensor, Tensor]:
    """P(the walk of tree k ends at node i), (K, N+1), and what follows, (K, N+1, V).

    Every uniform but the last has one threshold, at most, where the walk changes: the thresholds
    cut chance into 2^N boxes. Each is tried near three of its corners; all must agree.
    """
    if drafting.reported is None or rule is match_tree:
        return decisions_by_cells(rule, target, drafting)
    (count, nodes), size = drafting.tokens.shape, len(target)
    distributions = drafting.distributions(target)

    layout_of = cache(drafting.tree.layout)  # by the number of rows

    def decide(rows: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        layout = layout_of(len(rows))
        verdict = rule(
            distributions[rows], drafting.reported[rows], drafting.tokens[rows], uniforms, layout
        )
        return end_of(verdict), verdict.next_token

    sides = all_strings(2, nodes).double()  # below or above each threshold, (C, N)
    extremes = F.pad(sides * (1 - 2**-53), (0, 1))  # (C, N+1)
    own = torch.eye(nodes, nodes + 1, dtype=torch.bool)[:, None, None]  # (N, 1, 1, N+1)
    others = torch.stack([extremes[sides[:, i] == 0] for i in range(nodes)])[:, None]
    corners = len(sides) // 2  # of the other uniforms

    def end_at(u: Tensor) -> Tensor:
        """Where the walk ends if uniform i of a tree is u (K · N, M), and the others are in their
        corners: (K · N, M, C / 2)."""
        uniforms = torch.where(own, u.view(count, nodes, -1, 1, 1), others)  # (K, N, M, C / 2, N+1)
        each = torch.arange(count).repeat_interleave(uniforms[0, ..., 0].numel())
        return decide(each, uniforms.view(-1, nodes + 1))[0].view(count * nodes, -1, corners)

    at_zero = end_at(torch.zeros((count * nodes, 1), dtype=torch.float64))
    thresholds = last_u_where(
        lambda u: (end_at(u) == at_zero).all(2), count * nodes, BISECTIONS, corners
    ).view(count, nodes)
    low = sides * thresholds[:, None]  # the corners of every box, (K, C, N)
    high = torch.where(sides == 1, 1.0, thresholds[:, None])
    chances = (high - low).prod(-1)  # (K, C)
    tree, box = (chances > 1e-12).nonzero(as_tuple=True)
    end = None
    for place in (1e-3, 0.5, 1 - 1e-3):
        inside = F.pad((low + place * (high - low))[tree, box], (0, 1))
        again, _ = decide(tree, inside)
        assert end is None or torch.equal(again, end), "one threshold is not enough"
        end = again
    # the next token is at most t up to a boundary, for every box and t < V - 1 at once
    inside = (low + high)[tree, box].div(2).repeat_interleave(size - 1, 0)
    t = torch.arange(size - 1).repeat(len(tree))
    trees = tree.repeat_interleave(size - 1)

    def is_at_most_t(u: Tensor) -> Tensor:
        uniforms = torch.cat((inside.repeat_interleave(u.shape[1], 0), u.reshape(-1, 1)), dim=1)
        return decide(trees.repeat_interleave(u.shape[1]), uniforms)[1].view(u.shape) <= t[:, None]

    boundaries = last_u_where(is_at_most_t, len(t), BISECTIONS).view(-1, size - 1)
    edges = torch.zeros((len(tree), 1), dtype=torch.float64)
    next_distributions = torch.cat((edges, boundaries, edges + 1), dim=1).diff(
        dim=1
    )  # of every box
    weights = chances[tree, box]
    following = torch.zeros((count, nodes + 1, size), dtype=torch.float64)
    following.index_put_((tree, end), weights[:, None] * next_distributions, accumulate=True)
    counts = following.sum(-1)
    return counts, following / counts.clamp(min=1e-300)[..., None]


def decisions_by_cells(rule: Rule, target: Tensor, drafting: Drafting) -> tuple[Tensor, Tensor]:
    """The same for a rule that may change its mind wherever a cumulative sum of p ends."""
    (count, nodes), size = drafting.tokens.shape, len(target)
    distributions, reported = drafting.distributions(target), drafting.reported
    cells = all_strings(size, nodes + 1)  # (C, N+1)
    columns = torch.arange(nodes + 1)
    widths = distributions[:, columns, cells]  # (K, C, N+1)
    starts = (distributions.cumsum(-1) - distributions)[:, columns, cells]
    tree, cell = (widths.prod(-1) > 1e-12).nonzero(as_tuple=True)
    layout = drafting.tree.layout(len(tree))
    verdict = None
    for place in (1e-3, 0.5, 1 - 1e-3):
        uniforms = (starts + place * widths)[tree, cell]
        told = None if reported is None else reported[tree]
        again = rule(distributions[tree], told, drafting.tokens[tree], uniforms, layout)
        assert verdict is None or all(map(torch.equal, verdict, again)), "the cells are too large"
        verdict = again
    following = torch.zeros((count, nodes + 1, size), dtype=torch.float64)
    place = (tree, end_of(verdict), verdict.next_token)
    following.index_put_(place, widths.prod(-1)[tree, cell], accumulate=True)
    counts = following.sum(-1)
    return counts, following / counts.clamp(min=1e-300)[..., None]


def end_of(verdict: TreeVerdict) -> Tensor:
    """The node at which each walk ended, (K,)."""
    return F.pad(verdict.path, (1, 0))[:, -1]


def path_to(tree: Tree, node: int) -> list[int]:
    return [] if node == 0 else [*path_to(tree, tree.parents[node - 1]), node]


def distribution_error(rule: Rule, target: Tensor, drafting: Drafting) -> float:
    """How far the joint distribution of D + 1 tokens is from the target's, at worst; infinite if a
    token of probability 0 comes out when every uniform is exactly 0."""
    if emits_a_forbidden_token(rule, target, drafting):
        return float("inf")
    size, length = len(target), drafting.tree.depth + 1
    counts, following = decisions(rule, target, drafting)
    joint = torch.zeros(size**length, dtype=torch.float64)
    for node in range(drafting.tree.nodes + 1):
        path = [above - 1 for above in path_to(drafting.tree, node)]
        for y in range(size):
            ended = torch.full((len(drafting.tokens), 1), y)
            begun = torch.cat((drafting.tokens[:, path], ended), dim=1)
            weights = drafting.weights * counts[:, node] * following[:, node, y]
            joint += completed(target, begun, weights, length)
    strings = all_strings(size, length)
    wanted = completed(target, strings[:1, :0], torch.ones(1, dtype=torch.float64), length)
    return (joint - wanted).abs().max().item()


def completed(target: Tensor, begun: Tensor, weights: Tensor, length: int) -> Tensor:
    """The joint distribution (V ** length,) if the target continues the texts `begun` (K, n)."""
    size, done = len(target), begun.shape[1]
    rest = all_strings(size, length - done)
    texts = torch.cat((begun.repeat_interleave(len(rest), 0), rest.repeat(len(begun), 1)), dim=1)
    after = target[F.pad(texts, (1, 0), value=START)[:, done:-1]]
    completion = after.gather(-1, texts[:, done:, None]).squeeze(-1).prod(1)
    place = (texts * size ** torch.arange(length - 1, -1, -1)).sum(1)
    joint = torch.zeros(size**length, dtype=torch.float64)
    return joint.index_add_(0, place, weights.repeat_interleave(len(rest)) * completion)


def emits_a_forbidden_token(rule: Rule, target: Tensor, drafting: Drafting) -> bool:
    distributions, tokens = drafting.distributions(target), drafting.tokens
    zeros = torch.zeros((len(tokens), tokens.shape[1] + 1), dtype=torch.float64)
    verdict = rule(distributions, drafting.reported, tokens, zeros, drafting.layout)
    end = end_of(verdict)
    chances = row(distributions, end).gather(1, verdict.next_token[:, None])[:, 0]
    above = F.pad(torch.tensor(drafting.tree.parents), (1, 0)).expand(len(tokens), -1)
    texts = F.pad(tokens, (1, 0))
    for _ in range(drafting.tree.depth):
        parent = row(above, end)
        chance = row(distributions, parent).gather(1, row(texts, end)[:, None])[:, 0]
        chances = torch.where(end > 0, torch.minimum(chances, chance), chances)
        end = parent
    return bool((chances == 0)[drafting.weights > 0].any())


def mean_accepted(rule: Rule, target: Tensor, drafting: Drafting) -> float:
    counts, _ = decisions(rule, target, drafting)
    depths = torch.tensor(drafting.tree.depths).double()
    return (drafting.weights @ counts @ depths).item()


# Exactness


@pytest.mark.parametrize("zeros", [0.0, 0.4], ids=["full support", "forbidden tokens"])
@pytest.mark.parametrize("replacement", [False, True], ids=["without", "with replacement"])
@by_world
def test_drawn_children_leave_the_distribution_exact(size, tree, replacement, zeros) -> None:
    for seed in range(1 if tree.nodes > 2 else 2):  # 2^N boxes take their time
        target, draft = random_tables(seed, size, zeros)
        assert distribution_error(verify_tree, target, sampled(draft, tree, replacement)) < EXACT


@pytest.mark.parametrize("rule", [*TREE_RULES.values()])
@by_world
def test_the_likeliest_children_leave_the_distribution_exact(size, tree, rule: Rule) -> None:
    for seed in range(2):
        target, draft = random_tables(seed, size, zeros=0.2)
        assert distribution_error(rule, target, likeliest(draft, tree)) < EXACT


@by_world
def test_children_without_chance_are_point_masses_tried_in_turn(size, tree) -> None:
    """One draw that looks for itself among the children is the multi-round rule on point masses."""
    target, draft = random_tables(3, size, zeros=0.2)
    bare = likeliest(draft, tree)
    one_draw = decisions(verify_tree, target, bare)
    in_turn = decisions(verify_tree, target, told(bare, size))
    assert distribution_error(verify_tree, target, told(bare, size)) < EXACT
    assert_close(one_draw, in_turn, atol=EXACT, rtol=0)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize(("size", "tree"), [(2, BINARY), (3, PAIR), (3, COMB)])
def test_matching_needs_no_distribution_of_the_draft(size, tree, replacement) -> None:
    target, draft = random_tables(4, size, zeros=0.2)
    assert distribution_error(match_tree, target, sampled(draft, tree, replacement)) < EXACT


def test_children_beyond_the_support_of_the_draft_are_judged_as_well() -> None:
    """The draft allows one token, yet two children are drawn."""
    certain = same_everywhere(0.0, 1.0, 0.0)
    drafting = sampled(certain, PAIR)
    assert drafting.reported[drafting.weights > 0, 1].tolist() == [[0.5, 0, 0.5]] * 2
    assert distribution_error(verify_tree, B_TARGET, drafting) < EXACT
    assert mean_accepted(verify_tree, B_TARGET, drafting) > 0.3


def test_a_draft_that_is_the_target_is_always_accepted() -> None:
    target, _ = random_tables(3, 3)
    assert mean_accepted(verify_tree, target, sampled(target, FORK)) == pytest.approx(2, abs=EXACT)


@pytest.mark.parametrize("replacement", [False, True])
def test_a_chain_is_verified_as_a_chain(replacement: bool) -> None:
    target, draft = random_tables(5, 4, zeros=0.2)
    drafting = sampled(draft, Tree.branching((1,) * 3), replacement)
    uniforms = torch.rand((len(drafting.tokens), 4), dtype=torch.float64)
    given = (drafting.distributions(target), drafting.reported, drafting.tokens, uniforms)
    chain, tree = verify(*given), verify_tree(*given, drafting.layout)
    drawable = drafting.weights > 0
    assert torch.equal(tree.accepted[drawable], chain.accepted[drawable])
    assert torch.equal(tree.next_token[drawable], chain.next_token[drawable])


def test_without_drafts_the_next_token_is_the_targets() -> None:
    target, _ = random_tables(1, 4)
    for rule in TREE_RULES.values():
        tokens = torch.empty((1, 0), dtype=torch.long)
        bare = Drafting(Tree(()), tokens, torch.ones(1, dtype=torch.float64), None)
        assert distribution_error(rule, target, bare) < EXACT


# The checker can fail


def verify_tree_with(
    residual: Callable = residual, left_over: Callable = lambda distribution, p: distribution
) -> Rule:
    """The multi-round rule with one of its parts replaced, and the walk written out again."""

    def rule(target_probs, draft_probs, drafted, uniforms, layout):
        node = torch.zeros(len(drafted), dtype=torch.long)
        distribution, accepted, path = target_probs[:, 0], node, []
        for level in range(layout.depth):
            for child in row(layout.children, node).unbind(1):
                tried, draft = (child > 0) & (accepted == level), (child - 1).clamp(min=0)
                q, token = row(draft_probs, draft), row(drafted, draft)[:, None]
                u = row(uniforms, draft)
                kept = tried & (u * q.gather(1, token)[:, 0] < distribution.gather(1, token)[:, 0])
                distribution = torch.where(
                    (tried & ~kept)[:, None], residual(distribution, q), distribution
                )
                distribution = torch.where(kept[:, None], row(target_probs, child), distribution)
                node, accepted = torch.where(kept, child, node), accepted + kept
            path.append(node)
        distribution = left_over(distribution, row(target_probs, node))
        return TreeVerdict(accepted, stacked(path, node), draw(distribution, uniforms[:, -1]))

    return rule


def longest_of_all_paths(target_probs, draft_probs, drafted, uniforms, layout):
    """Tests every node by itself against p, and keeps the deepest path that passes."""
    above = F.pad(layout.parents, (1, 0))
    p = target_probs.gather(1, layout.parents[..., None].expand(-1, -1, target_probs.shape[-1]))
    p, q = (
        distributions.gather(-1, drafted[..., None])[..., 0] for distributions in (p, draft_probs)
    )
    passed = F.pad(uniforms[:, :-1] * q < p, (1, 0), value=True)
    whole = (passed[:, None] | ~layout.ancestors).all(-1)
    node = (whole * (layout.depths + 1)).argmax(1)
    path = [node]
    for _ in range(layout.depth - 1):
        path.append(row(above, path[-1]))
    rejected = row(draft_probs, (row(layout.children, node)[:, 0] - 1).clamp(min=0))
    p = row(target_probs, node)
    inner = (row(layout.children, node)[:, 0] > 0)[:, None]
    distribution = torch.where(inner, residual(p, rejected), p)
    path = torch.stack(path[::-1], dim=1)
    return TreeVerdict(row(layout.depths, node), path, draw(distribution, uniforms[:, -1]))


DEFECTS = {
    "tries every sibling against p itself": verify_tree_with(residual=lambda p, q: p),
    "draws what follows from p": verify_tree_with(left_over=lambda distribution, p: p),
    "does not normalise the residual": verify_tree_with(residual=lambda p, q: (p - q).clamp(min=0)),
    "keeps the longest of all paths": longest_of_all_paths,
}


def test_the_checker_accepts_the_shipped_parts_put_together_again() -> None:
    target, draft = random_tables(2, 3, zeros=0.3)
    assert distribution_error(verify_tree_with(), target, sampled(draft, COMB)) < EXACT


@cache
def worlds_that_are_exact(replacement: bool) -> list:
    """Four targets with drafted trees, all of which the shipped rule leaves exact."""
    tables = [random_tables(seed, 3) for seed in range(4)]
    worlds = [(target, sampled(draft, COMB, replacement)) for target, draft in tables]
    assert max(distribution_error(verify_tree, *world) for world in worlds) < EXACT
    return worlds


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("defect", DEFECTS)
def test_the_checker_rejects_a_rule_that(defect: str, replacement: bool) -> None:
    worlds = worlds_that_are_exact(replacement)
    assert any(distribution_error(DEFECTS[defect], *world) > 1e-3 for world in worlds)


def test_the_checker_rejects_a_q_that_still_holds_the_elder_siblings() -> None:
    target, draft = random_tables(2, 3)
    honest = sampled(draft, COMB)
    whole = sampled(draft, COMB, replacement=True).reported
    assert distribution_error(verify_tree, target, honest) < EXACT
    dishonest = Drafting(COMB, honest.tokens, honest.weights, whole)
    assert distribution_error(verify_tree, target, dishonest) > 1e-3


def test_the_checker_rejects_a_q_without_elder_siblings_that_is_not_normalised() -> None:
    target, draft = random_tables(2, 3)
    honest = sampled(draft, COMB)
    whole = sampled(draft, COMB, replacement=True).reported
    short = torch.where(honest.reported > 0, whole, 0.0)
    dishonest = Drafting(COMB, honest.tokens, honest.weights, short)
    assert distribution_error(verify_tree, target, dishonest) > 1e-3


def test_the_checker_rejects_children_without_chance_that_report_a_softmax() -> None:
    target, draft = random_tables(2, 3)
    honest = likeliest(draft, COMB)
    softmax = honest.distributions(draft)[:, [0, *COMB.parents]][:, 1:]
    assert distribution_error(verify_tree, target, honest) < EXACT
    dishonest = Drafting(COMB, honest.tokens, honest.weights, softmax)
    assert distribution_error(verify_tree, target, dishonest) > 1e-3


def test_the_checker_rejects_a_token_of_no_probability() -> None:
    def not_strict(target_probs, draft_probs, drafted, uniforms, layout):
        return verify_tree(target_probs, draft_probs, drafted, uniforms - 1e-12, layout)

    target, draft = random_tables(2, 3, zeros=0.5)
    drafting = sampled(draft, PAIR)
    assert distribution_error(verify_tree, target, drafting) < EXACT
    assert distribution_error(not_strict, target, drafting) == float("inf")


def test_the_checker_notices_a_rule_with_more_than_one_threshold() -> None:
    target, draft = random_tables(2, 3)
    with pytest.raises(AssertionError, match="one threshold is not enough"):
        distribution_error(lambda *given: match_tree(*given), target, sampled(draft, COMB))


# Worked vectors


@pytest.mark.parametrize(("replacement", "accepted"), [(True, 0.76), (False, 0.80857)])
def test_l2_two_children_are_accepted_more_often_without_replacement(replacement, accepted) -> None:
    drafting = sampled(B_DRAFT, PAIR, replacement)
    assert mean_accepted(verify_tree, B_TARGET, drafting) == pytest.approx(accepted, abs=6e-6)


def test_l3_children_without_chance_are_accepted_with_their_mass() -> None:
    drafting = likeliest(B_DRAFT, PAIR)
    assert drafting.tokens.tolist() == [[1, 2]]
    for rule in TREE_RULES.values():
        assert mean_accepted(rule, B_TARGET, drafting) == pytest.approx(0.5, abs=EXACT)


POSITIONAL = (0.6, 0.15, 0.08, 0.05, 0.03)  # the n-th child has this mass everywhere
POSITIONAL_LAW = same_everywhere(*POSITIONAL, 0.03, 0.03, 0.03)


def test_l1_the_best_tree_emits_what_its_paths_promise() -> None:
    tree = Tree.of_parents(best_tree(POSITIONAL, 4).parents[1:])
    table = POSITIONAL_LAW
    accepted = mean_accepted(verify_tree, table, likeliest(table, tree))
    assert accepted + 1 == pytest.approx(2.176, abs=EXACT)


@pytest.mark.parametrize(
    ("nodes", "depth", "expected"),
    [(8, None, 2.63560), (16, None, 3.10136), (16, 3, 2.95400), (64, None, 4.00845)],
)
def test_l1_larger_trees_on_drawn_choices(nodes: int, depth: int | None, expected: float) -> None:
    tree = Tree.of_parents(best_tree(POSITIONAL, nodes, depth).parents[1:])
    table, count = POSITIONAL_LAW, 20_000
    uniforms = torch.rand((count, nodes), generator=torch.Generator().manual_seed(0))
    choices = draw(table[0].expand(count, nodes, -1), uniforms)
    drafted = likeliest(table, tree).tokens.expand(count, -1)
    one = tree.layout(1)
    layout = Layout(*(field.expand(count, *field.shape[1:]) for field in one[:5]), one.depth)
    accepted = follow(choices, drafted, layout).accepted.double()
    error = accepted.std().item() / count**0.5
    assert accepted.mean().item() + 1 == pytest.approx(expected, abs=4 * error)


# The parts


def walked_by_hand(tree: Tree, choices: list[int], drafted: list[int]) -> list[int]:
    path = [0]
    while True:
        children = [n for n in range(1, tree.nodes + 1) if tree.parents[n - 1] == path[-1]]
        matching = [n for n in children if drafted[n - 1] == choices[path[-1]]]
        if not matching:
            return path[1:]
        path.append(matching[0])


@pytest.mark.parametrize("tree", [PAIR, CROOKED, BINARY, Tree.branching((3, 2, 1))])
def test_following_choices_is_a_walk_by_hand(tree: Tree) -> None:
    generator = torch.Generator().manual_seed(0)
    drafted = torch.randint(3, (200, tree.nodes), generator=generator)
    choices = torch.randint(3, (200, tree.nodes + 1), generator=generator)
    verdict = follow(choices, drafted, tree.layout(200))
    lengths = set()
    for b in range(200):
        path = walked_by_hand(tree, choices[b].tolist(), drafted[b].tolist())
        lengths.add(len(path))
        assert verdict.accepted[b] == len(path)
        padded = (path + [path[-1] if path else 0] * tree.depth)[: tree.depth]
        assert verdict.path[b].tolist() == padded
        assert verdict.next_token[b] == choices[b, path[-1] if path else 0]
    assert lengths == set(range(tree.depth + 1))


@pytest.mark.parametrize("gamma", [0, 1, 3])
def test_following_a_chain_is_verify_greedy(gamma: int) -> None:
    pairs = all_strings(2, 2 * gamma + 1)
    choices, drafted = pairs[:, : gamma + 1], pairs[:, gamma + 1 :]
    walked = follow(choices, drafted, Tree.branching((1,) * gamma).layout(len(pairs)))
    chain = verify_greedy(choices, drafted)
    assert torch.equal(walked.accepted, chain.accepted)
    assert torch.equal(walked.next_token, chain.next_token)


def test_every_row_of_a_batch_has_its_own_tree_and_is_decided_by_itself() -> None:
    target, draft = random_tables(6, 4)
    shapes = [
        Tree.branching((1,) * 4),
        Tree((0, 0, 1, 1)),
        Tree((0, 0, 0, 0)),
        Tree((0, 1, 1, 2)),
    ] * 50
    parents = torch.tensor([tree.parents for tree in shapes])
    mixed = lay_out(parents, 4, 4)
    generator = torch.Generator().manual_seed(1)
    uniforms = torch.rand((len(shapes), 5), generator=generator, dtype=torch.float64)
    drafts = [sampled(draft, tree) for tree in shapes[:4]]
    index = torch.randint(4**4, (len(shapes),), generator=generator).tolist()
    tokens = torch.stack([drafts[b % 4].tokens[k] for b, k in enumerate(index)])
    reported = torch.stack([drafts[b % 4].reported[k] for b, k in enumerate(index)])
    distributions = target[F.pad(tokens, (1, 0), value=START)]
    for rule in TREE_RULES.values():
        together = rule(distributions, reported, tokens, uniforms, mixed)
        assert len(set(together.accepted.tolist())) >= 4
        for b, tree in enumerate(shapes):
            one = slice(b, b + 1)
            alone = rule(
                distributions[one], reported[one], tokens[one], uniforms[one], tree.layout(1)
            )
            assert alone.accepted == together.accepted[b]
            assert alone.next_token == together.next_token[b]
            assert alone.path[0].tolist() == together.path[b, : tree.depth].tolist()


@pytest.mark.parametrize("replacement", [False, True])
def test_children_are_drawn_from_the_distributions_that_are_reported(replacement: bool) -> None:
    side = 300
    grid = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    uniforms = torch.cartesian_prod(grid, grid)
    distribution = B_DRAFT[0].expand(len(uniforms), -1)
    tokens, distributions = draw_children(distribution, uniforms, replacement)
    assert torch.equal(distributions[:, 0], distribution)
    expected = distribution if replacement else probs_without(distribution, tokens[:, :1])
    assert torch.equal(distributions[:, 1], expected)
    drawn = torch.bincount(tokens[:, 0] * 3 + tokens[:, 1], minlength=9) / len(uniforms)
    whole = sampled(B_DRAFT, PAIR, replacement)
    assert_close(drawn.double(), whole.weights, atol=3 / side, rtol=0)


def test_children_without_replacement_are_distinct_and_win_a_race_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    distribution = torch.rand((50, 6), generator=generator).softmax(-1)
    noise = torch.rand((50, 1, 6), generator=generator)
    tokens, _ = draw_children(distribution, noise.expand(-1, 4, -1))
    assert torch.equal(
        tokens, (distribution / -noise[:, 0].log()).argsort(dim=-1, descending=True)[:, :4]
    )
    assert probs_without(distribution, tokens).sum(-1).tolist() == pytest.approx([1] * 50)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("replacement", [False, True])
def test_a_million_walks_never_emit_a_token_of_probability_zero(dtype, replacement) -> None:
    count, tree = 250_000, COMB  # of each of four kinds
    target = torch.tensor([0.0, 0.5, 0.0, 0.5], dtype=dtype)
    draft = torch.tensor([0.4, 0.3, 0.3, 0.0], dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    uniforms = torch.rand((count, 7), generator=generator, dtype=dtype)
    uniforms[:128] = all_strings(2, 7) * (1 - 2**-24)
    first, distributions = draw_children(draft.expand(count, -1), uniforms[:, :2], replacement)
    below, distribution = draw_children(draft.expand(count, -1), uniforms[:, 2:3], replacement)
    tokens, distributions = (
        torch.cat((first, below), dim=1),
        torch.cat((distributions, distribution), dim=1),
    )
    one = tree.layout(1)
    layout = Layout(*(field.expand(count, *field.shape[1:]) for field in one[:5]), one.depth)
    verdict = verify_tree(
        target.expand(count, 4, -1), distributions, tokens, uniforms[:, 3:], layout
    )
    kept = F.pad(tokens, (1, 0), value=1).gather(1, verdict.path)
    for emitted in (verdict.next_token, kept[verdict.accepted > 0, 0], kept[verdict.accepted > 1]):
        assert (target[emitted] > 0).all()
    assert set(verdict.accepted.tolist()) == {0, 1, 2}
