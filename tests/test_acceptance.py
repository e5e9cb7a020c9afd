"""Acceptance laws against enumeration, simulation, exact fractions and published numbers.

Worked vectors of the theory carry their id (A1, D2, G5, ...) in the test's id.
"""

import itertools
import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from specsim.acceptance import (
    IID,
    BetaMixture,
    Decaying,
    Markov,
    PerPosition,
    accepted_per_drafted,
    alpha_from_tokens_per_cycle,
    as_acceptance,
    conditional,
    empirical,
    from_betas,
    from_counts,
    greedy_overlap,
    overlap,
    per_position,
    pmf,
    pooled_alpha,
    token_probs,
    tokens_per_cycle_from_accepted_per_drafted,
    variance,
)
from specsim.catalog import SpecsimError

PRINTED = 6e-6  # the vectors are printed with five decimals
LOGGED = (0.68, 0.39, 0.20)
EASY_AND_HARD = Markov(easy=0.95, hard=0.4, stay_easy=0.9, stay_hard=0.8)
TARGET, DRAFT = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])

probabilities = st.floats(0.0, 1.0)
gammas = st.integers(0, 40)
survivals = st.lists(probabilities, min_size=1, max_size=12).map(np.cumprod)
LAWS = {
    "iid": st.builds(IID, probabilities),
    "per-position": survivals.map(PerPosition),
    "decaying": st.builds(Decaying, probabilities, probabilities),
    "beta": st.builds(BetaMixture, probabilities, st.floats(0.01, 1e6)),
    "markov": st.builds(
        Markov, probabilities, probabilities, st.floats(0.0, 0.99), st.floats(0.01, 0.99)
    ),
}
laws = st.one_of(*LAWS.values())


def known_gamma(law):
    """The largest gamma the law may be asked about in a property test."""
    return law.vector.shape[-1] if isinstance(law, PerPosition) else 12


# ------------------------------------------------------------------------- worked vectors: A, C, D


def test_A1_A2_A3_logged_survival():
    assert_allclose(PerPosition(LOGGED).tokens_per_cycle(3), 2.27, rtol=1e-12)
    assert_allclose(variance(LOGGED), 1.2371, atol=PRINTED)
    assert_allclose(pmf(LOGGED), [0.32, 0.29, 0.19, 0.20], rtol=1e-12)
    assert_allclose(conditional(LOGGED), [0.68, 0.57353, 0.51282], atol=PRINTED)


def test_A4_llama_cpp_rates_per_position_are_a_survival_with_bonus():
    assert_allclose(PerPosition((0.805, 0.632, 0.483)).tokens_per_cycle(3), 2.92, atol=5e-4)


@pytest.mark.parametrize(
    ("alpha", "gamma", "mean", "var"),
    [
        pytest.param(0.8, 5, 3.68928, 3.86409, id="C1-a"),
        pytest.param(0.6, 3, 2.17600, 1.37702, id="C1-b"),
        pytest.param(0.9, 7, 5.69533, 6.89972, id="C1-c"),
        pytest.param(0.75, 4, 3.05078, 2.55602, id="C1-d"),
    ],
)
def test_iid_mean_and_variance(alpha, gamma, mean, var):
    assert_allclose(IID(alpha).tokens_per_cycle(gamma), mean, atol=PRINTED)
    survival = per_position(IID(alpha), gamma).vector
    assert_allclose(variance(survival), var, atol=PRINTED)
    k, total = np.arange(1, gamma + 1), np.sum(survival)
    assert_allclose(variance(survival), np.sum((2 * k - 1) * survival) - total**2, rtol=1e-12)
    power = alpha ** (gamma + 1)
    closed = (alpha - (2 * gamma + 1) * (1 - alpha) * power - power**2) / (1 - alpha) ** 2
    assert_allclose(variance(survival), closed, rtol=1e-11)


def test_C2_ends_of_the_range_are_exact():
    assert IID(1.0).tokens_per_cycle(4) == 5.0
    assert IID(0.0).tokens_per_cycle(4) == 1.0
    assert IID(0.8).tokens_per_cycle(0) == 1.0
    assert IID(0.0).survival([0, 1, 2]).tolist() == [1.0, 0.0, 0.0]
    assert_allclose(IID(0.8).tokens_per_cycle(1000), 5.0, rtol=1e-12)
    assert IID([0.0, 1.0]).tokens_per_cycle(4).tolist() == [1.0, 5.0]


