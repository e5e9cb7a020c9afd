"""The distributions that tokens are drawn from, against loops over one token at a time; and the
drawing.

Worked examples carry an id (Q1, Q2, Q3) in the test's name.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from reference import sampling
from reference.sampling import SamplingParameters, draw, keep_nucleus
from reference.sequences import Sequences

ALMOST_ONE = 1 - 2**-24  # the largest float32 uniform
PRINTED = 6e-6

TARGET_LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=torch.float64)
DRAFT_LOGITS = torch.tensor([2.5, 0.5, 0.0, -1.0], dtype=torch.float64)


def distribution_by_hand(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> list[float]:
    """Temperature, top-k, renormalise, top-p, renormalise: token by token, in Python's floats."""
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    if top_k is not None:
        lowest = sorted(logits, reverse=True)[min(top_k, len(logits)) - 1]
        weights = [w if x >= lowest else 0.0 for w, x in zip(weights, logits, strict=True)]
    distribution = [w / sum(weights) for w in weights]
    if top_p is not None:
        mass = 0.0
        kept = [0.0] * len(distribution)
        for token in sorted(range(len(distribution)), key=lambda token: -distribution[token]):
            if mass < top_p:
                kept[token] = distribution[token]
            mass += distribution[token]
        distribution = [p / sum(kept) for p in kept]
    return distribution


def drawn_by_hand(distribution: list[float], uniform: float) -> int:
    cumulative = 0.0
    for token, p in enumerate(distribution):
        cumulative += p
        if cumulative > uniform * math.fsum(distribution):
            return token
    raise AssertionError("no token: the distribution is empty")


def random_logits(seed: int, size: int, rows: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn((rows, size), generator=generator, dtype=torch.float64)


def chi_square_tail(counts: Tensor, distribution: Tensor) -> float:
    """P(a sample of the distribution fits it worse); cells that cannot occur must be empty."""
    assert counts[distribution == 0].sum() == 0
    counts, distribution = (
        counts[distribution > 0].double(),
        distribution[distribution > 0].double(),
    )
    expected = counts.sum() * distribution / distribution.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(
        torch.tensor((len(distribution) - 1) / 2).double(), statistic / 2
    ).item()


# Laws


@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 12),
    temperature=st.floats(0.1, 5.0),
    top_k=st.none() | st.integers(1, 14),
    top_p=st.none() | st.floats(0.01, 1.0),
)
def test_the_distribution_is_that_of_a_loop_over_tokens(
    seed, size, temperature, top_k, top_p
) -> None:
    logits = random_logits(seed, size, rows=3)
    distribution = SamplingParameters(temperature, top_k, top_p).probabilities(logits)
    expected = [distribution_by_hand(row, temperature, top_k, top_p) for row in logits.tolist()]
    assert_close(distribution, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=1e-9)


def test_leading_dimensions_are_rows() -> None:
    logits = random_logits(0, 7, rows=6).view(2, 3, 7)
    sampling = SamplingParameters(0.7, top_k=5, top_p=0.8)
    rows = [sampling.probabilities(row) for row in logits.view(6, 7)]
    assert_close(sampling.probabilities(logits), torch.stack(rows).view(2, 3, 7))


def test_temperature_alone_is_the_softmax() -> None:
    logits = random_logits(1, 9)
    assert_close(SamplingParameters(1.0).probabilities(logits), logits.softmax(-1))
    assert_close(SamplingParameters(2.0).probabilities(logits), (logits / 2).softmax(-1))


def test_top_k_keeps_what_ties_with_the_last_kept() -> None:
    distribution = SamplingParameters(1.0, top_k=2).probabilities(
        torch.tensor([1.0, 3.0, 1.0, 0.0])
    )
    assert (distribution > 0).tolist() == [True, True, True, False]


def test_top_k_of_the_whole_vocabulary_or_more_filters_nothing() -> None:
    logits = random_logits(2, 5)
    for top_k in (5, 6, 1000):
        assert_close(SamplingParameters(1.0, top_k=top_k).probabilities(logits), logits.softmax(-1))


def test_the_nucleus_is_never_empty_and_ties_go_to_the_lowest_token() -> None:
    logits = torch.zeros(4)
    assert SamplingParameters(1.0, top_p=1e-9).probabilities(logits).tolist() == [1, 0, 0, 0]
    assert SamplingParameters(1.0, top_p=0.4).probabilities(logits).tolist() == [0.5, 0.5, 0, 0]
    assert SamplingParameters(1.0, top_p=1.0).probabilities(logits).tolist() == [0.25] * 4
    distribution = SamplingParameters(1.0, top_p=0.2995).probabilities(
        torch.zeros(1000, dtype=torch.float64)
    )
    assert distribution.nonzero().flatten().tolist() == list(range(300))


