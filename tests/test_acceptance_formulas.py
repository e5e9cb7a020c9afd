"""Acceptance models against exact fractions, quadrature, limits and each other.

Worked examples carry their id (C2, G1, ...) in the test's name.
"""

import math
import sys
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
    alpha_from_tokens_per_cycle,
    per_position,
)
from specsim.checks import SpecsimError

PRINTED = 6e-6  # the vectors are printed with five decimals
LOGGED = (0.68, 0.39, 0.20)
probabilities = st.floats(0.0, 1.0)
gammas = st.integers(0, 40)
survivals = st.lists(probabilities, min_size=1, max_size=12).map(np.cumprod)
ACCEPTANCES = {
    "iid": st.builds(IID, probabilities),
    "per-position": survivals.map(PerPosition),
    "decaying": st.builds(Decaying, probabilities, probabilities),
    "beta": st.builds(BetaMixture, probabilities, st.floats(0.01, 1e6)),
    "markov": st.builds(
        Markov, probabilities, probabilities, st.floats(0.0, 0.99), st.floats(0.01, 0.99)
    ),
}
acceptances = st.one_of(*ACCEPTANCES.values())


def known_gamma(acceptance):
    """The largest gamma of an acceptance model in a property test."""
    return acceptance.vector.shape[-1] if isinstance(acceptance, PerPosition) else 12


def test_C2_ends_of_the_range_are_exact():
    assert IID(1.0).tokens_per_cycle(4) == 5.0
    assert IID(0.0).tokens_per_cycle(4) == 1.0
    assert IID(0.8).tokens_per_cycle(0) == 1.0
    assert IID(0.0).survival([0, 1, 2]).tolist() == [1.0, 0.0, 0.0]
    assert_allclose(IID(0.8).tokens_per_cycle(1000), 5.0, rtol=1e-12)
    assert IID([0.0, 1.0]).tokens_per_cycle(4).tolist() == [1.0, 5.0]


def test_G1_beta_mixture():
    mixed = BetaMixture(0.7, 5)
    expected = [0.7, 0.525, 0.4125, 0.33516, 0.2793]
    assert_allclose(mixed.survival(range(1, 6)), expected, atol=PRINTED)
    tokens = BetaMixture(0.7, [20, 5, 2, np.inf]).tokens_per_cycle(5)
    assert_allclose(tokens, [3.03399, 3.25195, 3.53187, 2.94117], atol=PRINTED)
    assert_allclose(tokens[-1], IID(0.7).tokens_per_cycle(5), rtol=1e-12)


def test_G1_beta_mixture_is_the_mean_over_its_beta_distribution():
    alphas = (np.arange(200_000) + 0.5) / 200_000
    density = alphas**2.5 * (1 - alphas) ** 0.5
    density /= density.sum()
    expected = [density @ alphas**k for k in range(6)]
    assert_allclose(BetaMixture(0.7, 5).survival(range(6)), expected, rtol=1e-6)


def test_G4_decay_with_depth():
    acceptance = Decaying(0.8, 0.9)
    expected = [0.8, 0.576, 0.37325, 0.21768, 0.11425]
    assert_allclose(acceptance.survival(range(1, 6)), expected, atol=PRINTED)
    assert_allclose(acceptance.tokens_per_cycle(5), 3.08118, atol=PRINTED)
    assert_allclose(Decaying(0.8, 1).tokens_per_cycle([0, 5]), IID(0.8).tokens_per_cycle([0, 5]))


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


def calls_of(scenarios: int) -> int:
    """How many Python functions are called to answer for so many scenarios."""
    called = 0

    def count(frame, event, argument):
        nonlocal called
        called += event == "call"

    alpha = np.linspace(0.0, 1.0, scenarios)
    sys.setprofile(count)
    try:
        IID(alpha).tokens_per_cycle(5)
    finally:
        sys.setprofile(None)
    return called


def test_two_million_scenarios_are_one_call_of_numpy_each_step():
    calls_of(2)  # the first call may import
    assert calls_of(2_000_000) == calls_of(2)


@pytest.mark.parametrize("name", ACCEPTANCES)
@given(data=st.data())
def test_tokens_per_cycle_is_one_plus_the_survivals(name, data):
    acceptance = data.draw(ACCEPTANCES[name])
    gamma = data.draw(st.integers(0, known_gamma(acceptance)))
    survival = per_position(acceptance, gamma).vector
    assert survival.shape == (gamma,)
    assert np.all(np.diff(survival, prepend=1.0) <= 0.0)
    assert_allclose(acceptance.tokens_per_cycle(gamma), 1.0 + survival.sum(), rtol=1e-12)
    assert acceptance.tokens_per_cycle(0) == 1.0
    assert 1.0 <= acceptance.tokens_per_cycle(gamma) <= gamma + 1.0


@given(acceptances)
def test_scalar_and_array_calls_agree(acceptance):
    every = np.arange(known_gamma(acceptance) + 1)
    one_by_one = [acceptance.tokens_per_cycle(int(gamma)) for gamma in every]
    assert_allclose(acceptance.tokens_per_cycle(every), one_by_one, rtol=1e-13)
    if not isinstance(acceptance, Markov):
        one_by_one = [acceptance.survival(int(k)) for k in every]
        assert_allclose(acceptance.survival(every), one_by_one, rtol=1e-13)


@given(probabilities, probabilities, gammas)
def test_more_alpha_or_gamma_never_emits_less(one, other, gamma):
    low, high = sorted([one, other])
    assert IID(low).tokens_per_cycle(gamma) <= IID(high).tokens_per_cycle(gamma) * (1 + 1e-15)
    assert IID(low).tokens_per_cycle(gamma) <= IID(low).tokens_per_cycle(gamma + 1) * (1 + 1e-15)


@pytest.mark.parametrize(
    "acceptance",
    [
        IID(np.full((3, 1), 0.5)),
        PerPosition(np.full((3, 1, 4), 0.5)),
        Decaying(np.full((3, 1), 0.5), 0.9),
        BetaMixture(0.5, np.full((3, 1), 2.0)),
        Markov(0.5, 0.3, np.full((3, 1), 0.5), 0.5),
    ],
    ids=lambda acceptance: type(acceptance).__name__,
)
def test_shape_is_parameters_broadcast_with_the_argument(acceptance):
    assert acceptance.tokens_per_cycle([2, 4]).shape == (3, 2)
    assert acceptance.tokens_per_cycle(3).shape == (3, 1)
    assert per_position(acceptance, 4).vector.shape == (3, 1, 4)
    assert per_position(acceptance, 0).vector.shape == (3, 1, 0)
    if not isinstance(acceptance, Markov):
        assert acceptance.survival([0, 1]).shape == (3, 2)


def test_models_are_frozen_and_keep_their_own_copy():
    alpha = np.array([0.5, 0.6])
    acceptance = IID(alpha)
    alpha[0] = 0.9
    assert acceptance.alpha[0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        acceptance.alpha[0] = 0.9
    with pytest.raises(AttributeError):
        acceptance.alpha = 0.9
    assert repr(IID(0.8)) == "IID(alpha=0.8)"


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
        (lambda: per_position(IID(0.5), [1, 2]), "single whole number"),
    ],
)
def test_refusals_name_the_value_in_one_line(call, message):
    with pytest.raises(SpecsimError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
