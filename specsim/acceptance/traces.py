"""Measured survivals: from the cycles of a speculative run, or from text without such a run.

`from_counts` takes the accepted and drafted counts of cycles, for the gamma that was run.
`TextTrace` needs no speculative run: text sampled from the target, passed once through the draft
model, gives the survival for every gamma.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from specsim.acceptance.formulas import PerPosition
from specsim.checks import ArrayLike, Floats, Integers, SpecsimError, one_count, rounded, whole

# Standard deviations in half the width of an 80 % interval of a normal distribution. Measured files
# and what is compared with them use the value with two decimals.
Z80 = 1.2816
Z80_SHORT = 1.28


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A measured survival with its errors, position by position; all fields are (gamma,).

    `low` and `high` are the interval at `z` standard deviations (95 % by default). `cycles` is the
    number of cycles that drafted so many tokens. The errors assume independent cycles. Neighbouring
    cycles of one text are not independent, so the true errors are larger.
    """

    survival: Floats
    standard_error: Floats
    low: Floats
    high: Floats
    cycles: Integers

    @property
    def acceptance(self) -> PerPosition:
        return PerPosition(self.survival)


def from_counts(accepted: ArrayLike, drafted: ArrayLike, z: float = 1.96) -> Estimate:
    """Survival from counts: s_k = cycles with accepted >= k / cycles with drafted >= k.

    `accepted`, `drafted`: whole numbers (cycles,), or one `drafted` for all cycles. Leave out a
    last cycle that a length limit cut short. The intervals are Wilson's, at `z` standard
    deviations. If a drafter drafts more tokens on easy text, the ratio can rise with k; then the
    lowest value so far is used.
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


@dataclass(frozen=True, slots=True, eq=False)
class TextTrace:
    """The acceptance of text that the target has written, for every gamma, without speculation.

    A token x is emitted as an accepted draft with probability min(p, q)(x) = p(x) m, where
    m = min(1, q(x)/p(x)). So in text drawn from p, token t would have been an accepted draft with
    probability m_t, independently for each token. A cycle that starts at t ends at the first token
    that is not accepted (the correction), or after gamma accepted tokens (the next token is the
    bonus). The next cycle starts after it. With f_t = P(a cycle starts at t), f_0 = 1,

        s_k = sum over t of f_t m_t ... m_(t+k-2) beta_(t+k-1)  /  sum over t of f_t

    This weights the text by where cycles start, not equally over all tokens (see `Markov`). The
    last factor is beta, the overlap of p and q there, instead of m: the mean is the same, with less
    noise.

    `kept` is m and `overlap` is beta (m if it is not given): one array of probabilities for each
    text, of any length, or an array (texts, positions). Only starts with t + gamma inside the text
    are counted. So no cycle is cut, and short cycles are not preferred.

    Assumptions: the token-by-token rule, and a q that depends on the prefix alone. That is true for
    a draft model and for an n-gram lookup. For heads that predict several tokens ahead it is
    optimistic. Greedy text has p(x) = 1: m is q(x) of the target's token, 0 or 1 for a greedy
    draft. Source: the coupling of Leviathan et al., arXiv:2211.17192, section 3, used in reverse.
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
        object.__setattr__(self, "kept", _padded(kept))
        object.__setattr__(self, "overlap", _padded(overlap))
        object.__setattr__(self, "_lengths", np.array(lengths))

    def survival(self, k: ArrayLike) -> Floats:
        raise SpecsimError("the survival of a text depends on gamma: call TextTrace(...).at(gamma)")

    def at(self, gamma: int) -> PerPosition:
        """The survival vector of a decoder that drafts `gamma` tokens, shape (gamma,)."""
        accepted, starts = self._sums(one_count("gamma", gamma))
        return PerPosition(_survival(accepted.sum(axis=0), starts.sum()))

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats:
        return _for_each(gamma, lambda each: float(self.at(each).tokens_per_cycle(each)))

    def standard_error(self, gamma: ArrayLike) -> Floats:
        """The standard error of tokens per cycle, by the jackknife that leaves out one text.

        Texts are taken as independent. Raises SpecsimError for fewer than two texts of at least
        `gamma` tokens.
        """
        return _for_each(gamma, self._jackknife)

    def tokens_error(self, gamma: ArrayLike) -> Floats:
        """Half the width of the 80 % interval of tokens per cycle, relative to tokens per cycle."""
        return Z80 * self.standard_error(gamma) / self.tokens_per_cycle(gamma)

    def _jackknife(self, gamma: int) -> float:
        accepted, starts = self._sums(gamma)
        long_enough = starts > 0.0
        texts = int(long_enough.sum())
        if texts < 2:
            raise SpecsimError(
                f"a standard error needs two texts of at least {gamma} tokens, got {texts}"
            )
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
        places = longest - gamma + 1  # where a cycle can start in the longest text
        windows = sliding_window_view(kept, gamma, axis=1)  # (texts, places, gamma)
        accepted = np.cumprod(windows, axis=-1)
        reached = np.concatenate([np.ones((texts, places, 1)), accepted], axis=-1)
        emitted = reached - np.concatenate([accepted, np.zeros((texts, places, 1))], axis=-1)
        starts = np.zeros((texts, places + gamma + 1))
        starts[:, 0] = 1.0
        for place in range(places):
            after = slice(place + 1, place + gamma + 2)  # 1..gamma + 1 tokens later
            starts[:, after] += starts[:, place, None] * emitted[:, place]
        whole_cycle = np.arange(places) + gamma <= self._lengths[:, None]
        starts = np.where(whole_cycle, starts[:, :places], 0.0)
        last = sliding_window_view(overlap, gamma, axis=1)
        return np.einsum("nt,ntk->nk", starts, reached[..., :-1] * last), starts.sum(axis=1)


def _texts(name: str, texts: Sequence[ArrayLike] | Floats) -> list[Floats]:
    arrays = [rounded(name, text) for text in texts]
    if not arrays or any(array.ndim != 1 or not len(array) for array in arrays):
        shapes = [array.shape for array in arrays[:3]]
        raise SpecsimError(f"{name} must have a 1-D array for each text, got shapes {shapes}")
    return arrays


def _padded(texts: list[Floats]) -> Floats:
    """The texts as one read-only array (texts, positions), 0 after the end of a text."""
    rows = np.zeros((len(texts), max(map(len, texts))))
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    rows.flags.writeable = False
    return rows


def _survival(accepted: Floats, starts: Floats) -> Floats:
    """The ratio, or its lowest value so far: in short texts the mean of beta can rise with k."""
    return np.minimum.accumulate(np.minimum(accepted / starts, 1.0), axis=-1)


def _for_each(gamma: ArrayLike, value: Callable[[int], float]) -> Floats:
    every, place = np.unique(whole("gamma", gamma), return_inverse=True)
    values = np.array([value(int(each)) for each in every], dtype=float)
    return values[place.reshape(np.shape(gamma))][()]
