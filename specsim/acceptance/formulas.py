"""Acceptance models that are formulas: one or two parameters give all survivals.

Parameters are read-only copies. They combine with the argument of a method by broadcasting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from specsim.checks import ArrayLike, Floats, SpecsimError, as_survival, one_count, whole, within


class Acceptance(Protocol):
    """The methods of every acceptance model; those that need gamma are `GammaDependent` too."""

    def survival(self, k: ArrayLike) -> Floats: ...

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats: ...


@runtime_checkable
class GammaDependent(Protocol):
    """An acceptance model whose survival depends on gamma.

    That is so if the end of one cycle decides where the next one starts. `survival(k)` raises
    SpecsimError; `at(gamma)` gives the survival vector.
    """

    def at(self, gamma: int) -> PerPosition: ...


@dataclass(frozen=True, slots=True, eq=False)
class IID:
    """Every draft is accepted with the same probability, independent of the others: s_k = alpha^k.

    tokens per cycle = (1 - alpha^(gamma+1)) / (1 - alpha), and gamma + 1 at alpha = 1. Source:
    Leviathan et al., arXiv:2211.17192, equation 1. Real text has easy and hard parts. At the same
    mean alpha, this model gives fewer tokens than `BetaMixture` and more than `Markov`.
    """

    alpha: ArrayLike

    def __post_init__(self) -> None:
        freeze(self, alpha=within("alpha", self.alpha))

    def survival(self, k: ArrayLike) -> Floats:
        return np.asarray(self.alpha) ** whole("k", k)

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats:
        # As 1 + alpha (1 - alpha^gamma) / (1 - alpha), gamma = 0 gives exactly 1.
        alpha, gamma = np.asarray(self.alpha), whole("gamma", gamma)
        certain = alpha == 1.0
        # expm1 keeps every digit of 1 - alpha^gamma as alpha -> 1; `tiny` stands in for log(0).
        log_alpha = np.log(np.maximum(alpha, np.finfo(np.float64).tiny))
        accepted = -np.expm1(gamma * log_alpha) * (alpha / np.where(certain, 1.0, 1.0 - alpha))
        # Some vectorised expm1 err by 4 ulp: the minimum keeps tokens within gamma + 1 even so.
        return 1.0 + np.where(certain, gamma, np.minimum(accepted, gamma))


@dataclass(frozen=True, slots=True, eq=False)
class PerPosition:
    """A known survival vector, positions 1..gamma along the LAST axis.

    Leading axes are scenarios; they broadcast with the argument of the two methods. The acceptance
    rates per position that vLLM and llama.cpp log are this vector. An argument beyond the last
    known position raises SpecsimError, because a survival is never extrapolated.
    """

    vector: ArrayLike  # (..., gamma)

    def __post_init__(self) -> None:
        freeze(self, vector=as_survival(self.vector))

    def survival(self, k: ArrayLike) -> Floats:
        return self._look_up(from_zero(self.vector), k, "k")

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats:
        return self._look_up(np.cumsum(from_zero(self.vector), axis=-1), gamma, "gamma")

    def _look_up(self, table: Floats, index: ArrayLike, name: str) -> Floats:
        index, positions = whole(name, index), table.shape[-1] - 1
        if index.max(initial=0) > positions:
            raise SpecsimError(
                f"{name} = {index.max()} asks beyond the survival vector: "
                f"{positions} positions are known"
            )
        shape = np.broadcast_shapes(table.shape[:-1], index.shape)
        index = np.broadcast_to(index, shape)[..., None]
        table = np.broadcast_to(table, (*shape, positions + 1))
        return np.take_along_axis(table, index, axis=-1)[..., 0][()]


@dataclass(frozen=True, slots=True, eq=False)
class Decaying:
    """Acceptance decays with depth: a_k = alpha * decay^(k-1), s_k = a_1 a_2 ... a_k.

    It fits drafters that draft from older features or without the drafted tokens: EAGLE, Medusa
    heads and parallel drafters. decay = 1 is `IID`.
    """

    alpha: ArrayLike
    decay: ArrayLike

    def __post_init__(self) -> None:
        freeze(self, alpha=within("alpha", self.alpha), decay=within("decay", self.decay))

    def conditional(self, k: int) -> Floats:
        return np.asarray(self.alpha) * np.asarray(self.decay) ** (k - 1)

    def survival(self, k: ArrayLike) -> Floats:
        return _running_product(self.conditional, k)

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats:
        return _sum_of_products(self.conditional, gamma)


@dataclass(frozen=True, slots=True, eq=False)
class BetaMixture:
    """Each cycle draws its own alpha from a Beta distribution.

    s_k = product over j < k of (a+j) / (a+b+j).

    `mean` = a/(a+b) in [0, 1]; `concentration` = a+b > 0: 2 is very mixed text, infinity is `IID`.
    At the same mean, tokens per cycle are above the i.i.d. value, because alpha^k is convex. Cycles
    are assumed to be independent; for hard stretches that last, use `Markov`.
    """

    mean: ArrayLike
    concentration: ArrayLike

    def __post_init__(self) -> None:
        concentration = within("concentration", self.concentration, low=1e-6, high=np.inf)
        freeze(self, mean=within("mean", self.mean), concentration=concentration)

    def conditional(self, k: int) -> Floats:
        evidence = (k - 1) / np.asarray(
            self.concentration
        )  # k-1 accepted drafts make easy text likely
        return (np.asarray(self.mean) + evidence) / (1.0 + evidence)

    def survival(self, k: ArrayLike) -> Floats:
        return _running_product(self.conditional, k)

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats:
        return _sum_of_products(self.conditional, gamma)


def per_position(acceptance: Acceptance, gamma: int) -> PerPosition:
    """Any acceptance model as its survival vector s_1..s_gamma, shape (parameters..., gamma)."""
    if isinstance(acceptance, GammaDependent):
        return acceptance.at(gamma)
    gamma = one_count("gamma", gamma)
    if np.ndim(acceptance.survival(0)) == 0:  # of one scenario: all positions together
        return PerPosition(acceptance.survival(np.arange(gamma + 1))[1:])
    upto = [acceptance.survival(k) for k in range(gamma + 1)]
    return PerPosition(np.stack(np.broadcast_arrays(*upto), axis=-1)[..., 1:])


def from_zero(survival: ArrayLike) -> Floats:
    """The survival vector with s_0 = 1 in front: (..., gamma) -> (..., gamma + 1)."""
    vector = np.asarray(survival, dtype=np.float64)
    return np.concatenate([np.ones((*vector.shape[:-1], 1)), vector], axis=-1)


def _running_product(conditional: Callable[[int], Floats], k: ArrayLike) -> Floats:
    k = whole("k", k)
    survival = np.ones(np.broadcast_shapes(k.shape, np.shape(conditional(1))))
    for position in range(1, k.max(initial=0) + 1):
        survival = np.where(position <= k, survival * conditional(position), survival)
    return survival[()]


def _sum_of_products(conditional: Callable[[int], Floats], gamma: ArrayLike) -> Floats:
    gamma = whole("gamma", gamma)
    survival = np.ones(np.shape(conditional(1)))
    tokens = np.ones(np.broadcast_shapes(gamma.shape, survival.shape))
    for position in range(1, gamma.max(initial=0) + 1):
        survival = survival * conditional(position)
        tokens = tokens + np.where(position <= gamma, survival, 0.0)
    return tokens[()]


def freeze(model: object, **parameters: Floats) -> None:
    """Set the parameters of a frozen object as read-only arrays; a single number as a float."""
    for name, value in parameters.items():
        value.flags.writeable = False
        object.__setattr__(model, name, value.item() if value.ndim == 0 else value)
