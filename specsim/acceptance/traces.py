"""Survivals measured: from the cycles of a speculative run, or from one text without any run.

`from_counts` reads what an engine logs; `from_betas` replaces its coin flips by exact overlaps, for
smaller errors. Both know the gamma that was run and no other. `TextTrace` needs no speculative run
at all: a text sampled from the target, passed once through the draft, answers for every gamma.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from specsim.acceptance.formulas import PerPosition
from specsim.checks import ArrayLike, Floats, Integers, SpecsimError, one_count, rounded, whole


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
    def acceptance(self) -> PerPosition:
        return PerPosition(self.survival)


def empirical(accepted: ArrayLike, drafted: ArrayLike) -> PerPosition:
    """The survival vector of a trace of cycles; `from_counts` gives it with its errors."""
    return from_counts(accepted, drafted).acceptance


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


@dataclass(frozen=True, slots=True, eq=False)
class TextTrace:
    """The law that text sampled from the target implies, for every gamma, without speculating.

    A token x is emitted as an accepted draft with probability min(p, q)(x) = p(x) m, where
    m = min(1, q(x)/p(x)). So along text drawn from p, token t would have been an accepted draft
    with probability m_t, each its own coin. A cycle that starts at t runs until the first coin
    fails (that token is the correction) or gamma have held (the next token is the bonus), and the
    next one starts behind it. With f_t = P(a cycle starts at t), f_0 = 1,

        s_k = sum over t of f_t m_t ... m_(t+k-2) beta_(t+k-1)  /  sum over t of f_t

    which holds the law of the text where cycles start, and not over all tokens (see `Markov`).
    beta, the overlap of p and q there, stands for the last coin: the same mean, less noise.

    `kept` is m and `overlap` is beta (m, where it is not given): one array of probabilities per
    text, lengths may differ, or (texts, positions). Only starts with t + gamma within the text are
    counted, whatever comes of them, so that no cycle is cut and none is chosen for being short.

    Assumes the token-by-token rule, and a q that the prefix alone determines: true of a draft model
    or an n-gram lookup, while heads that look several tokens ahead are flattered. Greedy text has
    p(x) = 1: m is q(x) of the target's token, 0 or 1 for a greedy draft.
    Source: the coupling of Leviathan et al., arXiv:2211.17192, section 3, read backwards.
    """

    kept: Sequence[ArrayLike] | Floats
    overlap: Sequence[ArrayLike] | Floats | None = None
    _lengths: Integers = field(init=False, repr=False)  # (texts,)

    def __post_init__(self) -> None:
        kept = _texts("kept", self.kept)
        overlap = kept if self.overlap is None else _texts("overlap", self.overlap)
        lengths = [len(text) for text in kept]
        if lengths != [len(text) for text in overlap]:
            raise SpecsimError(
                f"overlap must match kept, text by text: got {len(overlap)} texts of "
                f"{sum(map(len, overlap))} tokens for {len(kept)} of {sum(lengths)}"
            )
        object.__setattr__(self, "kept", _side_by_side(kept))
        object.__setattr__(self, "overlap", _side_by_side(overlap))
        object.__setattr__(self, "_lengths", np.array(lengths))

    def survival(self, k: ArrayLike) -> Floats:
        raise SpecsimError("the survival of a text depends on gamma: ask TextTrace(...).at(gamma)")

    def at(self, gamma: int) -> PerPosition:
        """The survival vector of a decoder that drafts `gamma` tokens, shape (gamma,)."""
        accepted, starts = self._sums(one_count("gamma", gamma))
        return PerPosition(_survival(accepted.sum(axis=0), starts.sum()))

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats:
        return _for_each(gamma, lambda each: float(self.at(each).tokens_per_cycle(each)))

    def standard_error(self, gamma: ArrayLike) -> Floats:
        """Of tokens per cycle, with texts as the independent units: the delete-one-text jackknife.

        Raises SpecsimError for fewer than two texts that are long enough.
        """
        return _for_each(gamma, self._jackknife)

    def tokens_error(self, gamma: ArrayLike) -> Floats:
        """Half the width of the 80 % interval of tokens per cycle, relative to it."""
        return 1.2816 * self.standard_error(gamma) / self.tokens_per_cycle(gamma)

    def _jackknife(self, gamma: int) -> float:
        accepted, starts = self._sums(gamma)
        long_enough = starts > 0.0
        texts = int(long_enough.sum())
        if texts < 2:
            raise SpecsimError(f"a standard error needs two texts of at least {gamma} tokens")
        accepted, starts = accepted[long_enough], starts[long_enough]
        without = _survival(accepted.sum(axis=0) - accepted, (starts.sum() - starts)[:, None])
        tokens = 1.0 + without.sum(axis=1)  # (texts,), each without one text
        return float(np.sqrt((texts - 1) * np.var(tokens)))

    def _sums(self, gamma: int) -> tuple[Floats, Floats]:
        """Expected cycles with at least k accepted, (texts, gamma), and cycles, (texts,)."""
        kept, overlap = np.asarray(self.kept), np.asarray(self.overlap)
        texts, longest = kept.shape
        if gamma > longest:
            raise SpecsimError(f"gamma = {gamma} is longer than the longest text, {longest} tokens")
        places = longest - gamma + 1  # where a cycle may start in the longest text
        coins = sliding_window_view(kept, gamma, axis=1)  # (texts, places, gamma)
        all_held = np.cumprod(coins, axis=-1)
        reached = np.concatenate([np.ones((texts, places, 1)), all_held], axis=-1)
        emitted = reached - np.concatenate([all_held, np.zeros((texts, places, 1))], axis=-1)
        starts = np.zeros((texts, places + gamma + 1))
        starts[:, 0] = 1.0
        for place in range(places):
            behind = slice(place + 1, place + gamma + 2)  # 1..gamma + 1 tokens further
            starts[:, behind] += starts[:, place, None] * emitted[:, place]
        whole_cycle = np.arange(places) + gamma <= self._lengths[:, None]
        starts = np.where(whole_cycle, starts[:, :places], 0.0)
        last_coin = sliding_window_view(overlap, gamma, axis=1)
        return np.einsum("nt,ntk->nk", starts, reached[..., :-1] * last_coin), starts.sum(axis=1)


def _texts(name: str, texts: Sequence[ArrayLike] | Floats) -> list[Floats]:
    arrays = [rounded(name, text) for text in texts]
    if not arrays or any(array.ndim != 1 or not len(array) for array in arrays):
        shapes = [array.shape for array in arrays[:3]]
        raise SpecsimError(f"{name} must hold a 1-D array for each text, got shapes {shapes}")
    return arrays


def _side_by_side(texts: list[Floats]) -> Floats:
    """(texts, positions), 0 behind the end of a text, read-only."""
    rows = np.zeros((len(texts), max(map(len, texts))))
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    rows.flags.writeable = False
    return rows


def _survival(accepted: Floats, starts: Floats) -> Floats:
    """The ratio, held at its lowest value so far: on short texts the last coin's mean may rise."""
    return np.minimum.accumulate(np.minimum(accepted / starts, 1.0), axis=-1)


def _for_each(gamma: ArrayLike, value: Callable[[int], float]) -> Floats:
    every, place = np.unique(whole("gamma", gamma), return_inverse=True)
    values = np.array([value(int(each)) for each in every], dtype=float)
    return values[place.reshape(np.shape(gamma))][()]
