"""The acceptance at one position: the overlap of the two distributions that are sampled."""

from __future__ import annotations

import numpy as np

from specsim.checks import ArrayLike, Floats, SpecsimError, distribution, within


def overlap(target_probs: ArrayLike, draft_probs: ArrayLike) -> Floats:
    """beta, the sum of min(p, q): the probability that a token drawn from q is accepted.

    The last axis of both arguments is the vocabulary. beta = 1 - total variation distance. No
    lossless rule that draws x from q accepts more (Leviathan et al., Corollary 3.6).
    """
    target = distribution("target_probs", target_probs)
    shared = np.minimum(target, distribution("draft_probs", draft_probs)).sum(axis=-1)
    return np.minimum(shared, 1.0)


def residual(target_probs: ArrayLike, draft_probs: ArrayLike) -> Floats:
    """The distribution of the token after a rejection: max(p - q, 0), normalised; p if p equals q.

    Accepted tokens have the probabilities min(p, q), and their sum is beta. These, plus 1 - beta
    times this distribution, are exactly p. Source: Leviathan et al. (arXiv:2211.17192), section
    2.3; Chen et al. (arXiv:2302.01318), theorem 1.
    """
    target = distribution("target_probs", target_probs)
    missing = np.maximum(target - distribution("draft_probs", draft_probs), 0.0)
    mass = missing.sum(axis=-1, keepdims=True)
    return np.where(mass > 0.0, missing / np.where(mass > 0.0, mass, 1.0), target)


def token_probs(logits: ArrayLike, temperature: ArrayLike = 1.0, top_p: float = 1.0) -> Floats:
    """The distribution that a sampler draws from: softmax(logits / temperature), then top-p.

    `logits` (..., vocabulary); `temperature` (...) broadcasts with the leading axes, and 0 is the
    argmax (the lowest index of equals). `top_p` keeps the smallest number of most likely tokens
    whose probabilities sum to at least `top_p`.
    """
    scores = np.asarray(logits, dtype=np.float64)
    peak = scores.max(axis=-1, keepdims=True)
    if not np.all(np.isfinite(peak)):
        raise SpecsimError("logits must have no NaN and a finite maximum along the last axis")
    heat = within("temperature", temperature, high=1e12)[..., None]
    with np.errstate(over="ignore"):  # a vanishing temperature sends every other logit to -inf
        probs = np.exp((scores - peak) / np.where(heat > 0.0, heat, 1.0))
    greedy = np.arange(scores.shape[-1]) == scores.argmax(axis=-1)[..., None]
    probs = np.where(heat > 0.0, probs / probs.sum(axis=-1, keepdims=True), greedy)
    likeliest = np.argsort(-probs, axis=-1, kind="stable")
    ordered = np.take_along_axis(probs, likeliest, axis=-1)
    mass_before = np.cumsum(ordered, axis=-1) - ordered
    kept = np.where(mass_before < within("top_p", top_p, low=1e-9), ordered, 0.0)
    filtered = np.zeros_like(probs)
    np.put_along_axis(filtered, likeliest, kept, axis=-1)
    return filtered / filtered.sum(axis=-1, keepdims=True)


def greedy_overlap(target_probs: ArrayLike, draft_probs: ArrayLike) -> Floats:
    """The acceptance of a greedy draft, which is always the argmax of q: p(argmax of q).

    At a rising temperature it falls towards 1 / vocabulary. That of a sampled draft rises towards
    1.
    """
    target = distribution("target_probs", target_probs)
    drafted = distribution("draft_probs", draft_probs).argmax(axis=-1)[..., None]
    is_drafted = np.arange(target.shape[-1]) == drafted
    return np.where(is_drafted, target, 0.0).sum(axis=-1)