def test_C3_law_of_tokens_per_cycle():
    expected = [0.2, 0.16, 0.128, 0.1024, 0.08192, 0.32768]
    assert_allclose(pmf(per_position(IID(0.8), 5).vector), expected, rtol=1e-12)


def test_D1_accepted_per_drafted_is_not_alpha():
    tokens = IID(0.8).tokens_per_cycle(5)
    rate = accepted_per_drafted(tokens, 5)
    assert_allclose(rate, 0.53786, atol=PRINTED)
    assert_allclose((tokens - 1) / tokens, 0.72894, atol=PRINTED)
    assert_allclose(IID(rate).tokens_per_cycle(5), 2.11144, atol=PRINTED)


def test_D2_alpha_from_tokens_per_cycle():
    alpha = alpha_from_tokens_per_cycle([3.68928, 1.89, 2.08], [5, 2, 4])
    assert_allclose(alpha, [0.8, 0.56771, 0.54164], atol=PRINTED)


def test_D3_a_log_of_54_percent_means_alpha_080():
    tokens = tokens_per_cycle_from_accepted_per_drafted(0.54, 5)
    assert_allclose(tokens, 3.7, rtol=1e-12)
    assert_allclose(alpha_from_tokens_per_cycle(tokens, 5), 0.80124, atol=PRINTED)


def test_D4_pooled_alpha():
    assert_allclose(pooled_alpha(LOGGED), 0.61353, atol=PRINTED)
    assert_allclose(pooled_alpha(per_position(IID(0.37), 6).vector), 0.37, rtol=1e-12)
    assert pooled_alpha([1.0, 1.0]) == 1.0
    assert pooled_alpha([0.0]) == 0.0


# ------------------------------------------------------------------------------ worked vectors: G


def test_G1_beta_mixture():
    mixed = BetaMixture(0.7, 5)
    expected = [0.7, 0.525, 0.4125, 0.33516, 0.2793]
    assert_allclose(mixed.survival(range(1, 6)), expected, atol=PRINTED)
    tokens = BetaMixture(0.7, [20, 5, 2, np.inf]).tokens_per_cycle(5)
    assert_allclose(tokens, [3.03399, 3.25195, 3.53187, 2.94117], atol=PRINTED)
    assert_allclose(tokens[-1], IID(0.7).tokens_per_cycle(5), rtol=1e-12)


def test_G1_beta_mixture_is_the_mean_over_its_beta_law():
    alphas = (np.arange(200_000) + 0.5) / 200_000
    density = alphas**2.5 * (1 - alphas) ** 0.5
    density /= density.sum()
    expected = [density @ alphas**k for k in range(6)]
    assert_allclose(BetaMixture(0.7, 5).survival(range(6)), expected, rtol=1e-6)


def test_G2_pooled_alpha_errs_high_on_mixed_cycles():
    pooled = pooled_alpha(per_position(BetaMixture(0.7, 5), 5).vector)
    assert_allclose(pooled, 0.75756, atol=PRINTED)
    assert_allclose(IID(pooled).tokens_per_cycle(5), 3.34505, atol=PRINTED)


def test_G4_decay_with_depth():
    law = Decaying(0.8, 0.9)
    expected = [0.8, 0.576, 0.37325, 0.21768, 0.11425]
    assert_allclose(law.survival(range(1, 6)), expected, atol=PRINTED)
    assert_allclose(law.tokens_per_cycle(5), 3.08118, atol=PRINTED)
    assert_allclose(Decaying(0.8, 1).tokens_per_cycle([0, 5]), IID(0.8).tokens_per_cycle([0, 5]))


def test_G5_markov_starts_cycles_in_the_embedded_law():
    law = EASY_AND_HARD
    expected = [0.64321, 0.48977, 0.40439, 0.34488, 0.29766]
    assert_allclose(law.at(5).vector, expected, atol=PRINTED)
    assert_allclose(law.tokens_per_cycle(5), 3.17992, atol=PRINTED)
    assert_allclose(law.starts_hard(5), 0.55780, atol=PRINTED)
    # the two tempting shortcuts, both wrong: the token law at the start, and i.i.d. at its mean
    token_law = np.array([2 / 3, 1 / 3])
    assert_allclose(1 + law._walk(token_law, 5)[0].sum(), 3.81718, atol=PRINTED)
    assert_allclose(IID(token_law @ [0.95, 0.4]).tokens_per_cycle(5), 3.41543, atol=PRINTED)