def test_the_nucleus_ends_with_the_token_that_reaches_top_p() -> None:
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64).log()
    for top_p, kept in [(0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (0.86, 3), (0.88, 4)]:
        assert keep_nucleus(logits, top_p).isfinite().sum() == kept


def test_the_mass_of_the_nucleus_is_that_of_the_tokens_that_top_k_leaves() -> None:
    """Of .5 and .3 the first has .625 of the mass, more than .6; of all four it has .5, less."""
    logits = torch.tensor([0.5, 0.3, 0.1, 0.1], dtype=torch.float64).log()
    assert SamplingParameters(1.0, top_k=2, top_p=0.6).probabilities(logits).tolist() == [
        1,
        0,
        0,
        0,
    ]
    assert_close(
        SamplingParameters(1.0, top_k=2, top_p=0.63).probabilities(logits),
        torch.tensor([0.625, 0.375, 0, 0], dtype=torch.float64),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_greedy_is_one_hot_and_ties_go_to_the_lowest_token(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0, 5.0], [7.0, 7.0, 7.0, 7.0]], dtype=dtype)
    sampling = SamplingParameters(temperature=0.0)
    assert sampling.greedy
    assert sampling.probabilities(logits).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]


def test_greedy_ignores_the_filters() -> None:
    logits = random_logits(3, 8)
    assert_close(
        SamplingParameters(0.0, 2, 0.5).probabilities(logits),
        SamplingParameters().probabilities(logits),
    )


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_sixteen_bits_become_float32_and_float64_stays(temperature: float) -> None:
    sampling = SamplingParameters(temperature, top_k=4, top_p=0.9)
    for given_dtype, expected in [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        distribution = sampling.probabilities(random_logits(4, 6).to(given_dtype))
        assert distribution.dtype == expected
        assert_close(distribution.sum(-1), torch.ones(1, dtype=expected))


@pytest.mark.parametrize(
    ("temperature", "of_sampled", "of_greedy"),
    [
        (0.25, 0.98207, 0.98168),
        (0.5, 0.89026, 0.86495),
        (1.0, 0.84239, 0.64391),
        (2.0, 0.90806, 0.45505),
        (5.0, 0.96862, 0.32918),
    ],
)
def test_q1_alpha_under_temperature(temperature, of_sampled, of_greedy) -> None:
    sampling = SamplingParameters(temperature)
    p, q = sampling.probabilities(TARGET_LOGITS), sampling.probabilities(DRAFT_LOGITS)
    assert torch.minimum(p, q).sum().item() == pytest.approx(of_sampled, abs=PRINTED)
    assert p[q.argmax()].item() == pytest.approx(of_greedy, abs=PRINTED)


def test_q2_alpha_under_top_p() -> None:
    nucleus, whole = SamplingParameters(1.0, top_p=0.8), SamplingParameters(1.0)
    p = nucleus.probabilities(TARGET_LOGITS)
    for draft, expected in [(whole, 0.83953), (nucleus, 0.73106)]:
        q = draft.probabilities(DRAFT_LOGITS)
        assert torch.minimum(p, q).sum().item() == pytest.approx(expected, abs=PRINTED)


def test_q3_alpha_of_a_colder_draft() -> None:
    p = SamplingParameters(1.0).probabilities(TARGET_LOGITS)
    q = SamplingParameters(0.5).probabilities(DRAFT_LOGITS)
    assert torch.minimum(p, q).sum().item() == pytest.approx(0.66922, abs=PRINTED)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"temperature": -0.1}, "temperature must be a finite number >= 0, not -0.1"),
        ({"temperature": math.nan}, "temperature .* not nan"),
        ({"temperature": math.inf}, "temperature .* not inf"),
        ({"temperature": 1.0, "top_k": 0}, "top_k must be at least 1, not 0"),
        ({"temperature": 1.0, "top_k": -3}, "top_k .* not -3"),
        ({"temperature": 1.0, "top_p": 0.0}, r"top_p must be in \(0, 1\], not 0.0"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p .* not 1.1"),
        ({"temperature": 1.0, "top_p": math.nan}, "top_p .* not nan"),
        ({"temperature": 1.0, "min_p": -0.1}, r"min_p must be in \[0, 1\], not -0.1"),
        ({"temperature": 1.0, "min_p": 1.5}, "min_p .* not 1.5"),
        ({"temperature": 1.0, "min_p": math.nan}, "min_p .* not nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be a finite number > 0, not 0.0"),
        ({"repetition_penalty": -1.2}, "repetition_penalty .* not -1.2"),
        ({"repetition_penalty": math.inf}, "repetition_penalty .* not inf"),
        ({"repetition_penalty": math.nan}, "repetition_penalty .* not nan"),
    ],
)
def test_an_impossible_setting_is_named(options, named) -> None:
    with pytest.raises(ValueError, match=named):
        SamplingParameters(**options)


