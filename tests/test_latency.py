"""Latency: the exact cycle counts against enumeration, simulation and renewal theory.

Worked examples carry their id (H1, G3, I5, ...) in the test's id.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from specsim.acceptance import IID, per_position, pmf
from specsim.acceptance.latency import (
    arithmetic_mean,
    cycles_estimate,
    cycles_to_emit,
    end_to_end_s,
    gap_percentile_s,
    harmonic_mean,
    lockstep_tokens_per_cycle,
    time_per_token_percentile_s,
    time_per_token_s,
    zero_gap_share,
)
from specsim.acceptance.requests import EXACT, request_latency
from specsim.checks import SpecsimError

PRINTED = 6e-6
SURVIVAL = per_position(IID(0.8), 5).vector
TOKENS = IID(0.8).tokens_per_cycle(5)
CYCLE_S = 0.020

short_survivals = st.lists(st.floats(0.0, 1.0), max_size=4).map(np.cumprod)


@pytest.mark.parametrize(
    ("tokens", "first_order", "first_sd", "mean", "sd", "p95"),
    [
        pytest.param(64, 17.348, 2.219, 17.854, 2.252, 22, id="H1-64"),
        pytest.param(256, 69.390, 4.438, 69.897, 4.455, 77, id="H1-256"),
        pytest.param(1024, 277.561, 8.877, 278.067, 8.885, 293, id="H1-1024"),
    ],
)
def test_cycles_of_a_request(tokens, first_order, first_sd, mean, sd, p95):
    estimate, exact = cycles_estimate(tokens, SURVIVAL), cycles_to_emit(tokens, SURVIVAL)
    assert_allclose([estimate.first_order, estimate.sd], [first_order, first_sd], atol=6e-4)
    assert_allclose([exact.mean, exact.sd], [mean, sd], atol=6e-4)
    assert exact.percentile(95) == p95
    assert_allclose(estimate.mean, exact.mean, rtol=1e-3)
    assert_allclose(estimate.sd, exact.sd, rtol=0.02)


def test_H2_the_first_order_is_half_a_cycle_short():
    assert_allclose(cycles_estimate(64, SURVIVAL).overshoot, 0.50642, atol=PRINTED)
    assert_allclose(cycles_to_emit(1024, SURVIVAL).mean - 1024 / TOKENS, 0.50642, atol=2e-5)


def test_H3_gaps_are_zero_or_a_whole_cycle():
    assert_allclose(zero_gap_share(TOKENS), 0.72894, atol=PRINTED)
    assert_allclose(time_per_token_s(CYCLE_S, TOKENS), 5.42111e-3, atol=PRINTED * 1e-3)
    assert gap_percentile_s(CYCLE_S, TOKENS, [50, 72, 73, 99]).tolist() == [0, 0, 0.02, 0.02]


def test_H4_end_to_end_to_first_order():
    assert_allclose(end_to_end_s(0.050, 127, CYCLE_S, TOKENS), 0.738481, atol=6e-7)


def test_H5_a_batch_waits_for_its_slowest_sequence():
    one = cycles_to_emit(64, SURVIVAL)
    slowest = one.slowest_of(16)
    assert_allclose(slowest.mean, 22.13014, atol=PRINTED)
    assert_allclose(slowest.probability.sum(), 1.0, rtol=1e-12)
    assert_allclose(one.slowest_of(1).probability, one.probability, atol=1e-15)
    estimate = cycles_estimate(64, SURVIVAL)
    extreme = estimate.first_order + math.sqrt(2 * math.log(16)) * estimate.sd
    assert_allclose(extreme, 22.57, atol=6e-3)
    twice = [max(a, b) for a, b in itertools.product(range(len(one.probability)), repeat=2)]
    cycle_counts = np.bincount(twice, weights=np.outer(one.probability, one.probability).ravel())
    assert_allclose(one.slowest_of(2).probability, cycle_counts, atol=1e-13)


def naive_distribution(tokens, survival):
    """P(N = n) by walking through every possible sequence of bursts."""
    cycle_counts, chances = np.zeros(tokens + 1), pmf(survival)

    def walk(missing, cycles, probability):
        if missing <= 0:
            cycle_counts[cycles] += probability
            return
        for accepted, chance in enumerate(chances):
            if chance > 0.0:
                walk(missing - accepted - 1, cycles + 1, probability * chance)

    walk(tokens, 0, 1.0)
    return cycle_counts


@given(st.integers(0, 7), short_survivals)
def test_dynamic_program_is_the_enumeration(tokens, survival):
    found, expected = (
        cycles_to_emit(tokens, survival).probability,
        naive_distribution(tokens, survival),
    )
    assert len(found) <= len(expected)
    assert_allclose(np.pad(found, (0, len(expected) - len(found))), expected, atol=1e-14)


@given(st.integers(0, 200), short_survivals)
def test_probabilities_sum_to_one_and_stays_in_its_range(tokens, survival):
    cycle_counts = cycles_to_emit(tokens, survival)
    assert_allclose(cycle_counts.probability.sum(), 1.0, rtol=1e-12)
    assert np.all(cycle_counts.probability >= 0.0)
    fewest = math.ceil(tokens / (len(survival) + 1))
    assert fewest - 1e-9 <= cycle_counts.mean <= tokens + 1e-9
    assert (
        cycle_counts.percentile(0)
        <= cycle_counts.percentile(50)
        <= cycle_counts.percentile(100)
        <= tokens
    )


def test_cycles_at_the_ends_of_acceptance():
    never, always = cycles_to_emit(10, np.zeros(3)), cycles_to_emit(10, np.ones(3))
    assert (never.mean, never.sd, never.percentile(100)) == (10.0, 0.0, 10)
    assert (always.mean, always.sd, always.percentile(5)) == (3.0, 0.0, 3)
    assert cycles_to_emit(10, []).mean == 10.0  # gamma = 0 is plain decoding
    assert cycles_to_emit(0, SURVIVAL).mean == 0.0


def test_percentile_is_the_smallest_count_that_reaches_it():
    half = cycles_to_emit(2, [0.5])  # one cycle or two, evenly
    assert half.percentile([0, 50, 50.1, 100]).tolist() == [0, 1, 2, 2]


def test_time_per_token_percentiles_of_a_request():
    percentiles = time_per_token_percentile_s(64, SURVIVAL, CYCLE_S, [50, 95])
    assert_allclose(percentiles, [18 * CYCLE_S / 64, 22 * CYCLE_S / 64])


def test_against_simulation():
    rng = np.random.default_rng(0)
    bursts = rng.choice(np.arange(1, 7), p=pmf(SURVIVAL), size=(20_000, 64))
    cycles = (np.cumsum(bursts, axis=1) < 64).sum(axis=1) + 1
    cycle_counts = cycles_to_emit(64, SURVIVAL)
    assert_allclose(cycle_counts.mean, cycles.mean(), rtol=3e-3)
    assert_allclose(cycle_counts.sd, cycles.std(), rtol=2e-2)
    assert cycle_counts.percentile(95) == np.percentile(cycles, 95)


# ----------------------------------------------------------------- differing requests and batches


def test_G3_requests_that_differ_average_harmonically():
    alphas = np.linspace(0.0, 1.0, 200_001)
    weights = alphas**2.5 * (1 - alphas) ** 0.5
    tokens = IID(alphas).tokens_per_cycle(5)
    assert_allclose(arithmetic_mean(tokens, weights), 3.25195, atol=PRINTED)
    assert_allclose(harmonic_mean(tokens, weights), 2.80409, atol=PRINTED)
    assert_allclose(
        IID(arithmetic_mean(1 + alphas, weights) - 1).tokens_per_cycle(5), 2.94117, 1e-5
    )


def test_harmonic_mean_is_all_tokens_over_all_cycles():
    tokens, lengths = np.array([2.0, 4.0]), np.array([100.0, 300.0])
    assert_allclose(harmonic_mean(tokens, lengths), 400 / (100 / 2 + 300 / 4))
    assert_allclose(arithmetic_mean([[2.0, 4.0], [1.0, 1.0]]), [3.0, 1.0])
    with pytest.raises(SpecsimError, match="weights must not all be zero"):
        harmonic_mean(tokens, 0.0)


@given(st.lists(st.floats(1.0, 20.0), min_size=1, max_size=6))
def test_harmonic_never_exceeds_arithmetic(tokens):
    assert harmonic_mean(tokens) <= arithmetic_mean(tokens) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("batch", "lowest"),
    [
        pytest.param(1, 3.36160, id="I5-1"),
        pytest.param(4, 1.67424, id="I5-4"),
        pytest.param(16, 1.02896, id="I5-16"),
        pytest.param(64, 1.00000, id="I5-64"),
    ],
)
def test_batches_in_lockstep(batch, lowest):
    survival = SURVIVAL[:4]
    assert_allclose(lockstep_tokens_per_cycle(survival, batch), lowest, atol=PRINTED)


def test_lockstep_by_enumeration():
    chances = pmf(SURVIVAL[:3])
    both = np.outer(chances, chances)
    accepted = np.arange(4)
    lowest = 1 + (both * np.minimum.outer(accepted, accepted)).sum()
    assert_allclose(lockstep_tokens_per_cycle(SURVIVAL[:3], 2), lowest)


def test_batches_and_lengths_broadcast_with_survivals():
    survivals = per_position(IID([[0.5], [0.8]]), 4).vector  # (2, 1, gamma)
    grid = lockstep_tokens_per_cycle(survivals, [1, 4, 16])
    assert grid.shape == (2, 3)
    assert_allclose(grid[1, 1], 1.67424, atol=PRINTED)
    assert cycles_estimate([64, 256, 1024], survivals).mean.shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cycles_to_emit(2.5, SURVIVAL), "tokens must be a whole number >= 0, got 2.5"),
        (lambda: cycles_to_emit(64, [SURVIVAL]), r"one vector \(gamma,\), got shape \(1, 5\)"),
        (lambda: cycles_to_emit(9, [0.5]).percentile(101), r"percent must be .* got 101"),
        (lambda: cycles_to_emit(9, [0.5]).slowest_of(0), "sequences must be .* got 0"),
        (lambda: lockstep_tokens_per_cycle(SURVIVAL, 0), "batch must be .* >= 1, got 0"),
        (lambda: zero_gap_share(0.9), r"tokens_per_cycle must be within \[1, inf\], got 0.9"),
        (lambda: time_per_token_s(-1.0, 2.0), "cycle_s must be within .* got -1"),
        (lambda: end_to_end_s(np.nan, 1, 0.02, 2.0), "ttft_s must be within .* got nan"),
    ],
)
def test_refusals_name_the_value(call, message):
    with pytest.raises(SpecsimError, match=message):
        call()


# ---------------------------------------------------------------------------------- an answer whole


def test_an_answer_is_its_cycles():
    """Ten thousand answers drawn one by one, eight at a time, against the exact distribution."""
    found = request_latency(64, SURVIVAL, CYCLE_S, batch=8)
    rng = np.random.default_rng(7)
    emitted = rng.choice(len(SURVIVAL) + 1, p=found.accepted_pmf, size=(10_000, 8, 64)) + 1
    cycles = (np.cumsum(emitted, axis=-1) < 64).sum(axis=-1) + 1
    assert_allclose(found.mean_s, cycles.mean() * CYCLE_S, rtol=3e-3)
    assert_allclose(found.batch_s, cycles.max(axis=1).mean() * CYCLE_S, rtol=3e-3)
    drawn = np.percentile(cycles, [50, 90, 99], method="inverted_cdf") * CYCLE_S / 64
    assert_allclose(list(found.time_per_token_s.values()), drawn, rtol=1e-12)
    assert_allclose(found.zero_gap_share, 0.72894, atol=PRINTED)
    assert found.gap_s == {"p50": 0.0, "p90": CYCLE_S, "p99": CYCLE_S}
    assert_allclose(sum(found.accepted_pmf), 1.0)


def test_long_answers_follow_the_normal_distribution():
    exact = request_latency(EXACT, SURVIVAL, CYCLE_S, batch=4)
    near = request_latency(EXACT + 1, SURVIVAL, CYCLE_S, batch=4)
    assert_allclose(near.mean_s, exact.mean_s, rtol=1e-3)
    assert_allclose(near.batch_s, exact.batch_s, rtol=0.02)
    for name, seconds in exact.time_per_token_s.items():
        assert_allclose(near.time_per_token_s[name], seconds, rtol=2e-3)
    alone = request_latency(10**6, SURVIVAL, CYCLE_S)
    assert alone.mean_s == alone.batch_s


def test_plain_decoding_is_even():
    for length in (10, EXACT + 1):
        plain = request_latency(length, [], CYCLE_S, batch=3)
        assert_allclose([plain.mean_s, plain.batch_s], length * CYCLE_S)
        assert_allclose(list(plain.time_per_token_s.values()), CYCLE_S)
        assert set(plain.gap_s.values()) == {CYCLE_S}
        assert (plain.zero_gap_share, plain.accepted_pmf) == (0.0, (1.0,))
