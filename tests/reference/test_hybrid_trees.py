"""Trees of drafts on hybrids: a state for every branch, and that of the accepted path goes on."""

import copy
import itertools

import pytest
import torch
from hybrids import PROMPTS, SMALL, hybrid, noisy
from test_tree_verification import COMB, all_strings, decisions, path_to, random_tables, sampled
from torch import Tensor

from reference import ConfidenceTree, DraftModel, StaticTree, Tree, delta_net
from reference.decoding import generate, speculate
from reference.delta_net import StateCache, last_seen
from reference.sampling import SamplingParameters
from reference.transformer import prefill
from reference.tree_verification import TREE_RULES, match_tree, verify_tree
from reference.trees import branches

NEW = 12
BUSHY = Tree((0, 0, 0, 1, 1, 2, 4, 6))
WIDE, DEEP = Tree.branching((3, 2, 1)), Tree((0, 0, 1, 2, 3, 4, 5, 6, 7, 8))
SHAPES = [Tree((0,)), Tree.branching((1,) * 3), Tree.branching((4,)), WIDE, BUSHY, DEEP]
KINDS = ["static", "drawn", "confidence"]


@pytest.fixture(scope="module")
def models(tiny):
    """A target, and a hybrid and a Llama that draft for it."""
    target = hybrid(2)
    return target, {"hybrid": noisy(target), "llama": tiny(3)}


@pytest.fixture(scope="module")
def expected(models, argmax_loop) -> list[list[int]]:
    return [argmax_loop(models[0], prompt, NEW) for prompt in PROMPTS]


def drafter_of(kind: str, draft, tree: Tree = BUSHY):
    if kind == "confidence":
        return ConfidenceTree(draft, min(tree.nodes, 9 * tree.depth - 6), tree.depth, width=3)
    return StaticTree(draft, tree, drawn=kind == "drawn")


class PassOverATree:
    """What the target makes of trees of `drafted` tokens (B, N) after `prompts`, in one pass."""

    @torch.inference_mode()
    def __init__(self, target, sequences_of, prompts: list[list[int]], drafted: Tensor, tree: Tree):
        self.target, self.prompts, self.drafted, self.tree = target, prompts, drafted, tree
        sequences = sequences_of(prompts, 2 * tree.nodes + 2)
        capacity, self.lengths = sequences.tokens.shape[1], sequences.lengths
        self.cache = target.new_cache(len(prompts), capacity, tree.nodes)
        self.cache.fill_with_noise(capacity)  # left over from other texts
        prefill(target, sequences, self.cache)
        layout = tree.layout(len(prompts))
        nodes = torch.arange(tree.nodes + 1)
        kept = branches(layout.ancestors, nodes, self.lengths)
        tokens = torch.cat((sequences.pending, drafted), dim=1)
        positions = self.lengths[:, None] + layout.depths
        self.logits = target(tokens, positions, self.cache, capacity, kept)  # (B, N+1, V)

    def path(self, node: int) -> list[int]:
        return [above - 1 for above in path_to(self.tree, node)]

    @torch.inference_mode()
    def after(self, node: int, tokens: Tensor) -> Tensor:
        """The logits (B, T, V) of `tokens` (B, T) after the path to `node` was accepted."""
        cache, path = copy.deepcopy(self.cache), [0, *path_to(self.tree, node)]
        taken = self.lengths[:, None] + torch.tensor(path)
        cache.move(taken, self.lengths[:, None] + torch.arange(len(path)))
        places = self.lengths[:, None] + len(path) + torch.arange(tokens.shape[1])
        return self.target(tokens, places, cache)

    @torch.inference_mode()
    def whole(self, row: int, node: int, tokens: list[int]) -> Tensor:
        """The logits (T + 1, V) after that path and after each of `tokens`, read as one text."""
        text = self.prompts[row] + self.drafted[row, self.path(node)].tolist() + tokens
        return self.target(torch.tensor([text]))[0, -len(tokens) - 1 :]

    def error(self) -> float:
        """How far any logit of the pass, or of a later one after any accepted path, is from that of
        the whole text."""
        found, later = [], torch.randint(7, (len(self.prompts), min(3, self.tree.nodes + 1)))
        for node in range(self.tree.nodes + 1):
            after = torch.cat((self.logits[:, node : node + 1], self.after(node, later)), dim=1)
            for row, tokens in enumerate(later.tolist()):
                found.append((after[row] - self.whole(row, node, tokens)).abs().max())
        return torch.stack(found).max().item()