def test_G5_markov_against_simulation():
    rng = np.random.default_rng(0)
    chains, cycles, gamma = 20_000, 60, 3
    accept, stay = np.array([0.95, 0.4]), np.array([0.9, 0.8])
    hard, tokens, hard_starts = np.zeros(chains, dtype=int), 0, 0
    for cycle in range(cycles):
        alive = np.ones(chains, dtype=bool)
        counted = cycle >= 20  # after it forgot its start
        hard_starts += counted * hard.sum()
        for position in range(gamma + 1):
            tokens += counted * alive.sum()
            accepted = alive & (rng.random(chains) < accept[hard]) & (position < gamma)
            moves = alive & (rng.random(chains) >= stay[hard])
            hard, alive = np.where(moves, 1 - hard, hard), accepted
    observed = tokens / (chains * (cycles - 20))
    assert_allclose(EASY_AND_HARD.tokens_per_cycle(gamma), observed, rtol=3e-3)
    assert_allclose(
        EASY_AND_HARD.starts_hard(gamma), hard_starts / (chains * (cycles - 20)), rtol=5e-3
    )


def test_markov_limits():
    same = Markov(0.7, 0.7, 0.9, 0.6)
    assert_allclose(same.tokens_per_cycle([0, 1, 5]), IID(0.7).tokens_per_cycle([0, 1, 5]))
    assert_allclose(EASY_AND_HARD.starts_hard(0), 1 / 3)  # gamma = 0: every token starts a cycle
    never_hard = Markov(0.9, 0.1, 1.0, 0.5)
    assert_allclose(never_hard.tokens_per_cycle(4), IID(0.9).tokens_per_cycle(4))
    with pytest.raises(SpecsimError, match="never mix"):
        Markov(0.9, 0.1, 1.0, 1.0).at(3)
    with pytest.raises(SpecsimError, match=r"at\(gamma\)"):
        EASY_AND_HARD.survival(3)


# ------------------------------------------------------------------------------ the laws at large


@pytest.mark.parametrize(
    "alpha",
    [0.0, 1e-300, 1e-9, 0.3, 0.5, 0.9, 1 - 1e-6, 1 - 1e-10, 1 - 2**-53, 1.0],
)
@pytest.mark.parametrize("gamma", [0, 1, 7, 60])
def test_iid_is_exact_to_1e12_against_fractions(alpha, gamma):
    exact = float(sum(Fraction(alpha) ** k for k in range(gamma + 1)))
    assert_allclose(IID(alpha).tokens_per_cycle(gamma), exact, rtol=1e-12)
    assert_allclose(IID([alpha, 1.0]).tokens_per_cycle(gamma)[0], exact, rtol=1e-12)


def test_iid_never_emits_more_than_gamma_plus_one():
    just_below_one = 1.0 - np.arange(1, 3000)[:, None] * 2.0**-53
    gamma = np.arange(1, 60)
    tokens = IID(just_below_one).tokens_per_cycle(gamma)
    assert np.all(tokens <= gamma + 1.0)
    assert_allclose(alpha_from_tokens_per_cycle(tokens, gamma), 1.0, atol=1e-12)


def test_two_million_scenarios_are_one_fast_call():
    alpha = np.linspace(0.0, 1.0, 2_000_000)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        IID(alpha).tokens_per_cycle(5)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.2


@pytest.mark.parametrize("name", LAWS)
@given(data=st.data())
def test_tokens_per_cycle_is_one_plus_the_survivals(name, data):
    law = data.draw(LAWS[name])
    gamma = data.draw(st.integers(0, known_gamma(law)))
    survival = per_position(law, gamma).vector
    assert survival.shape == (gamma,)
    assert np.all(np.diff(survival, prepend=1.0) <= 0.0)
    assert_allclose(law.tokens_per_cycle(gamma), 1.0 + survival.sum(), rtol=1e-12)
    assert law.tokens_per_cycle(0) == 1.0
    assert 1.0 <= law.tokens_per_cycle(gamma) <= gamma + 1.0


