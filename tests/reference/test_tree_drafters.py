"""Trees in the decoder: the pass over one, the drafters that grow one, and the text they leave
alone."""

import copy

import pytest
import torch
from torch import Tensor

from reference import ConfidenceTree, DraftModel, StaticTree, Tree, generate, speculate
from reference.cache import KVCache
from reference.drafters import Drafter, Proposal
from reference.sampling import SamplingParameters
from reference.sequences import Sequences
from reference.transformer import Transformer, prefill
from reference.trees import branches
from specsim.checks import SpecsimError

NEW = 24
PROMPTS = [[17], [3, 41], [9, 9, 30, 2, 55], [8, 7, 6, 5, 4, 3, 2, 1, 0], [60, 0] * 8]
BUSHY = Tree((0, 0, 0, 1, 1, 2, 4, 6))
SHAPES = [Tree.branching((1,) * 3), Tree.branching((4,)), Tree.branching((2, 2, 1)), BUSHY]
KINDS = ["static", "drawn", "with replacement", "confidence"]


@pytest.fixture(scope="module")
def pair(tiny, perturbed):
    target = tiny(2)
    return target, perturbed(target, 0.15)


@pytest.fixture(scope="module")
def small_pair(tiny, sampled_texts):
    fields = sampled_texts.MODEL
    return tiny(11, num_layers=1, **fields), tiny(12, num_layers=1, **fields)


@pytest.fixture(scope="module")
def expected(pair, argmax_loop) -> list[list[int]]:
    return [argmax_loop(pair[0], prompt, NEW) for prompt in PROMPTS]


def drafter_of(kind: str, draft: Transformer, tree: Tree = BUSHY) -> Drafter:
    if kind == "confidence":
        return ConfidenceTree(draft, min(tree.nodes, 9 * tree.depth - 6), tree.depth, width=3)
    return StaticTree(draft, tree, drawn=kind != "static", replacement=kind == "with replacement")


def path_to(parents: list[int], node: int) -> list[int]:
    return [] if node == 0 else [*path_to(parents, parents[node - 1]), node]


# One pass over a tree


def test_a_pass_over_a_tree_is_a_pass_over_each_of_its_paths(pair, sequences_of) -> None:
    target = pair[0]
    sequences = sequences_of(PROMPTS, 2 * BUSHY.nodes)
    capacity = sequences.tokens.shape[1]
    cache = KVCache(target.architecture, len(PROMPTS), capacity, target.dtype)
    with torch.inference_mode():
        prefill(target, sequences, cache)
        cache.fill_with_noise(0)
        for keys in (*cache.keys, *cache.values):
            for row, prompt in enumerate(PROMPTS):
                keys[row, len(prompt) - 1 :] = 1e3  # left over from elsewhere
        layout = BUSHY.layout(len(PROMPTS))
        drafted = torch.randint(61, (len(PROMPTS), BUSHY.nodes))
        nodes, lengths = torch.arange(BUSHY.nodes + 1), sequences.lengths
        kept = branches(layout.ancestors, nodes, lengths)
        tokens = torch.cat((sequences.pending, drafted), dim=1)
        positions = lengths[:, None] + layout.depths
        logits = target(tokens, positions, cache, capacity, kept)
        for row, prompt in enumerate(PROMPTS):
            for node in nodes.tolist():
                path = drafted[row, [n - 1 for n in path_to(list(BUSHY.parents), node)]].tolist()
                whole = target(torch.tensor([prompt + path]))[0, -1]
                torch.testing.assert_close(logits[row, node], whole)


def test_a_view_of_some_sequences_moves_their_slots_alone(pair) -> None:
    cache = KVCache(pair[0].architecture, 3, 10, torch.float64)
    cache.fill_with_noise(10)
    expected = [tensor.clone() for tensor in cache.tensors()]
    for tensor in expected:
        tensor[1:, 2:4] = tensor[1:, [5, 7]]
    cache.rows(slice(1, 3)).move(torch.tensor([[5, 7]] * 2), torch.tensor([[2, 3]] * 2))
    for tensor, moved in zip(cache.tensors(), expected, strict=True):
        assert torch.equal(tensor, moved)


def test_the_accepted_path_is_moved_to_where_a_chain_would_stand(pair) -> None:
    shape = pair[0].architecture
    cache = KVCache(shape, 2, 10, torch.float64)
    cache.fill_with_noise(10)
    before = [tensor.clone() for tensor in (*cache.keys, *cache.values)]
    cache.move(torch.tensor([[3, 2, 2], [5, 7, 9]]), torch.tensor([[2, 3, 4], [5, 6, 7]]))
    for old, new in zip(before, (*cache.keys, *cache.values), strict=True):
        assert torch.equal(new[0], old[0, [0, 1, 3, 2, 2, 5, 6, 7, 8, 9]])
        assert torch.equal(new[1], old[1, [0, 1, 2, 3, 4, 5, 7, 9, 8, 9]])