# Min-p and the repetition penalty


@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.2, 3.0),
    top_p=st.none() | st.floats(0.1, 1.0),
    min_p=st.floats(0.0, 1.0),
)
def test_min_p_keeps_what_is_likely_beside_the_likeliest(seed, temperature, top_p, min_p) -> None:
    logits = random_logits(seed, 9, rows=2)
    distribution = SamplingParameters(temperature, top_p=top_p, min_p=min_p).probabilities(logits)
    for row, found in zip(logits.tolist(), distribution.tolist(), strict=True):
        whole = distribution_by_hand(row, temperature, None, top_p)
        kept = [p if p >= min_p * max(whole) * (1 - 1e-12) else 0.0 for p in whole]
        assert found == pytest.approx([p / sum(kept) for p in kept], abs=1e-12)


def test_min_p_of_one_keeps_the_likeliest_and_of_zero_everything() -> None:
    logits = random_logits(8, 6)
    assert (SamplingParameters(1.0, min_p=1.0).probabilities(logits) > 0).sum() == 1
    assert torch.equal(
        SamplingParameters(1.0, min_p=0.0).probabilities(logits),
        SamplingParameters(1.0).probabilities(logits),
    )


@pytest.fixture
def two_texts(sequences_of) -> Sequences:
    return sequences_of([[1, 1, 4], [2]], 4)


def test_a_place_has_seen_the_prompt_and_the_drafts_before_it(two_texts) -> None:
    sequences = two_texts
    sequences.tokens[1, 1:] = 5  # stale: a rejected draft beyond the pending token
    drafted = torch.tensor([[3, 0], [2, 4]])
    held = [[{1, 4}, {1, 3, 4}, {0, 1, 3, 4}], [{2}, {2}, {2, 4}]]
    assert sets(sequences.held(drafted, 3)) == held
    assert sets(sequences.held(drafted, 1)) == [row[-1:] for row in held]
    assert sets(sequences.held(drafted[:, :0], 1)) == [row[:1] for row in held]
    root_and_second = torch.tensor([[[1, 0, 1]], [[1, 0, 0]]]).bool()
    assert sets(sequences.held(drafted, 1, root_and_second)) == [[{0, 1, 4}], [{2}]]


def sets(held: Tensor) -> list[list[set[int]]]:
    return [[set(place) for place in row] for row in held.tolist()]


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.3])
def test_the_penalty_is_that_of_transformers(two_texts, penalty: float) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    oracle = RepetitionPenaltyLogitsProcessor(penalty)
    prompts, drafted = [[1, 1, 4], [2]], torch.tensor([[3, 0], [2, 4]])
    logits = random_logits(9, 6, rows=6).view(2, 3, 6)
    found = SamplingParameters(repetition_penalty=penalty).penalise(logits, two_texts, drafted)
    for row, prompt in enumerate(prompts):
        for place in range(3):
            text = torch.tensor([prompt + drafted[row, :place].tolist()])
            expected = oracle(text, logits[row, place][None].clone())
            assert_close(found[row, place][None], expected)


def test_the_penalty_of_fewer_places_is_that_of_the_last_ones(two_texts) -> None:
    sampling, sequences = SamplingParameters(repetition_penalty=1.5), two_texts
    logits, drafted = random_logits(9, 6, rows=6).view(2, 3, 6), torch.tensor([[3, 0], [2, 4]])
    whole = sampling.penalise(logits, sequences, drafted)
    assert torch.equal(sampling.penalise(logits[:, 2:], sequences, drafted), whole[:, 2:])


# Drawing


@given(
    weights=st.lists(st.integers(0, 8), min_size=1, max_size=8).filter(any),
    scale=st.sampled_from([2.0**-40, 0.25, 1.0, 1024.0]),
    uniform=st.integers(0, 2**24 - 1),
)
def test_draw_inverts_the_cumulative_distribution(
    weights: list[int], scale: float, uniform: int
) -> None:
    distribution = [
        scale * w for w in weights
    ]  # sums of small integers times a power of two are exact
    u = uniform * 2.0**-24
    token = draw(torch.tensor(distribution), torch.tensor(u)).item()
    assert token == drawn_by_hand(distribution, u)
    assert distribution[token] > 0


