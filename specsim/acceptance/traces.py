"""Survival measured on traces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specsim.acceptance.bounds import Floats, Integers, rounded, whole
from specsim.acceptance.laws import PerPosition
from specsim.catalog import SpecsimError


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A survival measured position by position, each with its error; all fields (gamma,).

    Errors treat cycles as independent. Neighbouring cycles of one text are not, so the errors are
    on the small side.
    """

    survival: Floats
    standard_error: Floats
    low: Floats  # 95 % interval unless `z` said otherwise
    high: Floats
    cycles: Integers  # how many cycles the position was measured on

    @property
    def law(self) -> PerPosition:
        return PerPosition(self.survival)


def empirical(accepted: ArrayLike, drafted: ArrayLike) -> PerPosition:
    """The survival vector of a trace of cycles; `from_counts` gives it with its errors."""
    return from_counts(accepted, drafted).law


def from_counts(accepted: ArrayLike, drafted: ArrayLike, z: float = 1.96) -> Estimate:
    """Survival from counts: s_k = cycles with accepted >= k, over cycles with drafted >= k.

    `accepted`, `drafted`: whole numbers (cycles,), or one `drafted` for all. A cycle that drafted
    fewer than k says nothing about s_k; leave out a last cycle that was cut by a length limit.
    Intervals are Wilson's at `z` standard deviations. Where a drafter drafts further on easier
    text, the ratio may rise with k; it is held at its lowest value so far.
    """
    accepted, drafted = np.broadcast_arrays(whole("accepted", accepted), whole("drafted", drafted))
    if accepted.ndim != 1 or drafted.max(initial=0) == 0:
        raise SpecsimError(f"no drafted tokens in a trace of shape {accepted.shape}")
    if np.any(accepted > drafted):
        cycle = int(np.argmax(accepted > drafted))
        raise SpecsimError(
            f"accepted must not exceed drafted, got {accepted[cycle]} of {drafted[cycle]} "
            f"in cycle {cycle}"
        )
    positions = np.arange(1, drafted.max() + 1)[:, None]
    cycles = (drafted >= positions).sum(axis=1)
    survival = np.minimum.accumulate((accepted >= positions).sum(axis=1) / cycles)
    spread = survival * (1.0 - survival) / cycles
    shrink = 1.0 + z * z / cycles
    centre = (survival + z * z / (2.0 * cycles)) / shrink
    half = z * np.sqrt(spread + (z / (2.0 * cycles)) ** 2) / shrink
    low, high = np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
    return Estimate(survival, np.sqrt(spread), low, high, cycles)


def from_betas(
    betas: ArrayLike, accept_probs: ArrayLike | None = None, z: float = 1.96
) -> Estimate:
    """Survival from exact overlaps instead of coin flips: far smaller errors on the same trace.

    `betas` (cycles, gamma): overlap of p and q at each position along the drafted tokens, rejected
    ones included. `accept_probs`, same shape: min(1, p(x)/q(x)) of the token x drafted there.

    With it, s_k = mean over cycles of accept_1 ... accept_(k-1) beta_k, which is unbiased.
    Without it, s_k = mean of beta_1 ... beta_k, exact only where the overlap does not depend on
    which token was drafted before; else it may err either way, by several percent at depth
    (accepted tokens lead elsewhere than drafted ones). Point-mass drafts: the two coincide.
    Raises SpecsimError for values outside [0, 1] or fewer than two cycles.
    """
    overlaps = rounded("betas", betas)
    if overlaps.ndim != 2 or len(overlaps) < 2:
        raise SpecsimError(f"betas must be (cycles >= 2, gamma), got shape {overlaps.shape}")
    reach = overlaps if accept_probs is None else rounded("accept_probs", accept_probs)
    if reach.shape != overlaps.shape:
        raise SpecsimError(f"accept_probs must be {overlaps.shape} as betas, got {reach.shape}")
    accepted = overlaps.copy()
    accepted[:, 1:] *= np.cumprod(reach, axis=1)[:, :-1]
    survival = np.minimum.accumulate(accepted.mean(axis=0))
    error = accepted.std(axis=0, ddof=1) / np.sqrt(len(accepted))
    low, high = np.maximum(survival - z * error, 0.0), np.minimum(survival + z * error, 1.0)
    return Estimate(survival, error, low, high, np.full(survival.shape, len(accepted)))