@given(laws)
def test_scalar_and_array_calls_agree(law):
    every = np.arange(known_gamma(law) + 1)
    one_by_one = [law.tokens_per_cycle(int(gamma)) for gamma in every]
    assert_allclose(law.tokens_per_cycle(every), one_by_one, rtol=1e-13)
    if not isinstance(law, Markov):
        one_by_one = [law.survival(int(k)) for k in every]
        assert_allclose(law.survival(every), one_by_one, rtol=1e-13)


@given(probabilities, probabilities, gammas)
def test_more_alpha_or_gamma_never_emits_less(one, other, gamma):
    low, high = sorted([one, other])
    assert IID(low).tokens_per_cycle(gamma) <= IID(high).tokens_per_cycle(gamma) * (1 + 1e-15)
    assert IID(low).tokens_per_cycle(gamma) <= IID(low).tokens_per_cycle(gamma + 1) * (1 + 1e-15)


@pytest.mark.parametrize(
    "law",
    [
        IID(np.full((3, 1), 0.5)),
        PerPosition(np.full((3, 1, 4), 0.5)),
        Decaying(np.full((3, 1), 0.5), 0.9),
        BetaMixture(0.5, np.full((3, 1), 2.0)),
        Markov(0.5, 0.3, np.full((3, 1), 0.5), 0.5),
    ],
    ids=lambda law: type(law).__name__,
)
def test_shape_is_parameters_broadcast_with_the_argument(law):
    assert law.tokens_per_cycle([2, 4]).shape == (3, 2)
    assert law.tokens_per_cycle(3).shape == (3, 1)
    assert per_position(law, 4).vector.shape == (3, 1, 4)
    assert per_position(law, 0).vector.shape == (3, 1, 0)
    if not isinstance(law, Markov):
        assert law.survival([0, 1]).shape == (3, 2)