# What is drafted


class Recorder(Drafter):
    """Passes on what another drafter proposes, and keeps it with the text so far."""

    def __init__(self, drafter: Drafter):
        self.drafter, self.cycles = drafter, []
        self.gamma, self.nodes = drafter.gamma, drafter.nodes

    def start(self, *given) -> None:
        self.drafter.start(*given)

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        proposal = self.drafter.propose(sequences, sampling, uniforms)
        for row, length in enumerate(sequences.lengths.tolist()):
            text = sequences.tokens[row, : length + 1].tolist()
            distributions = None if proposal.probabilities is None else proposal.probabilities[row]
            parents = proposal.tree.parents[row].tolist()
            self.cycles.append((text, proposal.tokens[row].tolist(), distributions, parents))
        return proposal


def recorded(pair, drafter: Drafter, sampling: SamplingParameters, **options) -> list[tuple]:
    recorder = Recorder(drafter)
    speculate(pair[0], recorder, PROMPTS, NEW, sampling.temperature, seed=1, **options)
    assert len(recorder.cycles) > 20
    return recorder.cycles


def distribution_after(model: Transformer, text: list[int], sampling: SamplingParameters) -> Tensor:
    return sampling.probabilities(model(torch.tensor([text]))[0, -1])


@pytest.mark.parametrize("tree", SHAPES, ids=lambda tree: str(tree.parents))
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_static_tree_holds_the_likeliest_children(pair, tree: Tree, temperature: float) -> None:
    """In cycles of every sequence, so whatever of the path before it was accepted."""
    drafter = StaticTree(pair[1], tree)
    cycles = recorded(pair, drafter, SamplingParameters(temperature))
    for text, tokens, distributions, parents in cycles[::3]:
        assert parents == list(tree.parents)
        assert distributions is None
        for parent in set(parents):
            path = [tokens[node - 1] for node in path_to(parents, parent)]
            distribution = distribution_after(pair[1], text + path, SamplingParameters(1.0))
            children = [tokens[node] for node, above in enumerate(parents) if above == parent]
            assert children == distribution.topk(len(children)).indices.tolist()


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("tree", SHAPES, ids=lambda tree: str(tree.parents))
def test_drawn_children_report_the_drafts_distribution_given_their_elder_siblings(
    pair, tree: Tree, replacement: bool
) -> None:
    sampling = SamplingParameters(0.8)
    drafter = StaticTree(pair[1], tree, drawn=True, replacement=replacement)
    for text, tokens, distributions, parents in recorded(pair, drafter, sampling)[::3]:
        for node, parent in enumerate(parents):
            path = [tokens[above - 1] for above in path_to(parents, parent)]
            distribution = distribution_after(pair[1], text + path, sampling)
            if not replacement:
                elders = [tokens[n] for n in range(node) if parents[n] == parent]
                distribution[elders] = 0
                assert tokens[node] not in elders
            torch.testing.assert_close(distributions[node], distribution / distribution.sum())
            assert distributions[node, tokens[node]] > 0


def grown_by_hand(model, text, nodes, depth, width) -> tuple[list[int], list[int]]:
    """Beam search over paths; the best nodes of all that it has seen, by level."""
    seen, frontier = [], [((), 1.0)]
    for _ in range(depth):
        found = []
        for path, worth in frontier:
            top = distribution_after(model, text + list(path), SamplingParameters(1.0)).topk(width)
            chances = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            found += [((*path, token), worth * chance) for token, chance in chances]
        seen += found
        frontier = sorted(found, key=lambda x: -x[1])[:width]
    kept = {path for path, _ in sorted(seen, key=lambda x: -x[1])[:nodes]}
    return kept


@pytest.mark.parametrize(("nodes", "depth", "width"), [(8, 4, 3), (3, 1, 4), (5, 5, 1), (14, 3, 4)])
def test_a_confident_tree_is_that_of_a_beam_search(pair, nodes, depth, width) -> None:
    drafter = ConfidenceTree(pair[1], nodes, depth, width)
    for text, tokens, distributions, parents in recorded(pair, drafter, SamplingParameters(0.0))[
        ::7
    ]:
        assert distributions is None
        paths = [tuple(tokens[n - 1] for n in path_to(parents, i + 1)) for i in range(nodes)]
        assert set(paths) == grown_by_hand(pair[1], text, nodes, depth, width)
        assert [len(path) for path in paths] == sorted(map(len, paths))


