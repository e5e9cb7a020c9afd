"""One position's acceptance: the overlap of two distributions, and what samplers do to it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from specsim.acceptance import greedy_overlap, overlap, residual, token_probs
from specsim.checks import SpecsimError

PRINTED = 6e-6  # the vectors are printed with five decimals
TARGET, DRAFT = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
TARGET_LOGITS, DRAFT_LOGITS = np.array([2.0, 1.0, 0.0, -1.0]), np.array([2.5, 0.5, 0.0, -1.0])


def total_variation(one, other):
    return 0.5 * np.abs(one - other).sum()


def test_B1_overlap_and_residual_restore_the_target():
    beta = overlap(TARGET, DRAFT)
    assert_allclose(beta, 0.7)
    assert_allclose(1 - beta, total_variation(TARGET, DRAFT))
    assert_allclose(residual(TARGET, DRAFT), [1, 0, 0], atol=1e-12)
    output = np.minimum(TARGET, DRAFT) + (1 - beta) * residual(TARGET, DRAFT)
    assert_allclose(output, TARGET)


def test_the_residual_has_leading_axes_and_equals_the_target_where_nothing_is_missing():
    residuals = residual(np.stack([TARGET, TARGET]), np.stack([DRAFT, TARGET]))
    assert_allclose(residuals, [[1, 0, 0], TARGET], atol=1e-12)
    with pytest.raises(SpecsimError, match="draft_probs must sum to 1"):
        residual(TARGET, 2 * DRAFT / 3)


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


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=6), st.data())
def test_overlap_is_symmetric_and_bounded(logits, data):
    others = data.draw(st.lists(st.floats(-8, 8), min_size=len(logits), max_size=len(logits)))
    p, q = token_probs(logits), token_probs(others)
    assert overlap(p, q) == overlap(q, p)
    assert_allclose(overlap(p, q), 1 - total_variation(p, q), atol=1e-12)
    assert overlap(p, p) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overlap([2.0, 1.0], [0.5, 0.5]), r"target_probs must be within .* got 2"),
        (lambda: overlap([0.5, 0.4], [0.5, 0.5]), "target_probs must sum to 1 .* got a sum of 0.9"),
        (lambda: token_probs([math.nan, 0.0]), "logits"),
        (lambda: token_probs([1.0, 0.0], top_p=0.0), "top_p must be within"),
    ],
)
def test_refusals_name_the_value_in_one_line(call, message):
    with pytest.raises(SpecsimError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
