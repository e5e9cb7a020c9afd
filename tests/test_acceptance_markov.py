"""The Markov model: where cycles start, against simulation and its limits."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from specsim.acceptance import IID, Markov
from specsim.checks import SpecsimError

PRINTED = 6e-6  # the vectors are printed with five decimals
EASY_AND_HARD = Markov(easy=0.95, hard=0.4, stay_easy=0.9, stay_hard=0.8)


def test_G5_markov_starts_cycles_in_the_embedded_distribution():
    acceptance = EASY_AND_HARD
    expected = [0.64321, 0.48977, 0.40439, 0.34488, 0.29766]
    assert_allclose(acceptance.at(5).vector, expected, atol=PRINTED)
    assert_allclose(acceptance.tokens_per_cycle(5), 3.17992, atol=PRINTED)
    assert_allclose(acceptance.starts_hard(5), 0.55780, atol=PRINTED)
    # two common mistakes: to start in the distribution over tokens, or to use i.i.d. at its mean
    over_tokens = np.array([2 / 3, 1 / 3])
    assert_allclose(1 + acceptance._walk(over_tokens, 5)[0].sum(), 3.81718, atol=PRINTED)
    assert_allclose(IID(over_tokens @ [0.95, 0.4]).tokens_per_cycle(5), 3.41543, atol=PRINTED)


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
    with pytest.raises(SpecsimError, match="the state never changes"):
        Markov(0.9, 0.1, 1.0, 1.0).at(3)
    with pytest.raises(SpecsimError, match=r"at\(gamma\)"):
        EASY_AND_HARD.survival(3)
