"""Survivals from counts and from exact overlaps: by hand, by enumeration, by coverage."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose

from specsim.acceptance import empirical, from_betas, from_counts, overlap
from specsim.checks import SpecsimError

PRINTED = 6e-6  # the vectors are printed with five decimals


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
    assert estimate.acceptance.tokens_per_cycle(2) == pytest.approx(2.13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
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
