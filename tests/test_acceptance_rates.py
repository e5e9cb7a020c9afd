"""Rates against published vectors, round trips and each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from specsim.acceptance import (
    IID,
    BetaMixture,
    PerPosition,
    accepted_per_drafted,
    alpha_from_tokens_per_cycle,
    as_acceptance,
    per_position,
    pmf,
    pooled_alpha,
    tokens_per_cycle_from_accepted_per_drafted,
    variance,
)
from specsim.checks import SpecsimError

PRINTED = 6e-6  # the vectors are printed with five decimals
LOGGED = (0.68, 0.39, 0.20)
probabilities = st.floats(0.0, 1.0)
survivals = st.lists(probabilities, min_size=1, max_size=12).map(np.cumprod)


def test_A1_A2_A3_logged_survival():
    assert_allclose(PerPosition(LOGGED).tokens_per_cycle(3), 2.27, rtol=1e-12)
    assert_allclose(variance(LOGGED), 1.2371, atol=PRINTED)
    assert_allclose(pmf(LOGGED), [0.32, 0.29, 0.19, 0.20], rtol=1e-12)


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


def test_C3_distribution_of_tokens_per_cycle():
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


def test_G2_pooled_alpha_errs_high_on_mixed_cycles():
    pooled = pooled_alpha(per_position(BetaMixture(0.7, 5), 5).vector)
    assert_allclose(pooled, 0.75756, atol=PRINTED)
    assert_allclose(IID(pooled).tokens_per_cycle(5), 3.34505, atol=PRINTED)


@given(probabilities, st.integers(1, 40))
def test_conversions_round_trip(alpha, gamma):
    tokens = IID(alpha).tokens_per_cycle(gamma)
    assert_allclose(alpha_from_tokens_per_cycle(tokens, gamma), alpha, atol=1e-12)
    rate = accepted_per_drafted(tokens, gamma)
    assert_allclose(tokens_per_cycle_from_accepted_per_drafted(rate, gamma), tokens, rtol=1e-14)


@given(survivals)
def test_pmf_and_variance_describe_the_same_distribution(survival):
    chances, accepted = pmf(survival), np.arange(len(survival) + 1)
    assert_allclose(chances.sum(), 1.0, rtol=1e-12)
    assert np.all(chances >= 0.0)
    assert_allclose(1.0 + chances @ accepted, PerPosition(survival).tokens_per_cycle(len(survival)))
    assert_allclose(
        variance(survival), chances @ accepted**2 - (chances @ accepted) ** 2, atol=1e-9
    )


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
        (lambda: alpha_from_tokens_per_cycle(6.5, 5), r"within \[1, 6\], got 6.5"),
        (lambda: alpha_from_tokens_per_cycle([2, 0.9], 5), r"within \[1, 6\], got 0.9"),
        (lambda: alpha_from_tokens_per_cycle([2, 4], [5, 2]), r"within \[1, 3\], got 4"),
        (lambda: alpha_from_tokens_per_cycle(2, 2.5), "gamma must be a whole number >= 1, got 2.5"),
        (lambda: alpha_from_tokens_per_cycle(1, 0), "gamma must be a whole number >= 1, got 0"),
        (lambda: pooled_alpha([]), "at least one position"),
    ],
)
def test_refusals_name_the_value_in_one_line(call, message):
    with pytest.raises(SpecsimError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