# The text is the target's


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tree", SHAPES, ids=lambda tree: str(tree.parents))
def test_greedy_text_is_that_of_plain_decoding(pair, expected, kind: str, tree: Tree) -> None:
    target, draft = pair
    batch = speculate(target, drafter_of(kind, draft, tree), PROMPTS, NEW)
    assert batch.tokens == expected
    assert 0 < batch.statistics.accepted < batch.statistics.drafted, "nothing is put to the test"
    alone = tree.nodes % len(PROMPTS)
    result = speculate(target, drafter_of(kind, draft, tree), PROMPTS[alone], NEW)
    assert result.tokens == expected[alone]


@pytest.mark.parametrize("kind", ["static", "confidence"])
def test_so_it_is_with_a_repetition_penalty(pair, expected, kind: str) -> None:
    target, draft = pair
    plain = generate(target, PROMPTS, NEW, repetition_penalty=1.4).tokens
    assert plain != expected
    drafter = drafter_of(kind, draft)
    assert speculate(target, drafter, PROMPTS, NEW, repetition_penalty=1.4).tokens == plain


@pytest.mark.parametrize("kind", ["static", "drawn", "confidence"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_that_is_the_target_is_always_accepted(pair, kind: str, temperature) -> None:
    """Both sides must count the same history, the drafts on the path included."""
    if temperature and kind != "drawn":
        return  # the likeliest tokens are not always those that are drawn
    options = {"repetition_penalty": 1.7, "min_p": 0.02}
    run = speculate(pair[0], drafter_of(kind, pair[0]), PROMPTS, NEW, temperature, **options)
    if kind == "drawn" and temperature:  # the first child is accepted, which may be a leaf
        assert run.statistics.survival[0] == 1
    else:
        assert run.statistics.survival[1] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_fills_the_context_and_stops_at_a_stop(tiny, perturbed, kind: str) -> None:
    target = tiny(5, max_context=24)
    prompts = [[7] * length for length in (1, 20, 23)]
    expected = generate(target, prompts, 100).tokens
    for tree in (Tree.branching((2,)), BUSHY, Tree.branching((3, 2, 2, 1))):
        drafter = drafter_of(kind, perturbed(target, 0.2), tree)
        assert speculate(target, drafter, prompts, 100).tokens == expected
        stop = expected[0][9]
        result = speculate(target, drafter, prompts, 100, stop_ids=[stop]).tokens
        assert result == [row[: row.index(stop) + 1] if stop in row else row for row in expected]


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("gamma", [1, 3])
def test_a_chain_drafted_as_a_tree_writes_what_a_chain_does(pair, gamma: int, drawn: bool) -> None:
    target, draft = pair
    options = {"temperature": 0.9 if drawn else 0.0, "top_p": 0.9, "seed": 3}
    chain = speculate(target, DraftModel(draft, gamma), PROMPTS, NEW, **options)
    tree = speculate(
        target, StaticTree(draft, Tree.branching((1,) * gamma), drawn), PROMPTS, NEW, **options
    )
    assert tree.tokens == chain.tokens
    assert tree.statistics.accepted_counts == chain.statistics.accepted_counts


@pytest.mark.parametrize("kind", KINDS)
def test_matching_writes_one_text_whatever_drafts(pair, kind: str) -> None:
    options = {"temperature": 0.9, "top_p": 0.95, "seed": 5, "rule": "match"}
    expected = generate(pair[0], PROMPTS, NEW, **options).tokens
    result = speculate(pair[0], drafter_of(kind, pair[1]), PROMPTS, NEW, **options)
    assert result.tokens == expected
    assert result.statistics.accepted > 0


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_as_cuda_graphs_trees_write_the_same_text(pair, expected, kind: str) -> None:
    target, draft = (copy.deepcopy(model).cuda() for model in pair)
    drafter = drafter_of(kind, draft)
    for _ in range(2):  # recorded, then replayed
        assert speculate(target, drafter, PROMPTS, NEW, mode="cuda-graphs").tokens == expected
    sampled = [
        speculate(target, drafter, PROMPTS, NEW, temperature=0.9, seed=1, mode=mode).tokens
        for mode in ("eager", "cuda-graphs")
    ]
    assert sampled[0] == sampled[1]


# In distribution, when sampled


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        *((kind, "token") for kind in KINDS if kind != "with replacement"),
        pytest.param("with replacement", "token", marks=pytest.mark.slow),
        ("drawn", "match"),
        *(pytest.param(k, "match", marks=pytest.mark.slow) for k in KINDS if k != "drawn"),
    ],
)
def test_sampled_texts_have_the_targets_distribution(small_pair, sampled_texts, kind, rule) -> None:
    target, draft = small_pair
    drafter = drafter_of(kind, draft, Tree.branching((2, 2)))
    counts = sampled_texts.counts(target, drafter, temperature=0.8, top_k=4, rule=rule)
    distribution = sampled_texts.distribution(target, SamplingParameters(0.8, top_k=4))
    assert sampled_texts.tail(counts, distribution) > 1e-3
    marginals = zip(
        sampled_texts.marginals(counts), sampled_texts.marginals(distribution), strict=True
    )
    shifted = []
    for drawn, wanted in marginals:
        assert sampled_texts.tail(drawn, wanted) > 1e-3
        shifted.append(sampled_texts.tail(drawn, sampled_texts.shifted(wanted)))
    assert min(shifted) < 1e-3, "two percentage points at one place would not be seen"


