"""Converts a survival vector to all numbers that are called an acceptance rate, and back."""

from __future__ import annotations

import numpy as np

from specsim.acceptance.formulas import IID, Acceptance, PerPosition, from_zero
from specsim.checks import ArrayLike, Floats, SpecsimError, as_survival, whole, within
from specsim.checks.limits import require_limit


def as_acceptance(
    alpha: ArrayLike | None = None,
    survival: ArrayLike | None = None,
    tokens_per_cycle: ArrayLike | None = None,
    gamma: ArrayLike | None = None,
) -> Acceptance:
    """The acceptance model from exactly one of alpha, survival, tokens_per_cycle.

    `tokens_per_cycle` (bonus included) needs the whole-number `gamma` at which it was measured; the
    i.i.d. model with the same mean is used. Raises SpecsimError otherwise: no value is assumed.
    """
    given = [value is not None for value in (alpha, survival, tokens_per_cycle)]
    if sum(given) != 1:
        raise SpecsimError(
            "give exactly one of alpha, survival, tokens_per_cycle: "
            f"got {sum(given)}, and there is no built-in assumption"
        )
    if alpha is not None:
        return IID(alpha)
    if survival is not None:
        return PerPosition(survival)
    if tokens_per_cycle is None or gamma is None:
        raise SpecsimError("tokens_per_cycle needs the gamma it was measured at, a whole number")
    return IID(alpha_from_tokens_per_cycle(tokens_per_cycle, gamma))


def alpha_from_tokens_per_cycle(tokens_per_cycle: ArrayLike, gamma: ArrayLike) -> Floats:
    """The alpha at which the i.i.d. model emits `tokens_per_cycle` (bonus included) at `gamma`.

    Inverts 1 + alpha + ... + alpha^gamma by Newton's method, starting at alpha = 1. The polynomial
    is increasing and convex there, so the iteration approaches the root from above.
    Raises SpecsimError for a gamma below 1 or not whole, and for tokens outside [1, gamma + 1].
    """
    require_limit("gamma", gamma)
    gamma = whole("gamma", gamma, low=1)
    tokens = within("tokens_per_cycle", tokens_per_cycle, low=1.0, high=gamma + 1.0)
    alpha = np.ones(np.broadcast_shapes(tokens.shape, gamma.shape))
    for _ in range(200):
        value, slope = np.zeros_like(alpha), np.zeros_like(alpha)
        for power in range(gamma.max(initial=1), -1, -1):  # Horner, value and derivative
            slope = slope * alpha + value
            value = value * alpha + (power <= gamma)
        step = (value - tokens) / slope
        alpha = np.clip(alpha - step, 0.0, 1.0)
        if not np.any(np.abs(step) > 1e-10):  # convergence is quadratic: the next is below 1e-17
            break
    return alpha[()]


def accepted_per_drafted(tokens_per_cycle: ArrayLike, gamma: ArrayLike) -> Floats:
    """(tokens_per_cycle - 1) / gamma: the "acceptance rate" of vLLM, SGLang and llama.cpp logs.

    It is smaller than alpha, because the drafts after a rejection also count as drafted.
    """
    gamma = whole("gamma", gamma, low=1)
    return (within("tokens_per_cycle", tokens_per_cycle, 1.0, gamma + 1.0) - 1.0) / gamma


def tokens_per_cycle_from_accepted_per_drafted(rate: ArrayLike, gamma: ArrayLike) -> Floats:
    """1 + gamma * rate: tokens per cycle, bonus included, from an engine's accepted / drafted."""
    return 1.0 + whole("gamma", gamma) * within("accepted_per_drafted", rate)


def pooled_alpha(survival: ArrayLike) -> Floats:
    """Accepted / (accepted + rejections) = E[A] / (E[A] + 1 - s_gamma), over the last axis.

    Optimistic if alpha differs between cycles: easy cycles accept more tokens and count more often.
    `alpha_from_tokens_per_cycle` does not have this error.
    """
    vector = as_survival(survival)
    if vector.shape[-1] == 0:
        raise SpecsimError("pooled_alpha needs at least one position, got an empty survival")
    accepted = vector.sum(axis=-1)
    return accepted / (accepted + 1.0 - vector[..., -1])


def pmf(survival: ArrayLike) -> Floats:
    """P(A = 0), ..., P(A = gamma) of the accepted count A, shape (..., gamma + 1).

    Entry i is also the probability that the cycle emits i + 1 tokens.
    """
    full = from_zero(as_survival(survival))
    further = np.concatenate([full[..., 1:], np.zeros_like(full[..., :1])], axis=-1)
    return full - further


def variance(survival: ArrayLike) -> Floats:
    """The variance of tokens per cycle: sum of (2k - 1) s_k, minus the square of the sum of s_k.

    It is computed around the mean, which gives the same number and is never negative.
    """
    chances = pmf(survival)
    accepted = np.arange(chances.shape[-1])
    mean = (chances * accepted).sum(axis=-1, keepdims=True)
    return (chances * (accepted - mean) ** 2).sum(axis=-1)
