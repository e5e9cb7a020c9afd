"""Easy and hard stretches of text, and where in them a cycle starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specsim.acceptance.formulas import PerPosition, freeze
from specsim.checks import ArrayLike, Floats, SpecsimError, one_count, whole, within


@dataclass(frozen=True, slots=True, eq=False)
class Markov:
    """Text alternates between easy and hard stretches; the state may move after every token.

    `easy`, `hard`: acceptance in the two states; `stay_easy`, `stay_hard`: probability that the
    state stays for the next token. All in [0, 1], broadcasting together.

    The law of the state when a cycle STARTS is not the law over tokens: cycles end at rejections,
    so starts are biased towards the hard state. The start law solves pi = pi K, with K the
    state-to-state move over one whole cycle, and depends on gamma; hence so does the survival, and
    `survival(k)` alone is refused. Ask `at(gamma)`. The token law instead would flatter.
    """

    easy: ArrayLike
    hard: ArrayLike
    stay_easy: ArrayLike
    stay_hard: ArrayLike

    def __post_init__(self) -> None:
        names = ("easy", "hard", "stay_easy", "stay_hard")
        freeze(self, **{name: within(name, getattr(self, name)) for name in names})

    def survival(self, k: ArrayLike) -> Floats:
        raise SpecsimError("a Markov survival depends on gamma: ask Markov(...).at(gamma)")

    def at(self, gamma: int) -> PerPosition:
        """The survival vector of a decoder that drafts `gamma` tokens, shape (..., gamma)."""
        hard_start = self.starts_hard(gamma)
        state = np.stack([1.0 - hard_start, hard_start], axis=-1)
        survival = self._walk(state, gamma)[0]
        return PerPosition(np.minimum.accumulate(np.minimum(survival, 1.0), axis=-1))

    def starts_hard(self, gamma: int) -> Floats:
        """P(a cycle starts in the hard state), solved for this gamma.

        Raises SpecsimError where the two states never mix, so that no start law is implied.
        """
        to_hard = self._walk(np.array([1.0, 0.0]), gamma)[1][..., 1]
        to_easy = self._walk(np.array([0.0, 1.0]), gamma)[1][..., 0]
        if np.any(to_hard + to_easy == 0.0):
            raise SpecsimError(
                f"easy and hard never mix at gamma = {gamma}: lower stay_easy or stay_hard below 1"
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
        """From the state law at cycle start: survival (..., gamma), state law at the next start."""
        easy, hard, stay_easy, stay_hard = np.broadcast_arrays(*self._parameters())
        accept = np.stack([easy, hard], axis=-1)  # (..., state)
        move = np.stack([stay_easy, 1 - stay_easy, 1 - stay_hard, stay_hard], axis=-1)
        move = move.reshape(*easy.shape, 2, 2)  # (..., from, to)
        alive = np.broadcast_to(state, accept.shape)  # joint: still accepting, and the state
        gamma, rejected = one_count("gamma", gamma), np.zeros(accept.shape)
        survival = np.empty((*easy.shape, gamma))
        for position in range(gamma):
            rejected = rejected + alive * (1.0 - accept)
            alive = alive * accept
            survival[..., position] = alive.sum(axis=-1)
            alive = (alive[..., None, :] @ move)[..., 0, :]
        # The correction (after a rejection) or the bonus (after gamma accepts) moves the state too.
        return survival, ((rejected + alive)[..., None, :] @ move)[..., 0, :]
