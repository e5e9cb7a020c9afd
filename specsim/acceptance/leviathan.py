"""Speculative decoding on one screen: the i.i.d. formulas of Leviathan et al. (arXiv:2211.17192).

Three numbers: alpha, the probability that a draft is accepted; gamma, the tokens drafted per cycle;
c, the time of one draft step divided by the time of one plain decode step of the target.

    speedup = tokens per cycle / cost of a cycle = (1 + alpha + ... + alpha^gamma) / (1 + gamma c)

The formula assumes that a verification takes exactly one plain step, and that everything else takes
no time. Both assumptions are optimistic. Compared with the paper's own measurements (its Table 4)
the error is 18 % on average and 47 % at most. Use it to learn; `specsim.predict` prices each term.
"""

from __future__ import annotations

import numpy as np

from specsim.acceptance import IID
from specsim.checks import ArrayLike, Floats, Integers, within


def leviathan_speedup(
    alpha: ArrayLike, gamma: ArrayLike, draft_cost: ArrayLike, catch_up_pass: bool = False
) -> Floats:
    """Tokens per cycle over (1 + gamma c): the speedup over plain decoding. Theorem 3.8.

    `draft_cost` is c >= 0. After a cycle whose drafts were all accepted, the draft model's cache
    lacks its own last token. `catch_up_pass` adds a draft step for it, alpha^gamma c per cycle; the
    formula does not count it. All arguments broadcast.
    """
    acceptance, cost = IID(alpha), _cost("draft_cost", draft_cost)
    steps = np.asarray(gamma) + (acceptance.survival(gamma) if catch_up_pass else 0.0)
    return acceptance.tokens_per_cycle(gamma) / (1.0 + steps * cost)


def flop_multiplier(alpha: ArrayLike, gamma: ArrayLike, draft_flops: ArrayLike = 0.0) -> Floats:
    """FLOPs per emitted token divided by those of plain decoding, at least 1. Theorem 3.11.

    (gamma c_hat + gamma + 1) / tokens per cycle; `draft_flops` is c_hat, the draft model's FLOPs
    per token divided by the target's. Speculation saves passes over the weights, not arithmetic.
    """
    work = np.asarray(gamma) * (_cost("draft_flops", draft_flops) + 1.0) + 1.0
    return work / IID(alpha).tokens_per_cycle(gamma)


def best_gamma_closed_form(
    alpha: ArrayLike, draft_cost: ArrayLike, verify_slope: ArrayLike = 0.0
) -> Floats:
    """The real-valued gamma with the largest speedup; 0 if alpha <= c, when no gamma helps.

    With L = -ln(alpha): y = -W_-1(-exp(-1 - L (1/c - 1))), gamma = ln(y) / L - 1, which is
    (y - 1) / L - 1/c without the loss of digits. If every drafted token also makes the verification
    longer by `verify_slope` plain steps, c = draft_cost + verify_slope. The result is infinite if
    drafts are free (c = 0) or never rejected (alpha = 1 > c).
    """
    cost = _cost("draft_cost", draft_cost) + _cost("verify_slope", verify_slope)
    alpha, cost = np.broadcast_arrays(np.asarray(IID(alpha).alpha), cost)
    helps = alpha > cost
    endless = helps & ((cost < 1e-300) | (alpha == 1.0))
    finite = helps & ~endless
    loss, cost = -np.log(np.where(finite, alpha, 0.5)), np.where(finite, cost, 0.25)
    gamma = np.log1p(_lambert_excess(loss * (1.0 / cost - 1.0))) / loss - 1.0
    return np.where(endless, np.inf, np.where(finite, np.maximum(gamma, 0.0), 0.0))[()]


def best_gamma(
    alpha: ArrayLike,
    draft_cost: ArrayLike,
    verify_slope: ArrayLike = 0.0,
    max_gamma: int = 64,
) -> Integers:
    """The whole gamma in 0..max_gamma with the largest speedup, the smaller one of two equals.

    The speedup rises up to the real-valued optimum and falls after it, so the best whole gamma is
    one of its two neighbours. The maximum is flat; often several gammas are within 2 % of it.
    """
    real = np.minimum(best_gamma_closed_form(alpha, draft_cost, verify_slope), max_gamma)
    below, above = np.floor(real).astype(np.int64), np.ceil(real).astype(np.int64)
    cost = _cost("draft_cost", draft_cost) + _cost("verify_slope", verify_slope)
    rises = leviathan_speedup(alpha, above, cost) > leviathan_speedup(alpha, below, cost)
    return np.where(rises, above, below)[()]


def _lambert_excess(excess: Floats) -> Floats:
    """w = y - 1 with y = -W_-1(-exp(-1 - excess)), that is w - ln(1 + w) = excess, w > 0.

    Newton's method from the upper bound excess + sqrt(2 excess) (Chatzigeorgiou, IEEE
    Communications Letters 17(8), 2013). The function is convex, so the iteration approaches the
    root from above and cannot underflow.
    """
    w = excess + np.sqrt(2.0 * excess)
    for _ in range(100):
        step = (w - np.log1p(w) - excess) * (1.0 + w) / w
        w = w - step
        if np.all(np.abs(step) <= 1e-15 * w):
            break
    return w


def _cost(name: str, value: ArrayLike) -> Floats:
    return within(name, value, high=1e12)
