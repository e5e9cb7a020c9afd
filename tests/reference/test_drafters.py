"""Every drafter leaves the text alone; and each drafts what it says."""

import inspect
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reference import (
    Drafter,
    DraftModel,
    EarlyExit,
    Ensemble,
    NGram,
    Proposal,
    generate,
    speculate,
)
from reference.cache import KVCache
from reference.drafters.early_exit import first_layers
from reference.drafters.n_gram import look_up
from reference.sampling import SamplingParameters, draw
from reference.sequences import Sequences
from reference.transformer import Transformer
from reference.verification import LOSSLESS
from specsim.checks import SpecsimError

GAMMAS = range(1, 9)
NEW = 24
PROMPTS = [[17], [3, 41], [9, 9, 30, 2, 55], [8, 7, 6, 5, 4, 3, 2, 1, 0], [60, 0] * 8]
KINDS = ["n-gram", "early-exit", "ensemble"]


@pytest.fixture(scope="module")
def pair(tiny, perturbed):
    target = tiny(2)
    return target, perturbed(target, 0.15)


@pytest.fixture(scope="module")
def small_pair(tiny, sampled_texts):
    fields = sampled_texts.MODEL
    return tiny(11, **fields), tiny(12, num_layers=1, **fields)


def drafter_of(kind: str, draft: Transformer, gamma: int):
    if kind == "n-gram":
        return NGram(gamma)
    return EarlyExit(1, gamma) if kind == "early-exit" else Ensemble(DraftModel(draft, gamma))


# The text is the target's


@pytest.fixture(scope="module")
def expected(pair, argmax_loop) -> list[list[int]]:
    return [argmax_loop(pair[0], prompt, NEW) for prompt in PROMPTS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_greedy_text_is_that_of_plain_decoding(pair, expected, kind: str, gamma: int) -> None:
    target, draft = pair
    batch = speculate(target, drafter_of(kind, draft, gamma), PROMPTS, NEW)
    assert batch.tokens == expected
    assert 0 < batch.statistics.accepted < batch.statistics.drafted, "nothing is put to the test"
    alone = gamma % len(PROMPTS)
    result = speculate(target, drafter_of(kind, draft, gamma), PROMPTS[alone], NEW)
    assert result.tokens == expected[alone]


@pytest.mark.parametrize("kind", [*KINDS, "draft-model"])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_so_it_is_with_a_repetition_penalty(pair, expected, kind: str, gamma: int) -> None:
    target, draft = pair
    drafter = DraftModel(draft, gamma) if kind == "draft-model" else drafter_of(kind, draft, gamma)
    plain = generate(target, PROMPTS, NEW, repetition_penalty=1.4).tokens
    assert plain != expected
    assert speculate(target, drafter, PROMPTS, NEW, repetition_penalty=1.4).tokens == plain


def test_a_draft_that_is_the_target_is_always_accepted_under_a_penalty(pair) -> None:
    """Both sides must count the same history, the drafts of this cycle included."""
    for temperature in (0.0, 1.0):
        drafter = DraftModel(pair[0], 5)
        options = {"repetition_penalty": 1.7, "min_p": 0.02}
        run = speculate(pair[0], drafter, PROMPTS, NEW, temperature, **options)
        assert run.statistics.alpha == 1


def drafters_and_rules(kinds: list[str]) -> list:
    """All of them; every run has what a drafter reports judged by one rule, and drafts without a
    distribution by the block too. test_rules has every rule."""
    often = {("n-gram", "block"), *((kind, "token") for kind in kinds)}
    return [
        pytest.param(*each, marks=[pytest.mark.slow] * (each not in often))
        for each in itertools.product(kinds, sorted(LOSSLESS))
    ]


@pytest.mark.parametrize(("kind", "rule"), drafters_and_rules(KINDS))
def test_sampled_texts_have_the_targets_distribution(small_pair, sampled_texts, kind, rule) -> None:
    target, draft = small_pair
    drafter = drafter_of(kind, draft, 2)
    counts = sampled_texts.counts(target, drafter, temperature=0.8, top_p=0.95, rule=rule)
    distribution = sampled_texts.distribution(target, SamplingParameters(0.8, top_p=0.95))
    assert sampled_texts.tail(counts, distribution) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_fills_the_context_and_stops_at_a_stop(tiny, perturbed, kind: str) -> None:
    target = tiny(5, max_context=24)
    prompts = [[7] * length for length in (1, 20, 23)]
    expected = generate(target, prompts, 100).tokens
    for gamma in (1, 8, 40):
        drafter = drafter_of(kind, perturbed(target, 0.2), gamma)
        assert speculate(target, drafter, prompts, 100).tokens == expected
        stop = expected[0][9]
        result = speculate(target, drafter, prompts, 100, stop_ids=[stop]).tokens
        assert result == [row[: row.index(stop) + 1] if stop in row else row for row in expected]


# N-grams


def looked_up_by_hand(text: list[int], gamma: int, longest: int) -> tuple[list[int], bool]:
    for size in range(min(longest, len(text) - 1), 0, -1):
        for end in range(len(text) - 2, size - 2, -1):  # the most recent first
            if text[end - size + 1 : end + 1] == text[-size:]:
                drafted = list(text)
                for k in range(gamma):
                    drafted.append(drafted[end + 1 + k])  # runs on into what it has drafted
                return drafted[len(text) :], True
    return [text[-1]] * gamma, False


@given(
    texts=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=14), min_size=1, max_size=4),
    gamma=st.integers(1, 6),
    longest=st.integers(1, 4),
    stale=st.integers(0, 3),
)
def test_look_up_is_that_of_a_loop_over_matches(sequences_of, texts, gamma, longest, stale) -> None:
    sequences = sequences_of(texts, gamma)
    beyond = torch.arange(sequences.tokens.shape[1]) > sequences.lengths[:, None]
    sequences.tokens[beyond] = stale  # rejected drafts must not be found
    drafted, found = look_up(sequences, gamma, longest)
    for row, text in enumerate(texts):
        assert (drafted[row].tolist(), found[row].item()) == looked_up_by_hand(text, gamma, longest)


