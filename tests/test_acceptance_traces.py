"""Survivals from counts: by hand, and by the coverage of their intervals."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from specsim.acceptance import from_counts
from specsim.checks import SpecsimError


def test_counts_of_a_trace_by_hand():
    estimate = from_counts([2, 0, 1, 3], [3, 3, 1, 3])
    assert_allclose(estimate.survival, [3 / 4, 2 / 3, 1 / 3])
    assert estimate.cycles.tolist() == [4, 3, 3]  # the cycle that drafted 1 says nothing of s_2
    assert estimate.acceptance.tokens_per_cycle(3) == pytest.approx(2.75)


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_counts([2, 1], [1, 1]), "got 2 of 1 in cycle 0"),
        (lambda: from_counts([0], [0]), "no drafted tokens"),
    ],
)
def test_refusals_name_the_value_in_one_line(call, message):
    with pytest.raises(SpecsimError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