# One pass over a tree


@pytest.mark.parametrize("tree", SHAPES, ids=lambda tree: str(tree.parents))
def test_a_pass_over_a_tree_is_a_pass_over_each_of_its_paths(models, sequences_of, tree) -> None:
    """And after any of them is accepted, the next pass is that of the whole text."""
    drafted = torch.randint(61, (len(PROMPTS), tree.nodes))
    assert PassOverATree(models[0], sequences_of, PROMPTS, drafted, tree).error() < 1e-11


def test_without_a_convolution_too(sequences_of) -> None:
    target = hybrid(3, linear_conv_kernel_dim=1)
    drafted = torch.randint(61, (len(PROMPTS), BUSHY.nodes))
    assert PassOverATree(target, sequences_of, PROMPTS, drafted, BUSHY).error() < 1e-11


def test_a_token_sees_its_ancestors_and_then_the_text() -> None:
    visible = torch.tensor([[[1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]]).bool()
    assert last_seen(visible, 4).tolist() == [[[2, 1, 0, -1], [3, 1, 0, -1], [4, 3, 1, 0]]]


# The text is the target's


SPOKEN = [(kind, BUSHY, "hybrid") for kind in KINDS] + [("static", DEEP, "hybrid")]
SPOKEN += [("confidence", WIDE, "llama")]  # those that every run decodes
OTHERS = [x for x in itertools.product(KINDS, (WIDE, BUSHY, DEEP), ("hybrid", "llama"))
          if x not in SPOKEN]  # fmt: skip


@pytest.mark.parametrize(("kind", "tree", "draft"), [
    *SPOKEN, *(pytest.param(*each, marks=pytest.mark.slow) for each in OTHERS),
])  # fmt: skip
def test_greedy_text_is_that_of_plain_decoding(models, expected, kind, tree, draft) -> None:
    target, drafts = models
    drafter = drafter_of(kind, drafts[draft], tree)
    run = speculate(target, drafter, PROMPTS, NEW)
    assert run.tokens == expected
    if draft == "hybrid":
        assert 0 < run.statistics.accepted < run.statistics.drafted, "nothing is put to the test"
    if (kind, tree, draft) in (SPOKEN[0], *OTHERS):
        for prompt, text in zip(PROMPTS, expected, strict=True):
            assert speculate(target, drafter, prompt, NEW).tokens == text


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", range(1, 9))
def test_so_it_is_for_every_depth(models, expected, kind: str, depth: int) -> None:
    parents = [(2 * level - 3, 2 * level - 2 - level % 2) for level in range(2, depth + 1)]
    tree = Tree((0, 0, *itertools.chain(*parents)))
    for draft in models[1].values():
        for prompts, texts in [(PROMPTS, expected), *zip(PROMPTS, expected, strict=True)]:
            drafter = drafter_of(kind, draft, tree)
            assert speculate(models[0], drafter, prompts, NEW).tokens == texts


def test_a_hybrid_drafts_the_tree_that_it_would_after_the_whole_text(models) -> None:
    """The draft model's own states follow its tree: what it drafts is its likeliest children."""
    target, drafts = models
    drafter = StaticTree(drafts["hybrid"], WIDE)
    propose, seen = drafter.propose, []

    def recorded(sequences, sampling, uniforms):
        proposal = propose(sequences, sampling, uniforms)
        for row, length in enumerate(sequences.lengths.tolist()):
            seen.append((sequences.tokens[row, : length + 1].tolist(), proposal.tokens[row]))
        return proposal

    drafter.propose = recorded
    speculate(target, drafter, PROMPTS, NEW)
    assert len(seen) > 20
    for text, drafted in seen[::3]:
        for parent in sorted(set(WIDE.parents)):
            path = drafted[[node - 1 for node in path_to(WIDE, parent)]].tolist()
            logits = drafts["hybrid"](torch.tensor([text + path]))[0, -1]
            children = [node for node, above in enumerate(WIDE.parents) if above == parent]
            assert drafted[children].tolist() == logits.topk(len(children)).indices.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_texts_fill_the_context_and_end_at_a_stop(kind: str) -> None:
    target = hybrid(5, max_position_embeddings=24)
    prompts = [[7] * length for length in (1, 20, 23)]
    plain = generate(target, prompts, 100).tokens
    drafter, stop = drafter_of(kind, noisy(target), BUSHY), plain[0][9]
    assert speculate(target, drafter, prompts, 100).tokens == plain
    cut = [row[: row.index(stop) + 1] if stop in row else row for row in plain]
    assert speculate(target, drafter, prompts, 100, stop_ids=[stop]).tokens == cut


@pytest.mark.parametrize("drawn", [False, True])
def test_a_chain_drafted_as_a_tree_writes_what_a_chain_does(models, drawn: bool) -> None:
    target, draft = models[0], models[1]["hybrid"]
    options = {"temperature": 0.9 if drawn else 0.0, "top_p": 0.9, "seed": 3}
    chain = speculate(target, DraftModel(draft, 3), PROMPTS, NEW, **options)
    tree = StaticTree(draft, Tree.branching((1,) * 3), drawn)
    found = speculate(target, tree, PROMPTS, NEW, **options)
    assert found.tokens == chain.tokens
    assert found.statistics.accepted_counts == chain.statistics.accepted_counts


@pytest.mark.parametrize("kind", KINDS)
def test_matching_writes_one_text_whatever_drafts(models, kind: str) -> None:
    options = {"temperature": 0.9, "top_p": 0.95, "seed": 5, "rule": "match"}
    plain = generate(models[0], PROMPTS, NEW, **options).tokens
    run = speculate(models[0], drafter_of(kind, models[1]["hybrid"]), PROMPTS, NEW, **options)
    assert run.tokens == plain
    assert run.statistics.accepted > 0


# In distribution, when sampled


def enumerated_error(target, sequences_of, rule, tree: Tree = COMB) -> float:
    """How far the joint distribution of D + 1 tokens is from the target's, at worst: every tree
    that may be drawn, every end of the walk down it, and every next token, each with its exact
    probability; what follows is read after the path was moved, as the decoder goes on."""
    size, prompt = 3, [0, 2, 1, 1, 0, 2]
    drafting = sampled(random_tables(7, size)[1], tree)
    run = PassOverATree(
        target, sequences_of, [prompt] * len(drafting.tokens), drafting.tokens, tree
    )

    class OfTheTarget(type(drafting)):
        def distributions(self, table: Tensor) -> Tensor:
            return run.logits.softmax(-1)

    of_target = OfTheTarget(tree, drafting.tokens, drafting.weights, drafting.reported)
    counts, following = decisions(rule, torch.empty(size), of_target)
    length = tree.depth + 1
    joint = torch.zeros((size,) * length, dtype=torch.float64)
    for node in range(tree.nodes + 1):
        path = drafting.tokens[:, run.path(node)]
        for rest in all_strings(size, length - path.shape[1]):
            tokens = rest.expand(len(path), -1)
            chance = drafting.weights * counts[:, node] * following[:, node, rest[0]]
            after = run.after(node, tokens).softmax(-1)[:, :-1]
            chance = chance * after.gather(-1, tokens[:, 1:, None])[..., 0].prod(1)
            joint.index_put_(torch.cat((path, tokens), 1).unbind(1), chance, accumulate=True)
    texts = all_strings(size, length)
    whole = torch.cat((torch.tensor([prompt]).expand(len(texts), -1), texts), dim=1)
    with torch.inference_mode():
        wanted = target(whole).softmax(-1)[:, len(prompt) - 1 : -1]
    wanted = wanted.gather(-1, texts[..., None])[..., 0].prod(1)
    return (joint.flatten() - wanted).abs().max().item()


@pytest.mark.parametrize("rule", [verify_tree, match_tree])
def test_the_enumeration_of_the_sampled_output_is_the_targets(sequences_of, rule) -> None:
    target = hybrid(8, vocab_size=3, **SMALL)
    assert enumerated_error(target, sequences_of, rule) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("rule", sorted(TREE_RULES))
def test_sampled_texts_of_a_hybrid_have_its_distribution(sampled_texts, rule: str) -> None:
    target = hybrid(5, vocab_size=sampled_texts.SIZE, **SMALL)
    draft = hybrid(6, vocab_size=sampled_texts.SIZE, **SMALL)
    drafter = StaticTree(draft, Tree.branching((2, 1)), drawn=True)
    counts = sampled_texts.counts(target, drafter, temperature=0.8, rule=rule)
    distribution = sampled_texts.distribution(target, SamplingParameters(0.8))
    assert sampled_texts.tail(counts, distribution) > 1e-3


# Faults, planted


def last_nodes_state_kept(monkeypatch) -> None:
    """After a path was accepted, the state of the tree's last node goes on."""
    right, keep = StateCache.move, StateCache.keep_state
    last = {}

    def keep_state(self, layer, positions, state):
        last[layer] = positions
        keep(self, layer, positions, state)

    def move(self, source, destination):
        right(self, source, destination)
        rows = self._rows[:, 0]
        for layer, states in enumerate(self.states):
            if states.numel():
                state = states[rows, last[layer] % self.ring]
                for place in destination.unbind(1):
                    keep(self, layer, place + 1, state)

    monkeypatch.setattr(StateCache, "keep_state", keep_state)
    monkeypatch.setattr(StateCache, "move", move)


def states_not_moved(monkeypatch) -> None:
    """Keys and values are moved, states are not."""
    right = StateCache.move

    def move(self, source, destination):
        states = [x.clone() for x in self.states]
        right(self, source, destination)
        for ours, kept in zip(self.states, states, strict=True):
            ours.copy_(kept)

    monkeypatch.setattr(StateCache, "move", move)


def inputs_not_moved(monkeypatch) -> None:
    """The convolution looks back at the tree's first nodes, not at those that were accepted."""
    right = StateCache.move

    def move(self, source, destination):
        inputs = [x.clone() for x in self.inputs]
        right(self, source, destination)
        for ours, kept in zip(self.inputs, inputs, strict=True):
            ours.copy_(kept)

    monkeypatch.setattr(StateCache, "move", move)


def row_before_is_the_parent(monkeypatch) -> None:
    """A node goes on from the state of the row before it, as in a chain."""

    def seen(visible, count):
        return last_seen(visible, count)[..., :1] - torch.arange(count)

    monkeypatch.setattr(delta_net, "last_seen", seen)


def convolution_of_rows(monkeypatch) -> None:
    """States follow the tree, the convolution's window does not."""

    def seen(visible, count):
        right = last_seen(visible, count)
        return torch.cat((right[..., :2], right[..., :1] - torch.arange(2, count)), dim=-1)

    monkeypatch.setattr(delta_net, "last_seen", seen)


def states_by_depth(monkeypatch) -> None:
    """One state a position, as in a chain: siblings overwrite each other."""
    monkeypatch.setattr(StateCache, "along", lambda self, branches, window: self)


FAULTS = [
    last_nodes_state_kept, states_not_moved, inputs_not_moved, row_before_is_the_parent,
    convolution_of_rows, states_by_depth,
]  # fmt: skip


@pytest.mark.parametrize("plant", FAULTS)
def test_a_planted_fault_of_a_tree_is_caught(
    models, expected, sequences_of, monkeypatch, plant
) -> None:
    """By the text, and by the enumeration."""
    target, drafts = models
    small = hybrid(8, vocab_size=3, **SMALL)
    plant(monkeypatch)
    assert speculate(target, StaticTree(drafts["hybrid"], BUSHY), PROMPTS, NEW).tokens != expected
    assert enumerated_error(small, sequences_of, verify_tree) > 1e-5


def test_a_draft_that_reads_too_few_tokens_again_is_caught(models, monkeypatch) -> None:
    """Of the prompt a draft keeps the states that its first pass goes on from."""
    target, drafts = models
    drafter = StaticTree(drafts["hybrid"], DEEP)
    right = speculate(target, drafter, PROMPTS, NEW).statistics.accepted
    drafter.cache, new_cache = None, type(target).new_cache
    monkeypatch.setattr(
        type(target), "new_cache", lambda self, *given: new_cache(self, *given[:3], 1)
    )
    assert speculate(target, drafter, PROMPTS, NEW).statistics.accepted < right


def test_memory_is_a_state_for_each_node_and_each_token_read_again(models) -> None:
    target, drafts = models
    drafter = StaticTree(drafts["hybrid"], BUSHY)
    speculate(target, drafter, PROMPTS, NEW)
    kernel = target.details.delta.kernel
    assert drafter.cache.ring == BUSHY.nodes + 1 + BUSHY.depth + kernel
    assert drafter.cache.states[0].shape[:2] == (len(PROMPTS), drafter.cache.ring)
