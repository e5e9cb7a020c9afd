"""How long a request takes: the law of the number of cycles, not only its mean.

A cycle emits between 1 and gamma + 1 tokens at once. A request of L tokens therefore ends after a
random number of cycles N; its time is N times the cycle time. Speculation improves the time per
output token and at the same time makes the gaps between tokens uneven: most are zero, the rest a
whole cycle, longer than a plain step. Say which of the two a latency number is.

`survival` is a vector s_1..s_gamma as in `specsim.acceptance`; cycles are taken as independent
draws from it. Between requests the spread of acceptance usually dominates this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specsim.acceptance import pmf, variance
from specsim.checks import (
    ArrayLike,
    Floats,
    Integers,
    SpecsimError,
    as_survival,
    one_count,
    whole,
    within,
)


@dataclass(frozen=True, slots=True, eq=False)
class Cycles:
    """The exact law of a number of cycles: `probability[n]` = P(N = n), n = 0, 1, 2, ..."""

    probability: Floats  # (n,)

    @property
    def mean(self) -> float:
        return float(self.probability @ np.arange(len(self.probability)))

    @property
    def sd(self) -> float:
        deviation = np.arange(len(self.probability)) - self.mean
        return float(np.sqrt(self.probability @ deviation**2))

    def percentile(self, percent: ArrayLike) -> Integers:
        """The smallest n with P(N <= n) >= percent / 100, for percent in [0, 100]."""
        share = within("percent", percent, high=100.0) / 100.0
        # 1e-12 below, so that rounding inside the sum cannot move a step.
        return np.searchsorted(np.cumsum(self.probability), share - 1e-12)

    def slowest_of(self, sequences: int) -> Cycles:
        """The law of the largest N among independent sequences: when a batch is all done."""
        done = np.minimum(np.cumsum(self.probability), 1.0) ** whole("sequences", sequences, low=1)
        return Cycles(np.diff(done, prepend=0.0))


@dataclass(frozen=True, slots=True, eq=False)
class CycleEstimate:
    """The first two moments of a number of cycles, without the exact law (renewal theory).

    With mu = tokens per cycle and Var its variance: `first_order` = L / mu. `overshoot` =
    (Var + mu^2 - mu) / (2 mu^2) is what L / mu leaves out: the last cycle usually emits more than
    was missing. `sd` = sqrt(L Var / mu^3).
    """

    first_order: Floats
    overshoot: Floats
    sd: Floats

    @property
    def mean(self) -> Floats:
        return self.first_order + self.overshoot


def cycles_to_emit(tokens: int, survival: ArrayLike) -> Cycles:
    """The exact law of the number of cycles until at least `tokens` tokens are emitted.

    Dynamic programming: the law of the tokens emitted so far, moved on by 1..gamma+1 tokens with
    the probabilities `pmf(survival)`; whatever reaches `tokens` has ended. `survival` is (gamma,).
    Work grows as tokens^2 * gamma: milliseconds at 1000 tokens.
    """
    vector = as_survival(survival)
    if vector.ndim != 1:
        raise SpecsimError(f"survival must be one vector (gamma,), got shape {vector.shape}")
    emitted = np.concatenate([[0.0], pmf(vector)])  # (gamma + 2,): P(0), P(1), ... tokens a cycle
    length = one_count("tokens", tokens)
    unfinished = np.eye(1, length)[0]  # [m] = P(m tokens so far, and more to come), m < length
    probability = [1.0 - unfinished.sum()]  # certain only where nothing was asked for
    while unfinished.sum() > 1e-16:
        after = np.convolve(unfinished, emitted)
        probability.append(after[length:].sum())
        unfinished = after[:length]
    return Cycles(np.array(probability))


def cycles_estimate(tokens: ArrayLike, survival: ArrayLike) -> CycleEstimate:
    """Mean and spread of the number of cycles for `tokens` tokens, to first order and beyond.

    `tokens` broadcasts with the leading axes of `survival` (..., gamma). At alpha 0.8, gamma 5 and
    64 tokens the mean with its overshoot is exact to five digits and the sd 1.5 % low.
    """
    mean = 1.0 + as_survival(survival).sum(axis=-1)
    spread = variance(survival)
    length = whole("tokens", tokens)
    overshoot = (spread + mean**2 - mean) / (2.0 * mean**2)
    return CycleEstimate(length / mean, overshoot, np.sqrt(length * spread / mean**3))


# --------------------------------------------------------------------------- what a user notices


def time_per_token_s(cycle_s: ArrayLike, tokens_per_cycle: ArrayLike) -> Floats:
    """TPOT, seconds: cycle time / tokens per cycle (bonus included), over a long request."""
    return _cycle(cycle_s) / _tokens(tokens_per_cycle)


def time_per_token_percentile_s(
    more_tokens: int, survival: ArrayLike, cycle_s: ArrayLike, percent: ArrayLike
) -> Floats:
    """Percentile over requests of the TPOT of a request: its cycles * cycle time / its tokens.

    `more_tokens` is what follows the first token, which belongs to TTFT. Acceptance is the same
    law for every request here; where it differs between requests the spread is larger.
    """
    cycles = cycles_to_emit(one_count("more_tokens", more_tokens, low=1), survival)
    return cycles.percentile(percent) * _cycle(cycle_s) / more_tokens


def zero_gap_share(tokens_per_cycle: ArrayLike) -> Floats:
    """Share of inter-token gaps that are zero: (tokens per cycle - 1) / tokens per cycle."""
    tokens = _tokens(tokens_per_cycle)
    return (tokens - 1.0) / tokens


def gap_percentile_s(cycle_s: ArrayLike, tokens_per_cycle: ArrayLike, percent: ArrayLike) -> Floats:
    """Percentile of the inter-token gap (ITL), seconds: zero inside a burst, else a whole cycle.

    An engine that reports the gap between *outputs* reports the cycle time at every percentile.
    """
    share = within("percent", percent, high=100.0) / 100.0
    inside_burst = share <= zero_gap_share(tokens_per_cycle)
    return np.where(inside_burst, 0.0, _cycle(cycle_s))[()]


def end_to_end_s(
    ttft_s: ArrayLike, more_tokens: ArrayLike, cycle_s: ArrayLike, tokens_per_cycle: ArrayLike
) -> Floats:
    """Time of a request to first order: TTFT + more_tokens / tokens per cycle * cycle time.

    About half a cycle short (`CycleEstimate.overshoot`): the last cycle is paid in full.
    """
    cycles = whole("more_tokens", more_tokens) / _tokens(tokens_per_cycle)
    return within("ttft_s", ttft_s, high=1e12) + cycles * _cycle(cycle_s)


# ------------------------------------------------------------- requests that differ, and batches


def arithmetic_mean(tokens_per_cycle: ArrayLike, weights: ArrayLike = 1.0) -> Floats:
    """Mean of tokens per cycle with equal (or `weights`) cycles each; over the last axis."""
    return _weighted_mean(_tokens(tokens_per_cycle), weights)


def harmonic_mean(tokens_per_cycle: ArrayLike, weights: ArrayLike = 1.0) -> Floats:
    """All tokens over all cycles, for requests that differ; over the last axis.

    `weights` are the tokens of each request (equal by default). Hard requests take more cycles, so
    this is below `arithmetic_mean`, and it is what throughput and mean latency follow.
    """
    return 1.0 / _weighted_mean(1.0 / _tokens(tokens_per_cycle), weights)


def lockstep_tokens_per_cycle(survival: ArrayLike, batch: ArrayLike) -> Floats:
    """Tokens per sequence and cycle if every sequence advances by the batch minimum.

    1 + sum of s_k^B: all B must accept. `batch` broadcasts with the leading axes of `survival`.
    Sequences accept independently. Nearly all gain is lost by B = 16; with per-sequence lengths
    (paged or indexed caches) none is.
    """
    powers = as_survival(survival) ** whole("batch", batch, low=1)[..., None]
    return 1.0 + powers.sum(axis=-1)


def padded_tokens_per_cycle(survival: ArrayLike, batch: ArrayLike) -> Floats:
    """Positions per cycle that a batch padded to its longest acceptance occupies.

    1 + sum of 1 - (1 - s_k)^B: at least one of B accepts. The cache grows by this much, while each
    sequence still emits 1 + sum of s_k tokens; the difference is padding.
    """
    none_accept = (1.0 - as_survival(survival)) ** whole("batch", batch, low=1)[..., None]
    return 1.0 + (1.0 - none_accept).sum(axis=-1)


def _weighted_mean(values: Floats, weights: ArrayLike) -> Floats:
    weights = np.broadcast_to(within("weights", weights, high=1e300), values.shape)
    total = weights.sum(axis=-1)
    if not np.all(total > 0.0):
        raise SpecsimError("weights must not all be zero along the last axis")
    return (weights * values).sum(axis=-1) / total


def _tokens(tokens_per_cycle: ArrayLike) -> Floats:
    return within("tokens_per_cycle", tokens_per_cycle, low=1.0, high=np.inf)


def _cycle(cycle_s: ArrayLike) -> Floats:
    return within("cycle_s", cycle_s, high=1e12)