class Dishonest(StaticTree):
    """Draws without replacement, and reports the first child's distribution for all children."""

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        proposal = super().propose(sequences, sampling, uniforms)
        eldest = [self.tree.parents.index(parent) for parent in self.tree.parents]
        return proposal._replace(probabilities=proposal.probabilities[:, eldest])


class Forgetful(StaticTree):
    """Says that its likeliest children were drawn."""

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        drawn = self.drawn
        self.drawn = True
        distributions = super().propose(sequences, sampling, uniforms).probabilities
        self.drawn = drawn
        return super().propose(sequences, sampling, uniforms)._replace(probabilities=distributions)


@pytest.mark.parametrize(("defect", "drawn"), [(Dishonest, True), (Forgetful, False)])
def test_a_wrong_distribution_would_be_seen(small_pair, sampled_texts, defect, drawn: bool) -> None:
    target, draft = small_pair
    drafter = defect(draft, Tree.branching((3, 1)), drawn=drawn)
    distribution = sampled_texts.distribution(target, SamplingParameters(1.0))
    assert sampled_texts.depart(target, drafter, distribution, temperature=1.0)


# What the cycles did, and what is refused


def test_statistics_count_levels_not_nodes(pair) -> None:
    statistics = speculate(pair[0], drafter_of("static", pair[1]), PROMPTS, NEW).statistics
    assert statistics.gamma == BUSHY.depth
    assert statistics.drafted == BUSHY.depth * statistics.cycles
    assert len(statistics.accepted_histogram) == BUSHY.depth + 1
    assert statistics.tokens_per_cycle == pytest.approx(1 + sum(statistics.survival))


def test_more_children_are_accepted_more_often(pair) -> None:
    rates = [
        speculate(
            pair[0], StaticTree(pair[1], Tree.branching(factors)), PROMPTS, 60
        ).statistics.tokens_per_cycle
        for factors in [(1, 1, 1), (2, 2, 1), (4, 2, 2)]
    ]
    assert rates == sorted(set(rates))


@pytest.mark.parametrize("rule", ["block", "typical"])
def test_rules_of_chains_are_refused_by_name(pair, rule: str) -> None:
    with pytest.raises(SpecsimError, match=f"{rule!r} .* for chains; .* trees: token, match"):
        speculate(pair[0], drafter_of("static", pair[1]), [1], 5, temperature=1.0, rule=rule)


def test_greedy_decoding_has_one_rule(pair, expected) -> None:
    for rule in ("token", "match", "block", "typical"):
        result = speculate(pair[0], drafter_of("static", pair[1]), PROMPTS, NEW, rule=rule)
        assert result.tokens == expected


@pytest.mark.parametrize(
    ("nodes", "depth", "width", "named"),
    [
        (3, 4, 2, "depth 4 and width 2 has 4 to 14 nodes, not 3"),
        (15, 4, 2, "4 to 14 nodes, not 15"),
        (3, 0, 2, "must be at least 1, not 0 and 2"),
        (3, 2, 0, "must be at least 1, not 2 and 0"),
    ],
)
def test_a_tree_that_cannot_be_grown_is_named(pair, nodes, depth, width, named) -> None:
    with pytest.raises(SpecsimError, match=named):
        ConfidenceTree(pair[1], nodes, depth, width)


@pytest.mark.parametrize("spoilt", ["target", "draft"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_distributions_that_are_not_finite_are_reported(
    pair, perturbed, spoilt, temperature
) -> None:
    target, draft = (perturbed(model, 0.1) for model in pair)
    (target if spoilt == "target" else draft).head.weight[7, 3] = torch.nan
    drafter = drafter_of("drawn", draft)
    if spoilt == "draft" and temperature == 0:  # what the target judges may come from anywhere
        expected = generate(target, PROMPTS, NEW).tokens
        assert speculate(target, drafter, PROMPTS, NEW).tokens == expected
    else:
        with pytest.raises(SpecsimError, match="not finite"):
            speculate(target, drafter, PROMPTS, NEW, temperature)


def test_more_children_than_tokens_are_refused(small_pair) -> None:
    with pytest.raises(SpecsimError, match="has 6 children, but there are 5 tokens"):
        speculate(small_pair[0], StaticTree(small_pair[1], Tree.branching((6,))), [1], 3)
    with pytest.raises(SpecsimError, match="has 6 children, but there are 5 tokens"):
        speculate(small_pair[0], ConfidenceTree(small_pair[1], 6, 1, 6), [1], 3)
