"""Text with easy and hard stretches, and the state in which a cycle starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specsim.acceptance.formulas import PerPosition, freeze
from specsim.checks import ArrayLike, Floats, SpecsimError, one_count, whole, within


@dataclass(frozen=True, slots=True, eq=False)
class Markov:
    """Text alternates between easy and hard stretches; the state can change after every token.

    `easy`, `hard`: the acceptance in the two states; `stay_easy`, `stay_hard`: the probability that
    the state stays the same for the next token. All are in [0, 1] and broadcast together.

    The state at the START of a cycle does not have the distribution of the state over all tokens.
    Cycles end at rejections, so they start more often in the hard state. The start distribution
    solves pi = pi K, where K holds the transition probabilities over one whole cycle. It depends on
    gamma, and so does the survival: `survival(k)` raises SpecsimError, `at(gamma)` gives the
    vector. To use the distribution over tokens instead would be optimistic.
    """

    easy: ArrayLike
    hard: ArrayLike
    stay_easy: ArrayLike
    stay_hard: ArrayLike

    def __post_init__(self) -> None:
        names = ("easy", "hard", "stay_easy", "stay_hard")
        freeze(self, **{name: within(name, getattr(self, name)) for name in names})

    def survival(self, k: ArrayLike) -> Floats:
        raise SpecsimError("a Markov survival depends on gamma: call Markov(...).at(gamma)")

    def at(self, gamma: int) -> PerPosition:
        """The survival vector of a decoder that drafts `gamma` tokens, shape (..., gamma)."""
        hard_start = self.starts_hard(gamma)
        state = np.stack([1.0 - hard_start, hard_start], axis=-1)
        survival = self._walk(state, gamma)[0]
        return PerPosition(np.minimum.accumulate(np.minimum(survival, 1.0), axis=-1))

    def starts_hard(self, gamma: int) -> Floats:
        """P(a cycle starts in the hard state), for this gamma.

        Raises SpecsimError if the two states never change: the start distribution is then not
        determined.
        """
        to_hard = self._walk(np.array([1.0, 0.0]), gamma)[1][..., 1]
        to_easy = self._walk(np.array([0.0, 1.0]), gamma)[1][..., 0]
        if np.any(to_hard + to_easy == 0.0):
            raise SpecsimError(
                f"the state never changes at gamma = {gamma}: set stay_easy or stay_hard below 1"
            )
        return to_hard / (to_hard + to_easy)

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats:
        gamma = whole("gamma", gamma)
        shape = np.broadcast_shapes(gamma.shape, *(np.shape(p) for p in self._parameters()))
        tokens = np.ones(shape)
        for each in np.unique(gamma):
            tokens = np.where(gamma == each, self.at(int(each)).tokens_per_cycle(each), tokens)
        return tokens[()]

    def _parameters(self) -> tuple[ArrayLike, ...]:
        return self.easy, self.hard, self.stay_easy, self.stay_hard

    def _walk(self, state: Floats, gamma: int) -> tuple[Floats, Floats]:
        """From the state's distribution at a start: survival, and the distribution at the next."""
        easy, hard, stay_easy, stay_hard = np.broadcast_arrays(*self._parameters())
        accept = np.stack([easy, hard], axis=-1)  # (..., state)
        move = np.stack([stay_easy, 1 - stay_easy, 1 - stay_hard, stay_hard], axis=-1)
        move = move.reshape(*easy.shape, 2, 2)  # (..., from, to)
        alive = np.broadcast_to(state, accept.shape)  # P(all accepted so far, and the state)
        gamma, rejected = one_count("gamma", gamma), np.zeros(accept.shape)
        survival = np.empty((*easy.shape, gamma))
        for position in range(gamma):
            rejected = rejected + alive * (1.0 - accept)
            alive = alive * accept
            survival[..., position] = alive.sum(axis=-1)
            alive = (alive[..., None, :] @ move)[..., 0, :]
        # The state also changes after the correction (a rejection) or the bonus (gamma accepted).
        return survival, ((rejected + alive)[..., None, :] @ move)[..., 0, :]