def test_the_longest_suffix_wins_then_the_most_recent_match(sequences_of) -> None:
    def drafted(text: list[int], longest: int = 3) -> list[int]:
        sequences = sequences_of([text], 2)
        return look_up(sequences, 2, longest)[0][0].tolist()

    assert drafted([1, 2, 5, 6, 3, 2, 7, 8, 1, 2]) == [5, 6]
    assert drafted([1, 2, 5, 6, 3, 2, 7, 8, 1, 2], longest=1) == [7, 8]
    assert drafted([1, 2, 5, 6, 1, 2, 7, 8, 1, 2]) == [7, 8]
    assert drafted([4, 4]) == [4, 4]  # a match next to the end goes round
    assert drafted([3, 4]) == [4, 4]  # a miss repeats the pending token
    assert drafted([3]) == [3, 3]


# Early exit


@pytest.mark.parametrize("fields", [{}, {"tied_head": True, "qkv_bias": True}, {"qk_norm": True}])
def test_the_first_layers_are_the_target_with_the_rest_silenced(tiny, fields) -> None:
    target, silenced = tiny(3, num_layers=3, **fields), tiny(3, num_layers=3, **fields)
    for layer in silenced.layers[1:]:
        layer.output.weight.zero_()
        layer.down.weight.zero_()
    cut, text = first_layers(target, 1), torch.tensor([PROMPTS[2]])
    torch.testing.assert_close(cut(text), silenced(text))
    assert cut.head.weight is target.head.weight
    assert {p.data_ptr() for p in cut.parameters()} <= {p.data_ptr() for p in target.parameters()}


def test_an_early_exit_keeps_no_cache_of_its_own_and_leaves_the_targets_whole(pair) -> None:
    """What it wrote, the verify pass wrote again: the cache is that of a pass over the text."""
    target, _ = pair
    caches = []

    class Kept(EarlyExit):
        def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
            super().start(sequences, target, cache)
            assert self.cache is cache
            caches.append(cache)

    prompt = PROMPTS[3]
    text = prompt + speculate(target, Kept(1, 3), prompt, NEW).tokens
    whole = KVCache(target.architecture, 1, len(text), target.dtype)
    target.hidden(torch.tensor([text]), torch.arange(len(text))[None], whole)
    for layer in range(2):
        ours, theirs = caches[0].read(layer, len(text) - 1), whole.read(layer, len(text) - 1)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


def test_all_layers_are_the_target(pair, expected) -> None:
    result = speculate(pair[0], EarlyExit(2, 3), PROMPTS, NEW)
    assert (result.tokens, result.statistics.alpha) == (expected, 1)


@pytest.mark.parametrize("layers", [0, 3])
def test_an_exit_where_there_is_no_layer_is_named(pair, layers: int) -> None:
    with pytest.raises(SpecsimError, match=f"tiny has 2 layers; cannot keep the first {layers}"):
        speculate(pair[0], EarlyExit(layers, 3), PROMPTS, NEW)