def test_laws_are_frozen_and_keep_their_own_copy():
    alpha = np.array([0.5, 0.6])
    law = IID(alpha)
    alpha[0] = 0.9
    assert law.alpha[0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        law.alpha[0] = 0.9
    with pytest.raises(AttributeError):
        law.alpha = 0.9
    assert repr(IID(0.8)) == "IID(alpha=0.8)"


# ------------------------------------------------------------------------------------ conversions


@given(probabilities, st.integers(1, 40))
def test_conversions_round_trip(alpha, gamma):
    tokens = IID(alpha).tokens_per_cycle(gamma)
    assert_allclose(alpha_from_tokens_per_cycle(tokens, gamma), alpha, atol=1e-12)
    rate = accepted_per_drafted(tokens, gamma)
    assert_allclose(tokens_per_cycle_from_accepted_per_drafted(rate, gamma), tokens, rtol=1e-14)


@given(survivals)
def test_pmf_conditional_and_variance_describe_the_same_law(survival):
    chances, accepted = pmf(survival), np.arange(len(survival) + 1)
    assert_allclose(chances.sum(), 1.0, rtol=1e-12)
    assert np.all(chances >= 0.0)
    assert_allclose(1.0 + chances @ accepted, PerPosition(survival).tokens_per_cycle(len(survival)))
    assert_allclose(
        variance(survival), chances @ accepted**2 - (chances @ accepted) ** 2, atol=1e-9
    )
    reached = ~np.isnan(conditional(survival))
    assert_allclose(np.cumprod(conditional(survival)[reached]), survival[reached], atol=1e-12)


def test_as_acceptance_takes_exactly_one():
    assert as_acceptance(alpha=0.8).alpha == 0.8
    assert as_acceptance(survival=LOGGED).tokens_per_cycle(3) == pytest.approx(2.27)
    assert as_acceptance(tokens_per_cycle=3.68928, gamma=5).alpha == pytest.approx(0.8, abs=1e-6)
    with pytest.raises(SpecsimError, match="exactly one"):
        as_acceptance()
    with pytest.raises(SpecsimError, match="exactly one"):
        as_acceptance(alpha=0.8, survival=LOGGED)
    with pytest.raises(SpecsimError, match="needs the gamma"):
        as_acceptance(tokens_per_cycle=2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: IID(1.2), r"alpha must be within \[0, 1\], got 1.2"),
        (lambda: IID([0.5, math.nan]), r"alpha must be within \[0, 1\], got nan"),
        (lambda: IID("high"), "alpha must be a number"),
        (lambda: IID(0.5).tokens_per_cycle(-1), "gamma must be a whole number >= 0, got -1"),
        (lambda: IID(0.5).tokens_per_cycle(2.5), "gamma must be a whole number >= 0, got 2.5"),
        (lambda: IID(0.5).tokens_per_cycle(True), "gamma must be whole numbers >= 0, got bool"),
        (lambda: PerPosition(LOGGED).survival(4), "k = 4 .* 3 positions are known"),
        (lambda: PerPosition(LOGGED).tokens_per_cycle([1, 9]), "gamma = 9 .* 3 positions"),
        (lambda: PerPosition(0.5), "survival must be a vector"),
        (lambda: PerPosition([0.5, 0.6]), "must not rise .* 0.5 at 1 and 0.6 at 2"),
        (lambda: BetaMixture(0.5, 0.0), "concentration must be within .* got 0"),
        (lambda: alpha_from_tokens_per_cycle(6.5, 5), r"within \[1, 6\], got 6.5"),
        (lambda: alpha_from_tokens_per_cycle([2, 0.9], 5), r"within \[1, 6\], got 0.9"),
        (lambda: alpha_from_tokens_per_cycle([2, 4], [5, 2]), r"within \[1, 3\], got 4"),
        (lambda: alpha_from_tokens_per_cycle(2, 2.5), "gamma must be a whole number >= 1, got 2.5"),
        (lambda: alpha_from_tokens_per_cycle(1, 0), "gamma must be a whole number >= 1, got 0"),
        (lambda: per_position(IID(0.5), [1, 2]), "single whole number"),
        (lambda: pooled_alpha([]), "at least one position"),
        (lambda: overlap([2.0, 1.0], [0.5, 0.5]), r"target_probs must be within .* got 2"),
        (lambda: overlap([0.5, 0.4], [0.5, 0.5]), "target_probs must sum to 1 .* got a sum of 0.9"),
        (lambda: token_probs([math.nan, 0.0]), "logits"),
        (lambda: token_probs([1.0, 0.0], top_p=0.0), "top_p must be within"),
        (lambda: from_counts([2, 1], [1, 1]), "got 2 of 1 in cycle 0"),
        (lambda: from_counts([0], [0]), "no drafted tokens"),
        (lambda: from_betas([[0.5]]), "cycles >= 2"),
        (lambda: from_betas(np.ones((3, 2)), np.ones((3, 1))), "accept_probs must be"),
    ],
)
def test_refusals_name_the_value_in_one_line(call, message):
    with pytest.raises(SpecsimError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


# ------------------------------------------------------------------------------- measured on traces


def test_counts_of_a_trace_by_hand():
    estimate = from_counts([2, 0, 1, 3], [3, 3, 1, 3])
    assert_allclose(estimate.survival, [3 / 4, 2 / 3, 1 / 3])
    assert estimate.cycles.tolist() == [4, 3, 3]  # the cycle that drafted 1 says nothing of s_2
    assert empirical([2, 0, 1, 3], [3, 3, 1, 3]).tokens_per_cycle(3) == pytest.approx(2.75)


def test_counts_of_longer_drafts_on_easier_text_do_not_rise():
    assert_allclose(from_counts([0, 0, 4], [1, 1, 4]).survival, [1 / 3] * 4)


def test_wilson_interval_against_the_quadratic_it_solves():
    estimate = from_counts([1] * 7 + [0] * 3, 1, z=1.96)
    for bound in (estimate.low[0], estimate.high[0]):  # |0.7 - b| = z sqrt(b (1 - b) / n)
        assert_allclose((0.7 - bound) ** 2, 1.96**2 * bound * (1 - bound) / 10, rtol=1e-9)
    assert estimate.low[0] < 0.7 < estimate.high[0]
    never = from_counts([0] * 10, 1)
    assert (never.low[0], never.standard_error[0]) == (0.0, 0.0)
    assert 0.2 < never.high[0] < 0.3  # ten failures do not prove zero


def test_wilson_interval_covers_about_95_percent():
    rng = np.random.default_rng(1)
    truth, hits = 0.8**2, 0
    for _ in range(400):
        accepted = np.minimum(rng.geometric(0.2, size=50) - 1, 3)
        estimate = from_counts(accepted, 3)
        hits += estimate.low[1] <= truth <= estimate.high[1]
    assert 0.92 < hits / 400 < 0.98


def bigram_drafts(rng, gamma=3, vocabulary=3):
    """Every draft of a random bigram pair: weight, overlaps, accept probabilities, each a row."""
    target = rng.dirichlet(np.ones(vocabulary), vocabulary)
    draft = rng.dirichlet(np.ones(vocabulary), vocabulary)
    weights, betas, accepts = [], [], []
    for tokens in itertools.product(range(vocabulary), repeat=gamma):
        before = (0, *tokens[:-1])
        p, q = target[before, tokens], draft[before, tokens]
        weights.append(q.prod())
        betas.append([overlap(target[context], draft[context]) for context in before])
        accepts.append(np.minimum(p / q, 1.0))
    return np.array(weights), np.array(betas), np.array(accepts)


def test_M3_exact_overlaps_weighted_by_acceptance_are_unbiased():
    weights, betas, accepts = bigram_drafts(np.random.default_rng(1))
    truth = weights @ np.cumprod(accepts, axis=1)
    assert_allclose(truth.sum(), 0.53081, atol=PRINTED)
    # A trace in which every draft occurs in proportion to its probability.
    times = np.round(weights * 200_000).astype(int)
    trace = np.repeat(np.arange(len(weights)), times)
    estimate = from_betas(betas[trace], accepts[trace])
    assert_allclose(estimate.survival, truth, rtol=1e-3)
    plain = from_betas(betas[trace]).survival
    assert_allclose(plain[0], truth[0], rtol=1e-9)
    assert plain[2] / truth[2] == pytest.approx(0.92, abs=0.01)  # the plain product is biased
    counted = np.sqrt(truth * (1 - truth) / len(trace))
    assert np.all(estimate.standard_error < counted)


def test_overlaps_of_independent_positions_need_no_weights():
    betas = np.array([[0.9, 0.5], [0.7, 0.3]])
    estimate = from_betas(betas)
    assert_allclose(estimate.survival, [0.8, (0.45 + 0.21) / 2])
    assert_allclose(estimate.standard_error, [0.1, 0.12])
    assert estimate.cycles.tolist() == [2, 2]
    assert estimate.law.tokens_per_cycle(2) == pytest.approx(2.13)


# ---------------------------------------------------------------------- worked vectors: B, Q


def residual(target, draft):
    left = np.maximum(target - draft, 0.0)
    return left / left.sum()


def total_variation(one, other):
    return 0.5 * np.abs(one - other).sum()


def test_B1_overlap_and_residual_restore_the_target():
    beta = overlap(TARGET, DRAFT)
    assert_allclose(beta, 0.7)
    assert_allclose(1 - beta, total_variation(TARGET, DRAFT))
    assert_allclose(residual(TARGET, DRAFT), [1, 0, 0], atol=1e-12)
    output = np.minimum(TARGET, DRAFT) + (1 - beta) * residual(TARGET, DRAFT)
    assert_allclose(output, TARGET)


def test_B2_resampling_from_the_target_is_wrong():
    output = np.minimum(TARGET, DRAFT) + (1 - overlap(TARGET, DRAFT)) * TARGET
    assert_allclose(output, [0.35, 0.39, 0.26])
    assert_allclose(total_variation(output, TARGET), 0.15)


def test_B3_pinsker_bounds_the_overlap():
    divergence = np.sum(TARGET * np.log(TARGET / DRAFT))
    assert_allclose(divergence, 0.22380, atol=PRINTED)
    bound = 1 - math.sqrt(divergence / 2)
    assert_allclose(bound, 0.66548, atol=PRINTED)
    assert bound <= overlap(TARGET, DRAFT)


def test_B4_B5_greedy_draft_is_a_point_mass():
    assert_allclose(greedy_overlap(TARGET, DRAFT), 0.3)
    point = np.array([0.0, 1.0, 0.0])
    assert_allclose(overlap(TARGET, point), 0.3)
    assert_allclose(residual(TARGET, point), [0.71429, 0, 0.28571], atol=PRINTED)
    accept = min(1.0, TARGET[1] / DRAFT[1])  # B5, wrong: the softmax q in the ratio
    output = accept * point + (1 - accept) * residual(TARGET, DRAFT)
    assert_allclose(output, [0.4, 0.6, 0.0], atol=1e-12)
    assert_allclose(total_variation(output, TARGET), 0.3)


def test_B6_B7_sample_and_match_accepts_less_than_the_overlap():
    assert_allclose(TARGET @ DRAFT, 0.31)
    ratios = np.maximum(TARGET[None] / TARGET[:, None], DRAFT[None] / DRAFT[:, None])
    shared_noise = np.sum(1 / ratios.sum(axis=1))
    assert_allclose(shared_noise, 0.69355, atol=PRINTED)
    assert TARGET @ DRAFT < shared_noise < overlap(TARGET, DRAFT)


TARGET_LOGITS, DRAFT_LOGITS = np.array([2.0, 1.0, 0.0, -1.0]), np.array([2.5, 0.5, 0.0, -1.0])


@pytest.mark.parametrize(
    ("temperature", "sampled", "greedy"),
    [
        pytest.param(0.25, 0.98207, 0.98168, id="Q1-0.25"),
        pytest.param(0.5, 0.89026, 0.86495, id="Q1-0.5"),
        pytest.param(1.0, 0.84239, 0.64391, id="Q1-1"),
        pytest.param(2.0, 0.90806, 0.45505, id="Q1-2"),
        pytest.param(5.0, 0.96862, 0.32918, id="Q1-5"),
        pytest.param(0.0, 1.0, 1.0, id="argmax"),
        pytest.param(1e-300, 1.0, 1.0, id="nearly-argmax"),
        pytest.param(1e9, 1.0, 0.25, id="uniform"),
    ],
)
def test_temperature_raises_sampled_drafts_and_ruins_greedy_ones(temperature, sampled, greedy):
    p, q = token_probs(TARGET_LOGITS, temperature), token_probs(DRAFT_LOGITS, temperature)
    assert_allclose(overlap(p, q), sampled, atol=PRINTED)
    assert_allclose(greedy_overlap(p, q), greedy, atol=PRINTED)


def test_Q2_top_p_on_both_sides_can_lose_overlap():
    p, q = token_probs(TARGET_LOGITS, top_p=0.8), token_probs(DRAFT_LOGITS)
    assert_allclose(overlap(p, q), 0.83953, atol=PRINTED)
    assert_allclose(overlap(p, token_probs(DRAFT_LOGITS, top_p=0.8)), 0.73106, atol=PRINTED)


def test_Q3_draft_at_another_temperature():
    p, q = token_probs(TARGET_LOGITS, 1.0), token_probs(DRAFT_LOGITS, 0.5)
    assert_allclose(overlap(p, q), 0.66922, atol=PRINTED)


def test_token_probs_over_many_temperatures_and_rows():
    temperatures = np.array([[0.0], [0.5], [1.0]])
    logits = np.array([TARGET_LOGITS, DRAFT_LOGITS])
    probs = token_probs(logits, temperatures, top_p=0.9)  # (3, 2, V)
    for (i, j), row in zip(np.ndindex(3, 2), probs.reshape(-1, 4), strict=True):
        assert_allclose(row, token_probs(logits[j], temperatures[i, 0], top_p=0.9), rtol=1e-14)
    assert token_probs([1.0, 3.0, 3.0], 0.0).tolist() == [0.0, 1.0, 0.0]  # a tie: lowest index
    assert token_probs([0.0, -np.inf]).tolist() == [1.0, 0.0]
    assert_allclose(token_probs(np.log(TARGET), top_p=0.5), [1.0, 0.0, 0.0])


def test_probabilities_of_32_bit_arithmetic_may_be_a_hair_above_one():
    certain = np.array([np.nextafter(np.float32(1), np.float32(2)), 0.0], dtype=np.float32)
    assert overlap(certain, certain) == 1.0
    assert from_betas(np.full((4, 2), certain[0])).survival.tolist() == [1.0, 1.0]


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=6), st.data())
def test_overlap_is_symmetric_and_bounded(logits, data):
    others = data.draw(st.lists(st.floats(-8, 8), min_size=len(logits), max_size=len(logits)))
    p, q = token_probs(logits), token_probs(others)
    assert overlap(p, q) == overlap(q, p)
    assert_allclose(overlap(p, q), 1 - total_variation(p, q), atol=1e-12)
    assert overlap(p, p) == pytest.approx(1.0)
