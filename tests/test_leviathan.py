"""The i.i.d. speedup formula against the paper's tables, published systems and brute force.

Worked examples carry their id (E1, F2, ...) in the test's id.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from specsim.acceptance import IID, PerPosition, alpha_from_tokens_per_cycle
from specsim.acceptance.leviathan import (
    best_gamma,
    best_gamma_closed_form,
    flop_multiplier,
    leviathan_speedup,
)
from specsim.checks import SpecsimError

PRINTED = 6e-6  # the vectors are printed with five decimals

# Leviathan et al., Table 4: alpha, gamma, c, our formula, their EXP and EMP columns.
TABLE_4 = [
    (0.75, 7, 0.02, 3.15750, 3.2, 3.4),
    (0.80, 7, 0.04, 3.25089, 3.3, 2.8),
    (0.82, 7, 0.11, 2.49713, 2.5, 1.7),
    (0.62, 7, 0.02, 2.25800, 2.3, 2.6),
    (0.68, 5, 0.04, 2.34670, 2.4, 2.4),
    (0.71, 3, 0.11, 1.93384, 2.0, 1.4),
    (0.65, 5, 0.02, 2.40151, 2.4, 3.1),
    (0.73, 5, 0.04, 2.61934, 2.6, 3.0),
    (0.74, 3, 0.11, 2.02468, 2.0, 2.2),
    (0.53, 5, 0.02, 1.89136, 1.9, 2.3),
    (0.55, 3, 0.04, 1.80257, 1.8, 2.2),
    (0.56, 3, 0.11, 1.54076, 1.6, 1.7),
]


@pytest.mark.parametrize(
    ("alpha", "gamma", "c", "formula", "printed"),
    [pytest.param(*row[:5], id=f"E1-{row[0]}-{row[1]}-{row[2]}") for row in TABLE_4],
)
def test_table_4_of_the_paper(alpha, gamma, c, formula, printed):
    assert_allclose(leviathan_speedup(alpha, gamma, c), formula, atol=PRINTED)
    # Three rows do not round to the printed value, but lie within the rounding of alpha and c.
    lowest = leviathan_speedup(alpha - 0.005, gamma, c + 0.005)
    highest = leviathan_speedup(alpha + 0.005, gamma, c - 0.005)
    assert lowest - 0.05 <= printed <= highest + 0.05


def test_E1m_the_formula_is_18_percent_off_what_was_measured():
    alpha, gamma, c, _, _, measured = np.transpose(TABLE_4)
    error = np.abs(leviathan_speedup(alpha, gamma, c) / measured - 1)
    assert_allclose([error.mean(), error.max()], [0.17668, 0.46890], atol=PRINTED)


@pytest.mark.parametrize(
    ("alpha", "gamma", "c_hat", "expected"),
    [
        pytest.param(0.6, 2, 0.0, 1.53061, id="C4-a"),
        pytest.param(0.7, 3, 0.0, 1.57916, id="C4-b"),
        pytest.param(0.8, 2, 0.0, 1.22951, id="C4-c"),
        pytest.param(0.8, 5, 0.0, 1.62633, id="C4-d"),
        pytest.param(0.9, 2, 0.0, 1.10701, id="C4-e"),
        pytest.param(0.9, 10, 0.0, 1.60306, id="C4-f"),
        pytest.param(0.8, 4, 0.1, 1.60638, id="C5"),
    ],
)
def test_speculation_does_more_arithmetic(alpha, gamma, c_hat, expected):
    assert_allclose(flop_multiplier(alpha, gamma, c_hat), expected, atol=PRINTED)


# vLLM's dynamic speculation table (PR #32374): step times in ms by K, survival by drafter.
STEP_MS = {
    1: {0: 6.87, 1: 7.97, 3: 9.41, 4: 9.91, 5: 10.8, 7: 12.29},
    16: {0: 7.3, 1: 8.39, 3: 9.95, 4: 10.8, 5: 11.59, 7: 13.11},
}
EAGLE = PerPosition((0.68, 0.39, 0.20, 0.10, 0.06, 0.03, 0.02))
EAGLE_3 = PerPosition((0.76, 0.54, 0.39, 0.28, 0.21, 0.15, 0.12))


@pytest.mark.parametrize(
    ("acceptance", "batch", "expected"),
    [
        pytest.param(EAGLE, 1, (1.44813, 1.65727, 1.64298, 1.54575, 1.38630), id="E2-a"),
        pytest.param(EAGLE, 16, (1.46174, 1.66543, 1.60194, 1.53054, 1.38093), id="E2-b"),
        pytest.param(EAGLE_3, 1, (1.51709, 1.96390, 2.05892, 2.02283, 1.92852), id="E2-c"),
        pytest.param(EAGLE_3, 16, (1.53135, 1.97357, 2.00750, 2.00293, 1.92105), id="E2-d"),
    ],
)
def test_vllm_table_from_survival_and_step_times(acceptance, batch, expected):
    gamma, step = np.array([1, 3, 4, 5, 7]), STEP_MS[batch]
    speedup = acceptance.tokens_per_cycle(gamma) * step[0] / np.array([step[k] for k in gamma])
    assert_allclose(speedup, expected, atol=PRINTED)


@pytest.mark.parametrize(
    ("tokens_per_s", "tokens", "alpha", "speedup"),
    [
        pytest.param(48.4, 2.90057, 0.72366, 1.91683, id="E3-readme"),
        pytest.param(49.26, 2.95211, 0.73288, 1.95089, id="E3-script"),
    ],
)
def test_alpha_of_gpt_fast(tokens_per_s, tokens, alpha, speedup):
    step_ms, draft_ms = 1e3 / 25.25, 1e3 / 196.8  # 70B int4, 7B int4 drafting 4
    cycle_ms = 4 * draft_ms + step_ms  # assumes that verifying 5 rows costs one step
    assert_allclose([step_ms, draft_ms, cycle_ms], [39.60396, 5.08130, 59.92916], atol=PRINTED)
    assert_allclose(tokens_per_s * cycle_ms / 1e3, tokens, atol=PRINTED)
    found = alpha_from_tokens_per_cycle(tokens_per_s * cycle_ms / 1e3, 4)
    assert_allclose(found, alpha, atol=PRINTED)
    assert_allclose(leviathan_speedup(found, 4, draft_ms / step_ms), speedup, atol=PRINTED)


@pytest.mark.parametrize(
    ("token_ms", "speedup", "tokens", "alpha"),
    [
        pytest.param(7.52, 1.87500, 2.83245, 0.71118, id="E4-a"),
        pytest.param(7.00, 2.01429, 3.04286, 0.74865, id="E4-b"),
        pytest.param(5.73, 2.46073, 3.71728, 0.85118, id="E4-c"),
    ],
)
def test_alpha_of_chen_table_1(token_ms, speedup, tokens, alpha):
    c = 1.8 / 14.1
    assert_allclose(14.1 / token_ms, speedup, atol=PRINTED)
    assert_allclose(14.1 / token_ms * (1 + 4 * c), tokens, atol=PRINTED)
    found = alpha_from_tokens_per_cycle(14.1 / token_ms * (1 + 4 * c), 4)
    assert_allclose(found, alpha, atol=PRINTED)
    assert_allclose(leviathan_speedup(found, 4, c), 14.1 / token_ms, rtol=1e-12)


def test_E5_one_draft_pays_exactly_when_alpha_exceeds_c():
    assert_allclose(leviathan_speedup(0.7, 1, 0.2), 1.41667, atol=PRINTED)
    assert_allclose(leviathan_speedup(0.15, 1, 0.2), 0.95833, atol=PRINTED)
    assert leviathan_speedup(0.2, 1, 0.2) == pytest.approx(1.0)


def test_E6_a_separate_catch_up_pass_costs():
    assert_allclose(leviathan_speedup(0.8, 4, 0.1), 2.40114, atol=PRINTED)
    assert_allclose(leviathan_speedup(0.8, 4, 0.1, catch_up_pass=True), 2.33289, atol=PRINTED)


def test_E7_break_even_tokens_per_cycle():
    cycle = 4 * 0.05 + 1.12 + 0.08  # drafts, verification, overhead, in plain steps
    assert_allclose(cycle, 1.4)
    assert_allclose(IID(0.8).tokens_per_cycle(4) / cycle, 2.40114, atol=PRINTED)


def test_E8_cycle_times_of_vllm_eagle_1():
    base_ms = 1e3 / 128.6
    assert_allclose(base_ms, 7.77605, atol=PRINTED)
    at_2, at_4 = 1.89 / 175.5 * 1e3 / base_ms, 2.08 / 165.7 * 1e3 / base_ms
    assert_allclose([at_2, at_4], [1.38492, 1.61429], atol=PRINTED)
    slope = (at_4 - at_2) / 2
    assert_allclose([slope, at_2 - 2 * slope], [0.11468, 1.15556], atol=PRINTED)


# -------------------------------------------------------------------------------- the best gamma


@pytest.mark.parametrize(
    ("alpha", "c", "slope", "real", "whole", "speedup"),
    [
        pytest.param(0.8, 0.05, 0.0, 7.85665, 8, 3.09208, id="F1-a"),
        pytest.param(0.8, 0.2, 0.0, 3.90353, 4, 1.86756, id="F1-b"),
        pytest.param(0.6, 0.1, 0.0, 2.97790, 3, 1.67385, id="F1-c"),
        pytest.param(0.9, 0.02, 0.0, 19.05840, 19, 6.36539, id="F1-d"),
        pytest.param(0.7, 0.1, 0.0, 4.02454, 4, 1.98079, id="F1-e"),
        pytest.param(0.8, 0.05, 0.02, 6.80461, 7, 2.79271, id="F2"),
    ],
)
def test_best_gamma_of_the_worked_examples(alpha, c, slope, real, whole, speedup):
    assert_allclose(best_gamma_closed_form(alpha, c, slope), real, atol=PRINTED)
    assert best_gamma(alpha, c, slope) == whole
    assert_allclose(leviathan_speedup(alpha, whole, c + slope), speedup, atol=PRINTED)


@given(st.floats(0.0, 0.999), st.floats(1e-3, 1.5))
def test_best_gamma_is_the_brute_force_one(alpha, c):
    speedups = leviathan_speedup(alpha, np.arange(301), c)
    found = best_gamma(alpha, c, max_gamma=300)
    # On a tie to the last digit either neighbour will do.
    assert speedups[found] >= speedups.max() * (1 - 1e-14)
    limited = best_gamma(alpha, c, max_gamma=4)
    assert speedups[limited] >= speedups[:5].max() * (1 - 1e-14)


@given(st.floats(0.01, 0.999), st.floats(1e-6, 0.9))
def test_closed_form_is_where_the_speedup_is_flat(alpha, c):
    gamma = best_gamma_closed_form(alpha, c)
    if alpha <= c:
        assert gamma == 0.0
        return
    # d/dgamma ln(1 - alpha^(gamma+1)) = d/dgamma ln(1 + gamma c)
    power = alpha ** (gamma + 1)
    assert_allclose(-np.log(alpha) * power / (1 - power), c / (1 + gamma * c), rtol=1e-6)


def test_closed_form_at_its_ends():
    assert best_gamma_closed_form(0.8, 0.0) == np.inf
    assert best_gamma_closed_form(1.0, 0.5) == np.inf
    assert best_gamma_closed_form(0.0, 0.0) == 0.0
    assert best_gamma_closed_form(1.0, 1.0) == 0.0
    assert best_gamma(1.0, 0.5, max_gamma=16) == 16
    assert best_gamma([0.8, 0.1], [[0.05], [0.2]]).tolist() == [[8, 1], [4, 0]]


@given(st.floats(0.0, 1.0), st.integers(0, 30), st.floats(0.0, 3.0))
def test_bounds_of_the_paper(alpha, gamma, c):
    assert leviathan_speedup(alpha, 0, c) == 1.0  # gamma = 0 is plain decoding
    assert flop_multiplier(alpha, gamma) >= 1.0
    speedup = leviathan_speedup(alpha, gamma, c)
    assert speedup <= gamma + 1.0
    assert leviathan_speedup(alpha, gamma, c, catch_up_pass=True) <= speedup
    best = leviathan_speedup(alpha, best_gamma(alpha, c), c)
    if alpha > c:  # Corollary 3.9
        assert best >= (1 + alpha) / (1 + c) * (1 - 1e-12)
    else:
        assert best == 1.0


def test_array_arguments_combine_by_broadcasting():
    grid = leviathan_speedup([[0.7], [0.8]], [0, 4, 8], 0.05)
    assert grid.shape == (2, 3)
    assert grid[1, 1] == leviathan_speedup(0.8, 4, 0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: leviathan_speedup(0.8, 4, -0.1), "draft_cost must be within .* got -0.1"),
        (lambda: leviathan_speedup(0.8, 4.5, 0.1), "gamma must be a whole number >= 0, got 4.5"),
        (lambda: best_gamma_closed_form(1.8, 0.1), "alpha must be within .* got 1.8"),
        (lambda: best_gamma(0.8, np.nan), "draft_cost must be within .* got nan"),
        (lambda: flop_multiplier(0.8, -1), "gamma must be a whole number >= 0, got -1"),
    ],
)
def test_refusals_name_the_value(call, message):
    with pytest.raises(SpecsimError, match=message):
        call()
