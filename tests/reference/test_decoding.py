"""Speculation writes the text of plain decoding: the same tokens when greedy, the same distribution
when sampled.

Real random models give the numbers; a target and a drafter that follow a script give every case
of the bookkeeping.
"""

import itertools

import pytest
import torch
from torch import Tensor

from reference.cache import KVCache
from reference.cycle import accept
from reference.decoding import Decoder, Generation, generate, speculate
from reference.drafters import Drafter, NoDrafter, Proposal
from reference.drafters.draft_model import DraftModel
from reference.sampling import SamplingParameters
from reference.sequences import Sequences
from reference.settings import RunSettings
from reference.statistics import Statistics
from reference.transformer import MAX_GAMMA, Transformer
from reference.verification import RULES, Verdict, verify
from specsim.architecture import Architecture
from specsim.checks import SpecsimError

GAMMAS = range(1, 9)
NEW = 24
PROMPTS = [[17], [3, 41], [9, 9, 30, 2, 55], [8, 7, 6, 5, 4, 3, 2, 1, 0], [60, 0] * 8]


class ScriptedTarget:
    """Is certain that row b continues as texts[b], whatever it has been told so far."""

    device, dtype, stop_ids = torch.device("cpu"), torch.float32, frozenset()
    reads_prompts = True
    new_cache = Transformer.new_cache

    def __init__(self, texts: list[list[int]], vocab_size: int = 50, max_context: int = 1000):
        self.texts = torch.tensor(texts)
        self.architecture = Architecture(
            name="scripted", hidden_size=2, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=2,
            intermediate_size=2, vocab_size=vocab_size, max_context=max_context,
        )  # fmt: skip

    def hidden(self, tokens: Tensor, positions: Tensor, cache, window: int, _=None) -> Tensor:
        assert window == 0 or positions.max() < window <= cache.capacity
        after = (positions + 1).clamp(max=self.texts.shape[1] - 1)
        return self.texts.gather(1, after)

    def head(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(hidden, self.architecture.vocab_size).float()


class ScriptedDrafter(Drafter):
    """Proposes texts[b], but for the places (b, position) of `wrong`, where it is off by one."""

    def __init__(self, texts: list[list[int]], gamma: int, wrong=(), vocab_size: int = 50):
        width = max(map(len, texts)) + 2 * gamma + 2
        self.texts = torch.tensor([text + [0] * (width - len(text)) for text in texts])
        for row, position in wrong:
            if position < width:
                self.texts[row, position] = (self.texts[row, position] + 1) % vocab_size
        self.gamma = gamma

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        places = (sequences.positions(self.gamma) + 1).clamp(max=self.texts.shape[1] - 1)
        return Proposal(self.texts.gather(1, places), None)


def everywhere(rows: int) -> list[tuple[int, int]]:
    return list(itertools.product(range(rows), range(200)))


# Greedy speculation, plain decoding and the naive loop write the same text


@pytest.fixture(scope="module")
def pair(tiny, perturbed):
    target = tiny(2)
    return target, perturbed(target, 0.15)


@pytest.fixture(scope="module")
def expected(pair, argmax_loop) -> list[list[int]]:
    return [argmax_loop(pair[0], prompt, NEW) for prompt in PROMPTS]


def test_the_texts_are_worth_comparing(expected) -> None:
    assert all(len(set(text)) > 5 for text in expected)
    assert len(set(map(tuple, expected))) == len(expected)


def test_plain_decoding_is_the_naive_loop(pair, expected) -> None:
    assert generate(pair[0], PROMPTS, NEW).tokens == expected
    for prompt, text in zip(PROMPTS, expected, strict=True):
        assert generate(pair[0], prompt, NEW).tokens == text


@pytest.mark.parametrize("gamma", GAMMAS)
def test_greedy_speculation_is_plain_decoding(pair, expected, gamma: int) -> None:
    target, draft = pair
    batch = speculate(target, DraftModel(draft, gamma), PROMPTS, NEW)
    assert batch.tokens == expected
    assert 0 < batch.statistics.accepted < batch.statistics.drafted, "nothing is put to the test"
    alone = gamma % len(PROMPTS)
    result = speculate(target, DraftModel(draft, gamma), PROMPTS[alone], NEW)
    assert result.tokens == expected[alone]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_greedy_speculation_in_float32_is_plain_decoding(
    pair, gamma: int, first_difference
) -> None:
    target, draft = (copy_in(model, torch.float32) for model in pair)
    plain = generate(target, PROMPTS, NEW).tokens
    result = speculate(target, DraftModel(draft, gamma), PROMPTS, NEW).tokens
    for prompt, one, other in zip(PROMPTS, plain, result, strict=True):
        assert first_difference(target, prompt, one, other) is None


def copy_in(model, dtype: torch.dtype):
    copy = type(model)(model.architecture)
    copy.load_state_dict(model.state_dict())
    return copy.to(dtype).eval().requires_grad_(False)


def test_the_comparison_of_texts_can_fail(pair, expected, first_difference) -> None:
    (prompt, *_), (text, *_) = PROMPTS, expected
    wrong = [*text[:7], (text[7] + 1) % 61, *text[8:]]
    assert "token 7" in first_difference(pair[0], prompt, text, wrong)
    assert "23 tokens" in first_difference(pair[0], prompt, text[:-1], text)
    assert first_difference(pair[0], prompt, text, text) is None


@pytest.mark.parametrize(
    "fields", [{"qk_norm": True}, {"qkv_bias": True, "tied_head": True}], ids=str
)
def test_greedy_speculation_with_other_shapes(tiny, perturbed, argmax_loop, fields) -> None:
    target = tiny(3, **fields)
    draft = tiny(4, num_layers=1, hidden_size=16)
    expected = [argmax_loop(target, prompt, 12) for prompt in PROMPTS]
    for drafting in (draft, perturbed(target, 0.2)):
        assert speculate(target, DraftModel(drafting, 4), PROMPTS, 12).tokens == expected


@pytest.mark.parametrize("gamma", [1, 4, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_more_is_drafted_than_may_be_emitted(pair, expected, gamma: int, count: int) -> None:
    target, draft = pair
    for drafting in (draft, target):
        tokens = speculate(target, DraftModel(drafting, gamma), PROMPTS, count).tokens
        assert tokens == [text[:count] for text in expected]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_draft_that_is_the_target_is_always_accepted(pair, expected, gamma: int) -> None:
    result = speculate(pair[0], DraftModel(pair[0], gamma), PROMPTS, NEW)
    assert result.tokens == expected
    assert result.statistics.accepted == result.statistics.drafted > 0
    assert result.statistics.tokens_per_cycle == gamma + 1
    assert result.statistics.alpha == 1


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_draft_that_is_always_wrong_is_never_accepted(pair, expected, gamma: int) -> None:
    texts = [prompt + text for prompt, text in zip(PROMPTS, expected, strict=True)]
    width = max(map(len, texts))
    texts = [text + [0] * (width - len(text)) for text in texts]
    drafter = ScriptedDrafter(texts, gamma, everywhere(len(texts)), vocab_size=61)
    result = speculate(pair[0], drafter, PROMPTS, NEW)
    assert result.tokens == expected
    assert result.statistics.accepted == 0
    assert result.statistics.cycles == NEW * len(PROMPTS)
    assert result.statistics.alpha == 0


@pytest.mark.parametrize("gamma", GAMMAS)
def test_rows_end_at_different_times(pair, expected, gamma: int) -> None:
    """The longest row overshoots its limit and has to wait for the others, who accept nothing."""
    texts = [prompt + text for prompt, text in zip(PROMPTS, expected, strict=True)]
    width = max(map(len, texts))
    texts = [text + [0] * (width - len(text)) for text in texts]
    wrong = everywhere(len(texts) - 1)
    for count in range(1, gamma + 4):
        drafter = ScriptedDrafter(texts, gamma, wrong, vocab_size=61)
        tokens = speculate(pair[0], drafter, PROMPTS, count).tokens
        assert tokens == [text[:count] for text in expected]
        if count <= gamma and count % 4:
            continue
        # a draft model's cache must bear the same
        tokens = speculate(pair[0], DraftModel(pair[1], gamma), PROMPTS, count).tokens
        assert tokens == [text[:count] for text in expected]


@pytest.mark.parametrize("gamma", [1, 3, 8, 40, MAX_GAMMA])
def test_decoding_fills_the_context_and_no_more(tiny, perturbed, argmax_loop, gamma: int) -> None:
    target = tiny(5, max_context=24)
    prompts = [[7] * length for length in (1, 20, 22, 23)]
    expected = [argmax_loop(target, prompt, 24 - len(prompt)) for prompt in prompts]
    assert generate(target, prompts, 100).tokens == expected
    for draft in (target, perturbed(target, 0.2)):
        result = speculate(target, DraftModel(draft, gamma), prompts, 100)
        assert result.tokens == expected
        for prompt, text in zip(prompts[::3], expected[::3], strict=True):
            assert speculate(target, DraftModel(draft, gamma), prompt, 100).tokens == text


def test_a_batch_of_one_is_a_list_of_one(pair, expected) -> None:
    assert generate(pair[0], [PROMPTS[2]], NEW).tokens == [expected[2]]
    assert generate(pair[0], PROMPTS[2], NEW).tokens == expected[2]


def test_a_draft_with_nothing_to_draft_is_plain_decoding(pair, expected) -> None:
    result = speculate(pair[0], DraftModel(pair[1], 0), PROMPTS, NEW)
    assert result.tokens == expected
    assert result.statistics.drafted == 0


# The end of a text


def until_stop(text: list[int], stops: set[int]) -> list[int]:
    for index, token in enumerate(text):
        if token in stops:
            return text[: index + 1]
    return text


@pytest.mark.parametrize("gamma", [0, *GAMMAS])
def test_a_stop_token_of_a_real_text_ends_it(pair, expected, gamma: int) -> None:
    target, draft = pair
    drafter = DraftModel(draft, gamma) if gamma else NoDrafter()
    stops = sorted(set(expected[2] + expected[4]))
    for stop in stops[gamma :: 1 + len(GAMMAS)]:  # each with one gamma
        wanted = [until_stop(text, {stop}) for text in expected]
        result = speculate(target, drafter, PROMPTS, NEW, stop_ids=[stop])
        assert result.tokens == wanted


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("every", [1, 2, 3, 100], ids="one in {} wrong".format)
def test_a_stop_token_may_stand_at_every_position(gamma: int, every: int) -> None:
    """20 distinct tokens: the end falls on every place of a cycle: draft, correction, bonus."""
    texts = [list(range(21)), [0, *range(20, 0, -1)]]
    wrong = [(row, position) for row in (0, 1) for position in range(every, 21, every)]
    for stop in range(1, 21):
        result = speculate(
            ScriptedTarget(texts),
            ScriptedDrafter(texts, gamma, wrong),
            [[0], [0]],
            20,
            stop_ids=[stop],
        )
        assert result.tokens == [until_stop(text[1:], {stop}) for text in texts]


def test_the_first_of_several_stop_tokens_counts() -> None:
    texts = [[0, 5, 6, 7, 8, 9]]
    for stops in ([8, 6], [6, 8], iter((6, 8)), {8, 6}):
        drafter = ScriptedDrafter(texts, 4)
        result = speculate(ScriptedTarget(texts), drafter, [0], 5, stop_ids=stops)
        assert result.tokens == [5, 6]


def test_the_targets_own_stop_tokens_count_too(pair, expected) -> None:
    target = copy_in(pair[0], torch.float64)
    target.stop_ids = frozenset({expected[2][5]})
    assert generate(target, PROMPTS[2], NEW).tokens == until_stop(expected[2], target.stop_ids)
    both = {expected[2][2]}
    tokens = generate(target, PROMPTS[2], NEW, stop_ids=both).tokens
    assert tokens == until_stop(expected[2], both | target.stop_ids)


def test_a_stop_token_in_the_prompt_does_not_end_the_text(pair, expected) -> None:
    tokens = generate(pair[0], PROMPTS[2], 3, stop_ids=[PROMPTS[2][-1]]).tokens
    assert tokens == until_stop(expected[2][:3], {PROMPTS[2][-1]})


# A pass reads the cache up to its last row, and no further


class Watched(ScriptedTarget):
    """A scripted target that keeps how many slots its rows and its windows reach to."""

    def hidden(self, tokens: Tensor, positions: Tensor, cache, window: int, _=None) -> Tensor:
        if window and positions.shape[1] <= self.width:  # of a cycle, not of a prompt
            self.reached.append((int(positions.max()) + 1, window))
        return super().hidden(tokens, positions, cache, window)


@pytest.mark.parametrize("lag", [0, 1, 2])
@pytest.mark.parametrize("gamma", [0, 1, 4])
def test_a_cycle_reads_what_unread_cycles_may_have_written_and_no_more(gamma: int, lag: int):
    """If every draft is accepted, a host that reads `lag` cycles late still knows the length."""
    texts = [list(range(1, 49))]
    target = Watched(texts)
    target.reached, target.width = [], gamma + 1
    drafter = ScriptedDrafter(texts, gamma) if gamma else NoDrafter()
    decoder = Decoder(target, drafter, 1, 200, RunSettings(SamplingParameters()))
    decoder.lag = lag
    steps = decoder.cycles([texts[0][:10]], [30], 0, Statistics(gamma), lambda _: gamma)
    assert [token for step in steps for token in step[0]] == texts[0][10:40]
    written = 30 // (gamma + 1)  # whole cycles; later ones are idle
    assert [held for held, _ in target.reached[:written]] == [
        10 + (gamma + 1) * cycle + gamma for cycle in range(written)
    ]
    assert all(held == window for held, window in target.reached[:written])


# Catching up


class Recorder(Drafter):
    """A drafter that passes on what another proposes, and keeps it with the text so far."""

    def __init__(self, drafter: DraftModel):
        self.drafter, self.gamma, self.cycles = drafter, drafter.gamma, []

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        self.drafter.start(sequences, target, cache)

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        proposal = self.drafter.propose(sequences, sampling, uniforms)
        for row in sequences.remaining.nonzero()[:, 0].tolist():
            length = int(sequences.lengths[row])
            text = sequences.tokens[row, : length + 1].tolist()
            self.cycles.append((row, text, proposal.tokens[row], proposal.probabilities[row]))
        return proposal


class Forgetful(DraftModel):
    """Reads the pending token twice instead of the one before it: the catch-up row is lost."""

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        class OnlyPending:
            tokens, window = sequences.tokens, sequences.window

            @staticmethod
            def positions(count: int) -> Tensor:
                return sequences.positions(1).expand(-1, count) + 1

        return super().propose(OnlyPending, sampling, uniforms)


def worst_draft_distribution(pair, drafter: DraftModel) -> tuple[float, int]:
    """How far a proposed distribution is from the draft's own, recomputed; and how many cycles were
    full."""
    target, draft = pair
    recorder = Recorder(drafter)
    sampling = SamplingParameters(0.8)
    speculate(target, recorder, PROMPTS, NEW, temperature=0.8, seed=1)
    worst, full, lengths = 0.0, 0, {}
    for row, text, drafted, distributions in recorder.cycles:
        whole = torch.tensor([text + drafted.tolist()])
        expected = sampling.probabilities(draft(whole)[0, len(text) - 1 : -1])
        worst = max(worst, (distributions - expected).abs().max().item())
        full += len(text) - lengths.get(row, 0) == drafter.gamma + 1
        lengths[row] = len(text)
    return worst, full


@pytest.mark.parametrize("gamma", [1, 2, 4])
def test_the_draft_distribution_is_its_models_after_every_cycle(pair, gamma: int) -> None:
    worst, full = worst_draft_distribution(pair, DraftModel(pair[1], gamma))
    assert full > 3, "no draft was ever accepted whole"
    assert worst < 1e-10


def test_a_draft_that_does_not_catch_up_is_caught(pair) -> None:
    worst, _ = worst_draft_distribution(pair, Forgetful(pair[1], 2))
    assert worst > 1e-2


# Sampled speculation has the distribution of plain decoding


@pytest.fixture(scope="module")
def small_pair(tiny, sampled_texts):
    fields = sampled_texts.MODEL
    return tiny(11, num_layers=1, **fields), tiny(12, num_layers=1, **fields)


SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.6, "top_k": 4},
    {"temperature": 1.5, "top_p": 0.8},
]


@pytest.mark.parametrize(
    ("gamma", "options"),
    [
        (0, SETTINGS[0]),
        *(pytest.param(gamma, SETTINGS[0], marks=pytest.mark.slow) for gamma in (1, 4)),
        *((2, options) for options in SETTINGS),
    ],
    ids=str,
)
def test_sampled_texts_have_the_targets_distribution(
    small_pair, sampled_texts, gamma: int, options
) -> None:
    target, draft = small_pair
    drafter = DraftModel(draft, gamma) if gamma else NoDrafter()
    distribution = sampled_texts.distribution(target, SamplingParameters(**options))
    assert sampled_texts.tail(sampled_texts.counts(target, drafter, **options), distribution) > 1e-3


class GreedyDraft(DraftModel):
    """Drafts its likeliest tokens at any temperature; says so, or reports its softmax."""

    honest = True

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        tokens = super().propose(sequences, SamplingParameters(0.0), uniforms).tokens
        if self.honest:
            return Proposal(tokens, None)
        texts = torch.cat((sequences.tokens[:, : sequences.longest + 1], tokens), dim=1)
        distributions = sampling.probabilities(self.model(texts))
        places = sequences.positions(self.gamma)[..., None].expand(-1, -1, distributions.shape[-1])
        return Proposal(tokens, distributions.gather(1, places))


def test_a_greedy_draft_leaves_the_sampled_distribution_alone(small_pair, sampled_texts) -> None:
    target, draft = small_pair
    counts = sampled_texts.counts(target, GreedyDraft(draft, 2), temperature=1.0)
    assert (
        sampled_texts.tail(counts, sampled_texts.distribution(target, SamplingParameters(1.0)))
        > 1e-3
    )


def test_two_percentage_points_would_be_seen(small_pair, sampled_texts) -> None:
    """The same samples against a distribution with .02 of the first token's mass moved."""
    target, draft = small_pair
    distribution = sampled_texts.distribution(target, SamplingParameters(1.0))
    counts = sampled_texts.counts(target, DraftModel(draft, 2), temperature=1.0)
    first = distribution.view(sampled_texts.SIZE, -1).sum(1)
    one, other = first.topk(2).indices.tolist()
    factors = torch.ones(sampled_texts.SIZE, dtype=torch.float64)
    factors[one] -= 0.02 / first[one]
    factors[other] += 0.02 / first[other]
    shifted = (distribution.view(sampled_texts.SIZE, -1) * factors[:, None]).flatten()
    assert shifted.sum() == pytest.approx(1)
    assert sampled_texts.tail(counts, distribution) > 1e-3
    assert sampled_texts.tail(counts, shifted) < 1e-3


def keeps_every_draft(target_probs, draft_probs, drafted, uniforms, counts) -> Verdict:
    return verify(
        target_probs, draft_probs, drafted, torch.cat((0 * uniforms[:, 1:], uniforms[:, :1]), 1)
    )


def likeliest_next(target_probs, draft_probs, drafted, uniforms, counts) -> Verdict:
    verdict = verify(target_probs, draft_probs, drafted, uniforms)
    rows = torch.arange(len(drafted))
    return Verdict(verdict.accepted, target_probs[rows, verdict.accepted].argmax(-1))


@pytest.mark.parametrize("defect", [keeps_every_draft, likeliest_next])
def test_a_wrong_rule_would_be_seen(small_pair, sampled_texts, monkeypatch, defect) -> None:
    target, draft = small_pair
    monkeypatch.setitem(RULES, "token", defect)
    distribution = sampled_texts.distribution(target, SamplingParameters(1.0))
    assert sampled_texts.depart(target, DraftModel(draft, 2), distribution, temperature=1.0)


def test_a_greedy_draft_that_reports_its_softmax_would_be_seen(small_pair, sampled_texts) -> None:
    target, draft = small_pair
    drafter = GreedyDraft(draft, 2)
    drafter.honest = False
    distribution = sampled_texts.distribution(target, SamplingParameters(1.0))
    assert sampled_texts.depart(target, drafter, distribution, temperature=1.0)


def test_a_seed_gives_one_text_and_another_seed_another(pair) -> None:
    target, draft = pair

    def text(seed: int) -> list[list[int]]:
        drafter = DraftModel(draft, 3)
        return speculate(target, drafter, PROMPTS, NEW, temperature=1.0, seed=seed).tokens

    assert text(0) == text(0)
    assert text(0) != text(1)


def test_rows_of_a_batch_have_their_own_chance(pair) -> None:
    tokens = generate(pair[0], [PROMPTS[2]] * 8, NEW, temperature=1.0).tokens
    assert len(set(map(tuple, tokens))) == 8


def test_no_sampled_token_is_one_that_the_filter_forbids(pair) -> None:
    target, draft = pair
    sampling = SamplingParameters(2.0, top_k=2)
    result = speculate(target, DraftModel(draft, 3), PROMPTS, NEW, temperature=2.0, top_k=2)
    for prompt, tokens in zip(PROMPTS, result.tokens, strict=True):
        distributions = sampling.probabilities(target(torch.tensor([prompt + tokens])))[0]
        chances = distributions[len(prompt) - 1 : -1].gather(1, torch.tensor(tokens)[:, None])
        assert (chances > 0).all()


def test_accept_takes_the_rule_that_fits_the_sampling() -> None:
    logits = torch.tensor([[[0.0, 4.0, 1.0], [2.0, 0.0, 1.9]]])
    proposal, uniforms = Proposal(torch.tensor([[1]]), None), torch.tensor([[0.99, 0.99]])
    assert [
        x.item() for x in accept(RunSettings(SamplingParameters(0.0)), logits, proposal, uniforms)
    ] == [1, 0]
    assert [
        x.item() for x in accept(RunSettings(SamplingParameters(1.0)), logits, proposal, uniforms)
    ] == [0, 2]


# What the cycles did


def scripted_run(gamma: int, count: int, wrong, **options) -> Generation:
    text = list(range(40))
    drafter = ScriptedDrafter([text], gamma, [(0, position) for position in wrong])
    return speculate(ScriptedTarget([text]), drafter, [0], count, **options)


def test_statistics_counted_by_hand() -> None:
    # 1 2 |3     the draft of 3 is wrong      2 accepted
    # |4         the draft of 4 is wrong      0
    # 5 6 7 8 |9                              4, and the bonus
    # |10        the draft of 10 is wrong     0
    # 11 12 13 14 |15                         4, and the bonus
    # 16 17 18   cut: left out, how far it would have gone is not known
    result = scripted_run(4, 18, wrong=(3, 4, 10))
    assert result.tokens == list(range(1, 19))
    statistics = result.statistics
    assert statistics.accepted_counts == [2, 0, 4, 0, 4]
    assert statistics.gamma == 4
    assert statistics.cycles == 5
    assert statistics.drafted == 20
    assert statistics.accepted == 10
    assert statistics.accepted_histogram == [2, 0, 1, 0, 2]
    assert statistics.survival == [0.6, 0.6, 0.4, 0.4]
    assert statistics.alpha == pytest.approx(10 / 13)  # three rejections
    assert statistics.accepted_per_drafted == pytest.approx(0.5)
    assert statistics.tokens_per_cycle == pytest.approx(3.0)


def test_the_three_rates_are_different_numbers_of_one_survival() -> None:
    statistics = scripted_run(4, 18, wrong=(3, 4, 10)).statistics
    assert statistics.tokens_per_cycle == pytest.approx(1 + sum(statistics.survival))
    assert statistics.tokens_per_cycle == pytest.approx(1 + 4 * statistics.accepted_per_drafted)
    accepted = sum(statistics.survival)
    assert statistics.alpha == pytest.approx(accepted / (accepted + 1 - statistics.survival[-1]))


@pytest.mark.parametrize(
    ("options", "tokens", "counts"),
    [
        ({"count": 15}, 15, [2, 0, 4, 0, 4]),  # the limit falls on the end of a cycle
        ({"count": 16}, 16, [2, 0, 4, 0, 4]),
        ({"count": 14}, 14, [2, 0, 4, 0]),
        ({"count": 30, "stop_ids": [13]}, 13, [2, 0, 4, 0]),  # inside the accepted run
        ({"count": 30, "stop_ids": [15]}, 15, [2, 0, 4, 0, 4]),  # the bonus itself
        ({"count": 30, "stop_ids": [10]}, 10, [2, 0, 4, 0]),  # the correction itself
        ({"count": 1}, 1, []),
    ],
    ids=str,
)
def test_a_cycle_that_is_cut_is_left_out(options, tokens: int, counts: list[int]) -> None:
    result = scripted_run(4, wrong=(3, 4, 10), **options)
    assert result.tokens == list(range(1, tokens + 1))
    assert result.statistics.accepted_counts == counts


def test_a_batch_counts_every_row_until_it_ends() -> None:
    texts = [list(range(40)), [0, *range(39, 0, -1)]]
    drafter = ScriptedDrafter(texts, 2, [(1, position) for position in range(40)])
    result = speculate(ScriptedTarget(texts), drafter, [[0], [0]], 9)
    assert result.tokens == [text[1:10] for text in texts]
    # row 0 is done after three cycles of three tokens, row 1 after nine of one
    assert result.statistics.accepted_counts == [2, 0, 2, 0, 2, 0, *[0] * 6]
    assert result.statistics.accepted_histogram == [9, 0, 3]
    assert len(result.statistics.cycle_times) == 9


def test_plain_decoding_drafts_nothing_and_says_so(pair) -> None:
    statistics = generate(pair[0], PROMPTS, 7).statistics
    assert statistics.cycles == 7 * len(PROMPTS)
    assert statistics.drafted == statistics.accepted == 0
    assert statistics.accepted_histogram == [7 * len(PROMPTS)]
    assert statistics.survival == []
    assert statistics.tokens_per_cycle == 1
    assert statistics.alpha is None
    assert statistics.accepted_per_drafted is None
    assert len(statistics.cycle_times) == 7


def test_before_the_first_cycle_nothing_is_known() -> None:
    statistics = Statistics(gamma=3)
    assert statistics.cycles == statistics.drafted == statistics.accepted == 0
    assert statistics.accepted_histogram == [0, 0, 0, 0]
    unknown = "survival alpha accepted_per_drafted tokens_per_cycle draft_s verify_s host_s cycle_s"
    assert [getattr(statistics, name) for name in unknown.split()] == [None] * 8


def test_times_are_laps_of_each_cycle() -> None:
    statistics = Statistics(gamma=1)
    for seconds in ([1.0, 10.0, 60.0, 40.0], [2.0, 20.0, 50.0, 150.0], [6.0, 30.0, 70.0, 230.0]):
        statistics.add_cycle([1], [1], seconds)
    assert statistics.accept_s == 60.0
    assert statistics.cycle_times == [111.0, 222.0, 336.0]
    times = (statistics.draft_s, statistics.verify_s, statistics.host_s, statistics.cycle_s)
    assert times == (2.0, 20.0, 200.0, 222.0)


def test_every_whole_cycle_of_a_real_run_is_counted_and_timed(pair) -> None:
    result = speculate(pair[0], DraftModel(pair[1], 3), PROMPTS, NEW)
    statistics = result.statistics
    counted = statistics.accepted + statistics.cycles
    total = sum(map(len, result.tokens))
    assert total - 3 * len(PROMPTS) <= counted <= total
    assert min(statistics.draft_times + statistics.verify_times) > 0
    assert statistics.cycle_s >= statistics.verify_s


# What is refused


@pytest.mark.parametrize(
    ("prompt", "options", "named"),
    [
        ([], {}, "prompt is empty"),
        ([[]], {}, "prompt is empty"),
        ([[1, 2], []], {}, "prompt is empty"),
        ([1, 61], {}, "token ids from 1 to 61; the vocabulary of tiny is 0 to 60"),
        ([[5], [-1, 3]], {}, "token ids from -1 to 3"),
        ([1] * 96, {}, "the prompt has 96 tokens; .* context of 96 of tiny"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ([1], {"temperature": -1.0}, "temperature .* not -1.0"),
        ([1], {"temperature": 1.0, "top_p": 2.0}, "top_p .* not 2.0"),
    ],
    ids=lambda value: "" if isinstance(value, list) else str(value),
)
def test_what_cannot_be_decoded_is_named(pair, prompt, options, named) -> None:
    with pytest.raises(ValueError, match=named):
        generate(pair[0], prompt, **options)


@pytest.mark.parametrize("gamma", [-1, MAX_GAMMA + 1])
def test_an_impossible_gamma_is_named(pair, gamma: int) -> None:
    with pytest.raises(SpecsimError, match=f"gamma must be between 0 and {MAX_GAMMA}, not {gamma}"):
        speculate(pair[0], DraftModel(pair[1], gamma), [1])


@pytest.mark.parametrize("size", [60, 62])
def test_a_draft_of_another_vocabulary_is_refused(pair, tiny, size: int) -> None:
    with pytest.raises(SpecsimError, match="vocabular"):
        speculate(pair[0], DraftModel(tiny(vocab_size=size), 2), [1])


def test_a_draft_with_a_shorter_context_is_refused_or_stops_in_time(tiny, argmax_loop) -> None:
    target, drafter = tiny(2, max_context=200), DraftModel(tiny(1, max_context=30), 4)
    try:
        tokens = speculate(target, drafter, PROMPTS[4], 120).tokens
    except SpecsimError:
        return
    assert tokens == argmax_loop(target, PROMPTS[4], len(tokens))