# Ensemble


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_ensemble_takes_matches_first_and_row_by_row(
    pair, sequences_of, temperature: float
) -> None:
    target, draft = pair
    sequences = sequences_of([[5, 6, 7, 5], [5, 6, 7, 8]], 12)
    sampling, uniforms = SamplingParameters(temperature), torch.tensor([[0.3, 0.6], [0.2, 0.9]])
    alone, both = DraftModel(draft, 2), Ensemble(DraftModel(draft, 2))
    proposals = []
    for drafter in (alone, both):
        drafter.start(sequences, target, KVCache(target.architecture, 2, 16, target.dtype))
        sequences.window = sequences.longest + 3
        with torch.inference_mode():
            proposals.append(drafter.propose(sequences, sampling, uniforms))
    (tokens, distributions, *_), (mixed, mixed_distributions, *_) = proposals
    assert mixed.tolist() == [[6, 7], tokens[1].tolist()]
    if temperature == 0:
        assert mixed_distributions is distributions is None
    else:
        assert torch.equal(mixed_distributions[1], distributions[1])
        assert mixed_distributions[0].argmax(-1).tolist() == [6, 7]
        assert (
            mixed_distributions[0].sum(-1).tolist()
            == mixed_distributions[0].amax(-1).tolist()
            == [1, 1]
        )


# What the target shows a drafter


class Watcher(DraftModel):
    """Keeps the target's hidden states by position, as a drafter that reads them would."""

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        super().start(sequences, target, cache)
        size = target.architecture.hidden_size
        self.states = torch.full((*sequences.tokens.shape, size), torch.nan, dtype=target.dtype)
        self.texts: dict[tuple[int, ...], Tensor] = {}

    def observe(self, hidden: Tensor, positions: Tensor) -> None:
        rows = torch.arange(len(positions))[:, None]
        self.states.index_put_((rows, positions), hidden)

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        for row, length in enumerate(sequences.lengths.tolist()):
            text = (*sequences.tokens[row, : length + 1].tolist(),)
            self.texts[text] = self.states[row, :length].clone()
        return super().propose(sequences, sampling, uniforms)


@pytest.mark.parametrize("gamma", [1, 4])
def test_a_drafter_has_seen_the_state_of_every_place_before_the_pending_one(pair, gamma) -> None:
    target, draft = pair
    watcher = Watcher(draft, gamma)
    run = speculate(target, watcher, PROMPTS, NEW, temperature=0.8)
    assert 0 < run.statistics.accepted < run.statistics.drafted, "nothing is put to the test"
    assert len(watcher.texts) > 2 * len(PROMPTS)
    for text, states in watcher.texts.items():
        expected = target.hidden(torch.tensor([text]))[0, :-1]
        torch.testing.assert_close(states, expected)


def test_one_token_prompts_have_nothing_to_show_before_the_first_cycle(pair) -> None:
    watcher = Watcher(pair[1], 2)
    speculate(pair[0], watcher, [[5], [6]], 1)
    assert [len(states) for states in watcher.texts.values()] == [0, 0]


# A drafter of one's own, written after docs/adding-a-drafter.md


class Bigram(Drafter):
    """Drafts by counts: after each token, whatever has followed it in the texts so far."""

    def __init__(self, gamma: int):
        self.gamma = gamma

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        size = target.architecture.vocab_size
        self.counts = torch.full((size, size), 0.05, device=target.device)

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        tokens = sequences.tokens
        places = torch.arange(tokens.shape[1] - 1, device=tokens.device)
        inside = (places < sequences.lengths[:, None]).float()  # what lies beyond is no text
        counts = self.counts.index_put((tokens[:, :-1], tokens[:, 1:]), inside, accumulate=True)
        token, drafted, distributions = sequences.pending[:, 0], [], []
        for k in range(uniforms.shape[1]):
            distributions.append(sampling.probabilities(counts[token].log()))
            token = draw(
                distributions[-1], uniforms[:, k]
            )  # drawn from the distribution that is reported
            drafted.append(token)
        return Proposal(torch.stack(drafted, dim=1), torch.stack(distributions, dim=1))


def test_a_new_drafter_is_forty_lines() -> None:
    assert len(inspect.getsource(Bigram).splitlines()) <= 40


@pytest.mark.parametrize("gamma", [1, 3, 8])
def test_a_new_drafter_leaves_the_greedy_text_alone(pair, expected, gamma: int) -> None:
    result = speculate(pair[0], Bigram(gamma), PROMPTS, NEW)
    assert result.tokens == expected
    assert 0 < result.statistics.accepted < result.statistics.drafted


@pytest.mark.parametrize(("kind", "rule"), drafters_and_rules(["bigram"]))
def test_a_new_drafter_leaves_the_sampled_distribution_alone(
    small_pair, sampled_texts, kind: str, rule: str
) -> None:
    counts = sampled_texts.counts(small_pair[0], Bigram(2), temperature=1.0, rule=rule)
    distribution = sampled_texts.distribution(small_pair[0], SamplingParameters(1.0))
    assert sampled_texts.tail(counts, distribution) > 1e-3