def test_the_extreme_uniforms_pick_the_first_and_the_last_possible_token() -> None:
    distribution = torch.tensor([0.0, 0.2, 0.0, 0.3, 0.5, 0.0])
    tokens = draw(distribution.expand(2, -1), torch.tensor([0.0, ALMOST_ONE]))
    assert tokens.tolist() == [1, 4]
    double = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    for total in (1.0, 0.5 + 2**-53, 1.5, 3.0, 0.1 + 0.2):
        assert draw((total * distribution.double()).expand(2, -1), double).tolist() == [1, 4]


@pytest.mark.parametrize("seed", range(20))
def test_float32_distributions_over_a_large_vocabulary_are_not_overrun(seed: int) -> None:
    """The float32 sum is not 1 and the tail is forbidden: the last uniform stays inside."""
    distribution = (4 * random_logits(seed, 32_000).float()).softmax(-1).squeeze(0)
    distribution[-100:] = 0
    assert draw(distribution, torch.tensor(ALMOST_ONE)).item() < 31_900
    assert distribution[draw(distribution, torch.tensor(0.0))] > 0


@pytest.mark.parametrize("float_of_sums", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_in_two_steps_the_token_is_that_of_one(monkeypatch, float_of_sums, shape) -> None:
    """Its block first: with sums that are exact, and distributions that have empty blocks."""
    monkeypatch.setattr("reference.sampling.finest_float", lambda device: float_of_sums)
    monkeypatch.setattr(sampling, "BLOCK", 4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        weights = torch.randint(-6, 7, (*shape, 24), generator=generator).clamp(min=0)
        weights[..., 5] += weights.sum(-1) == 0
        u = torch.randint(2**12, shape, generator=generator) * 2.0**-12
        for uniforms in (u, u * 0, u * 0 + ALMOST_ONE):
            tokens = []
            for large in (24, 25):
                monkeypatch.setattr(sampling, "LARGE", large)
                tokens.append(draw(weights.float(), uniforms))
            assert torch.equal(*tokens)
            assert (weights.gather(-1, tokens[0][..., None]) > 0).all()


def test_in_32_bits_a_token_without_probability_is_not_drawn_either(monkeypatch) -> None:
    """As on MPS, which has no float64: u times the total may round up to the total."""
    monkeypatch.setattr("reference.sampling.finest_float", lambda device: torch.float32)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        distribution = torch.rand(50, generator=generator).softmax(-1)
        distribution[[0, 7, 48, 49]] = 0
        for u in (0.0, ALMOST_ONE, 1 - 2**-24):
            assert distribution[draw(distribution, torch.tensor(u))] > 0


def test_a_token_too_rare_for_a_float32_sum_keeps_its_chance() -> None:
    distribution = torch.tensor([1.0, 1e-9, 0.0])
    for u, token in [(1 - 2e-9, 0), (1 - 0.5e-9, 1)]:
        assert draw(distribution, torch.tensor(u, dtype=torch.float64)).item() == token


def test_an_unnormalised_distribution_is_drawn_like_its_normalised_one() -> None:
    distribution = random_logits(5, 9).softmax(-1).squeeze(0)
    uniforms = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = draw(distribution.expand(1000, -1), uniforms)
    for scale in (1e-12, 0.125, 7.0, 1e12):
        assert torch.equal(draw((scale * distribution).expand(1000, -1), uniforms), expected)


def test_one_uniform_decides_one_row() -> None:
    distributions = random_logits(6, 5, rows=12).softmax(-1).view(3, 4, 5)
    uniforms = torch.rand((3, 4), generator=torch.Generator().manual_seed(1))
    tokens = draw(distributions, uniforms)
    assert tokens.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            assert tokens[i, j] == draw(distributions[i, j], uniforms[i, j])


def test_draws_follow_the_distribution() -> None:
    distribution = SamplingParameters(1.3, top_k=7).probabilities(random_logits(7, 10)).squeeze(0)
    uniforms = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(draw(distribution.expand(len(uniforms), -1), uniforms), minlength=10)
    assert chi_square_tail(counts, distribution) > 1e-3
    shifted = distribution.clone()
    first, second = distribution.topk(2).indices.tolist()
    shifted[first] -= 0.005
    shifted[second] += 0.005
    assert chi_square_tail(counts, shifted) < 1e-3, "the test would not see half a per cent"
