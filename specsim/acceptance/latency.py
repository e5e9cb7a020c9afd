"""How long a request takes: the distribution of its number of cycles, not only the mean.

A cycle emits between 1 and gamma + 1 tokens at once. So a request of L tokens ends after a random
number of cycles N, and takes N times the cycle time. Speculation reduces the time per output token,
but makes the gaps between tokens uneven: most gaps are zero, and the others are a whole cycle,
which is longer than a plain step. Always say which of the two a latency is.

`survival` is a vector s_1..s_gamma as in `specsim.acceptance`. Cycles are assumed to be
independent. The acceptance usually differs between requests, and that spread is the larger one.
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
from specsim.checks.limits import require_limit


@dataclass(frozen=True, slots=True, eq=False)
class Cycles:
    """The exact distribution of a number of cycles: `probability[n]` = P(N = n), n = 0, 1, ..."""

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
        # Subtract 1e-12, so that rounding in the sum does not give the next n.
        return np.searchsorted(np.cumsum(self.probability), share - 1e-12)

    def slowest_of(self, sequences: int) -> Cycles:
        """The distribution of the largest N of independent sequences: the end of a whole batch."""
        done = np.minimum(np.cumsum(self.probability), 1.0) ** whole("sequences", sequences, low=1)
        return Cycles(np.diff(done, prepend=0.0))


@dataclass(frozen=True, slots=True, eq=False)
class CycleEstimate:
    """The mean and the standard deviation of a number of cycles, from renewal theory.

    With mu = tokens per cycle and Var its variance: `first_order` = L / mu, and `sd` =
    sqrt(L Var / mu^3). `overshoot` = (Var + mu^2 - mu) / (2 mu^2) corrects `first_order`: the last
    cycle usually emits more tokens than were missing.
    """

    first_order: Floats
    overshoot: Floats
    sd: Floats

    @property
    def mean(self) -> Floats:
        return self.first_order + self.overshoot


def cycles_to_emit(tokens: int, survival: ArrayLike) -> Cycles:
    """The exact distribution of the number of cycles until at least `tokens` tokens are emitted.

    Dynamic programming over the number of tokens emitted so far. Each cycle adds 1..gamma+1 tokens
    with the probabilities `pmf(survival)`; a request with `tokens` tokens has ended. `survival` is
    (gamma,). The work grows as tokens^2 * gamma: milliseconds at 1000 tokens.
    """
    vector = as_survival(survival)
    if vector.ndim != 1:
        raise SpecsimError(f"survival must be one vector (gamma,), got shape {vector.shape}")
    emitted = np.concatenate([[0.0], pmf(vector)])  # (gamma + 2,): P(0), P(1), ... tokens a cycle
    likely = np.flatnonzero(emitted > 1e-25)  # what lies beyond is below all rounding
    emitted = emitted[: likely[-1] + 1]
    require_limit("exact_tokens", tokens, "the tokens of an exact distribution")
    length = one_count("tokens", tokens)
    unfinished = np.eye(1, length)[0]  # [m] = P(m tokens so far, and more to come), m < length
    probability = [1.0 - unfinished.sum()]  # P(N = 0): 1 if `tokens` is 0, else 0
    while unfinished.sum() > 1e-16:
        after = np.convolve(unfinished, emitted)
        probability.append(after[length:].sum())
        unfinished = after[:length]
    return Cycles(np.array(probability))


def cycles_estimate(tokens: ArrayLike, survival: ArrayLike) -> CycleEstimate:
    """The approximate mean and standard deviation of the number of cycles for `tokens` tokens.

    `tokens` broadcasts with the leading axes of `survival` (..., gamma). At alpha 0.8, gamma 5 and
    64 tokens, the mean with its overshoot is exact to five digits, and the sd is 1.5 % too small.
    """
    mean = 1.0 + as_survival(survival).sum(axis=-1)
    spread = variance(survival)
    length = whole("tokens", tokens)
    overshoot = (spread + mean**2 - mean) / (2.0 * mean**2)
    return CycleEstimate(length / mean, overshoot, np.sqrt(length * spread / mean**3))


# What a user sees


def time_per_token_s(cycle_s: ArrayLike, tokens_per_cycle: ArrayLike) -> Floats:
    """TPOT, seconds: cycle time / tokens per cycle (bonus included), over a long request."""
    return _cycle(cycle_s) / _tokens(tokens_per_cycle)


def time_per_token_percentile_s(
    more_tokens: int, survival: ArrayLike, cycle_s: ArrayLike, percent: ArrayLike
) -> Floats:
    """A percentile over requests of TPOT, in seconds: cycles x cycle time / tokens of a request.

    `more_tokens` are the tokens after the first one, whose time is the TTFT. All requests have the
    same survival here. If it differs between requests, the spread is larger.
    """
    cycles = cycles_to_emit(one_count("more_tokens", more_tokens, low=1), survival)
    return cycles.percentile(percent) * _cycle(cycle_s) / more_tokens


def zero_gap_share(tokens_per_cycle: ArrayLike) -> Floats:
    """The share of gaps between tokens that are zero: (tokens per cycle - 1) / tokens per cycle."""
    tokens = _tokens(tokens_per_cycle)
    return (tokens - 1.0) / tokens


def gap_percentile_s(cycle_s: ArrayLike, tokens_per_cycle: ArrayLike, percent: ArrayLike) -> Floats:
    """A percentile of the gap between tokens (ITL), in seconds: zero inside a cycle, else a cycle.

    An engine that measures the gap between *outputs* reports the cycle time at every percentile.
    """
    share = within("percent", percent, high=100.0) / 100.0
    inside_burst = share <= zero_gap_share(tokens_per_cycle)
    return np.where(inside_burst, 0.0, _cycle(cycle_s))[()]


def end_to_end_s(
    ttft_s: ArrayLike, more_tokens: ArrayLike, cycle_s: ArrayLike, tokens_per_cycle: ArrayLike
) -> Floats:
    """The approximate time of a request: TTFT + more_tokens / tokens per cycle x cycle time.

    It is optimistic by about half a cycle (`CycleEstimate.overshoot`): the last cycle always takes
    its full time.
    """
    cycles = whole("more_tokens", more_tokens) / _tokens(tokens_per_cycle)
    return within("ttft_s", ttft_s, high=1e12) + cycles * _cycle(cycle_s)


# Requests that differ, and batches


def arithmetic_mean(tokens_per_cycle: ArrayLike, weights: ArrayLike = 1.0) -> Floats:
    """The mean of tokens per cycle over the last axis, if all have equal (or `weights`) cycles."""
    return _weighted_mean(_tokens(tokens_per_cycle), weights)


def harmonic_mean(tokens_per_cycle: ArrayLike, weights: ArrayLike = 1.0) -> Floats:
    """All tokens / all cycles of requests with different tokens per cycle, over the last axis.

    `weights` are the tokens of each request (equal by default). Hard requests take more cycles, so
    this mean is below `arithmetic_mean`. Throughput and mean latency depend on this mean.
    """
    return 1.0 / _weighted_mean(1.0 / _tokens(tokens_per_cycle), weights)


def lockstep_tokens_per_cycle(survival: ArrayLike, batch: ArrayLike) -> Floats:
    """Tokens per sequence and cycle if all sequences advance by the minimum of the batch.

    1 + sum of s_k^B: all B sequences must accept, and they accept independently. `batch` broadcasts
    with the leading axes of `survival`. At B = 16 nearly all gain is lost. A cache that keeps one
    length for each sequence (paged or indexed) loses nothing.
    """
    powers = as_survival(survival) ** whole("batch", batch, low=1)[..., None]
    return 1.0 + powers.sum(axis=-1)


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
