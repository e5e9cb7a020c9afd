"""Acceptance is a survival vector: s_k, the probability that at least k drafts are accepted.

Everything speculation gains follows from it without any independence assumption:

    tokens per cycle = 1 + s_1 + s_2 + ... + s_gamma        (the 1 is the bonus or correction token)

A *law* generates survivals. Each law below answers the same two questions, and its parameters and
the question's argument combine by NumPy broadcasting, never as an outer product:

    law.survival(k)              P(at least k drafts accepted), s_0 = 1
    law.tokens_per_cycle(gamma)  mean tokens emitted per cycle, bonus included

Three different numbers are called "acceptance rate": `alpha` (conditional, per token),
`accepted_per_drafted`, and `tokens_per_cycle`. The functions below convert between them; a number
used as the wrong one of the three misleads by tens of percent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.catalog import SpecsimError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Law(Protocol):
    """What every acceptance law offers; `Markov` needs gamma first, see `per_position`."""

    def survival(self, k: ArrayLike) -> Floats: ...

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats: ...


# ------------------------------------------------------------------------------------- the laws


@dataclass(frozen=True, slots=True, eq=False)
class IID:
    """Every draft is accepted with the same probability, whatever happened before: s_k = alpha^k.

    tokens per cycle = (1 - alpha^(gamma+1)) / (1 - alpha), and gamma + 1 at alpha = 1.
    Source: Leviathan et al., arXiv:2211.17192, equation 1. Real text is easy here and hard there:
    at the same mean alpha this law errs low against `BetaMixture` and high against `Markov`.
    """

    alpha: ArrayLike

    def __post_init__(self) -> None:
        _freeze(self, alpha=within("alpha", self.alpha))

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

    Leading axes are scenarios and broadcast with the argument of the two methods. Engines that log
    an acceptance rate per position (vLLM, llama.cpp) log exactly this vector. An argument beyond
    the last known position raises SpecsimError: a survival is never extrapolated.
    """

    vector: ArrayLike  # (..., gamma)

    def __post_init__(self) -> None:
        _freeze(self, vector=as_survival(self.vector))

    def survival(self, k: ArrayLike) -> Floats:
        return self._look_up(_from_zero(self.vector), k, "k")

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats:
        return self._look_up(np.cumsum(_from_zero(self.vector), axis=-1), gamma, "gamma")

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

    The shape of drafters that look ahead without looking again: feature drafters (EAGLE), heads
    (Medusa) and parallel drafters. decay = 1 is `IID`.
    """

    alpha: ArrayLike
    decay: ArrayLike

    def __post_init__(self) -> None:
        _freeze(self, alpha=within("alpha", self.alpha), decay=within("decay", self.decay))

    def conditional(self, k: int) -> Floats:
        return np.asarray(self.alpha) * np.asarray(self.decay) ** (k - 1)

    def survival(self, k: ArrayLike) -> Floats:
        return _running_product(self.conditional, k)

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats:
        return _sum_of_products(self.conditional, gamma)


@dataclass(frozen=True, slots=True, eq=False)
class BetaMixture:
    """Each cycle draws its own alpha from a Beta law: s_k = product over j < k of (a+j) / (a+b+j).

    `mean` = a/(a+b) in [0, 1]; `concentration` = a+b > 0: 2 is very mixed text, infinity is `IID`.
    At the same mean, tokens per cycle exceed the i.i.d. value (alpha^k is convex). Assumes that
    cycles are independent of each other; hard stretches that persist are `Markov`.
    """

    mean: ArrayLike
    concentration: ArrayLike

    def __post_init__(self) -> None:
        concentration = within("concentration", self.concentration, low=1e-6, high=np.inf)
        _freeze(self, mean=within("mean", self.mean), concentration=concentration)

    def conditional(self, k: int) -> Floats:
        evidence = (k - 1) / np.asarray(self.concentration)  # k-1 accepted drafts suggest easy text
        return (np.asarray(self.mean) + evidence) / (1.0 + evidence)

    def survival(self, k: ArrayLike) -> Floats:
        return _running_product(self.conditional, k)

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats:
        return _sum_of_products(self.conditional, gamma)


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
        _freeze(self, **{name: within(name, getattr(self, name)) for name in names})

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


def per_position(law: Law, gamma: int) -> PerPosition:
    """Any law as its survival vector s_1..s_gamma, shape (law parameters..., gamma)."""
    if isinstance(law, Markov):
        return law.at(gamma)
    upto = [law.survival(k) for k in range(one_count("gamma", gamma) + 1)]
    return PerPosition(np.stack(np.broadcast_arrays(*upto), axis=-1)[..., 1:])


# -------------------------------------------------------------------- survival, from and to rates


def as_survival(survival: ArrayLike) -> Floats:
    """Checks a survival vector: s_1..s_gamma along the last axis, within [0, 1], never rising."""
    vector = within("survival", survival)
    if vector.ndim == 0:
        raise SpecsimError(f"survival must be a vector s_1..s_gamma, got the number {vector:g}")
    rises = np.argwhere(np.diff(vector, axis=-1) > 0.0)
    if len(rises):
        *row, k = rises[0]
        before, after = vector[(*row, k)], vector[(*row, k + 1)]
        raise SpecsimError(
            f"survival must not rise with position, got {before:g} at {k + 1} and {after:g} at "
            f"{k + 2}: conditional rates become a survival by a running product"
        )
    return vector


def as_acceptance(
    alpha: ArrayLike | None = None,
    survival: ArrayLike | None = None,
    tokens_per_cycle: ArrayLike | None = None,
    gamma: ArrayLike | None = None,
) -> Law:
    """The law behind what a user knows: exactly one of alpha, survival, tokens_per_cycle.

    `tokens_per_cycle` (bonus included) needs the whole-number `gamma` it was measured at and
    becomes the i.i.d. law with the same mean. Raises SpecsimError otherwise: no number is assumed.
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
    """The alpha at which the i.i.d. law emits `tokens_per_cycle` (bonus included) at `gamma`.

    Inverts 1 + alpha + ... + alpha^gamma by Newton's method from alpha = 1: the polynomial is
    increasing and convex there, so the iteration falls onto the root and never overshoots.
    Raises SpecsimError for a gamma below 1 or not whole, and for tokens outside [1, gamma + 1].
    """
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

    It is smaller than alpha, because drafts behind a rejection count as drafted.
    """
    gamma = whole("gamma", gamma, low=1)
    return (within("tokens_per_cycle", tokens_per_cycle, 1.0, gamma + 1.0) - 1.0) / gamma


def tokens_per_cycle_from_accepted_per_drafted(rate: ArrayLike, gamma: ArrayLike) -> Floats:
    """1 + gamma * rate: tokens per cycle, bonus included, from an engine's accepted / drafted."""
    return 1.0 + whole("gamma", gamma) * within("accepted_per_drafted", rate)


def pooled_alpha(survival: ArrayLike) -> Floats:
    """Accepted / (accepted + rejections) = E[A] / (E[A] + 1 - s_gamma), over the last axis.

    Easy cycles run longer and are counted more often, so where alpha varies between cycles this
    errs high; fit alpha on tokens per cycle instead (`alpha_from_tokens_per_cycle`).
    """
    vector = as_survival(survival)
    if vector.shape[-1] == 0:
        raise SpecsimError("pooled_alpha needs at least one position, got an empty survival")
    accepted = vector.sum(axis=-1)
    return accepted / (accepted + 1.0 - vector[..., -1])


def conditional(survival: ArrayLike) -> Floats:
    """a_k = s_k / s_(k-1), shape of `survival`; NaN where position k is never reached."""
    full = _from_zero(as_survival(survival))
    reached = full[..., :-1] > 0.0
    return np.where(reached, full[..., 1:] / np.where(reached, full[..., :-1], 1.0), np.nan)


def pmf(survival: ArrayLike) -> Floats:
    """P(A = 0), ..., P(A = gamma) of the accepted count A, shape (..., gamma + 1).

    Entry i is also the probability that the cycle emits i + 1 tokens.
    """
    full = _from_zero(as_survival(survival))
    further = np.concatenate([full[..., 1:], np.zeros_like(full[..., :1])], axis=-1)
    return full - further


def variance(survival: ArrayLike) -> Floats:
    """Variance of tokens per cycle: sum of (2k - 1) s_k, minus the square of the sum of s_k.

    Computed around the mean, which is the same number and cannot come out negative.
    """
    chances = pmf(survival)
    accepted = np.arange(chances.shape[-1])
    mean = (chances * accepted).sum(axis=-1, keepdims=True)
    return (chances * (accepted - mean) ** 2).sum(axis=-1)


# ------------------------------------------------------------------ survival measured on traces


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
    overlaps = _rounded("betas", betas)
    if overlaps.ndim != 2 or len(overlaps) < 2:
        raise SpecsimError(f"betas must be (cycles >= 2, gamma), got shape {overlaps.shape}")
    reach = overlaps if accept_probs is None else _rounded("accept_probs", accept_probs)
    if reach.shape != overlaps.shape:
        raise SpecsimError(f"accept_probs must be {overlaps.shape} as betas, got {reach.shape}")
    accepted = overlaps.copy()
    accepted[:, 1:] *= np.cumprod(reach, axis=1)[:, :-1]
    survival = np.minimum.accumulate(accepted.mean(axis=0))
    error = accepted.std(axis=0, ddof=1) / np.sqrt(len(accepted))
    low, high = np.maximum(survival - z * error, 0.0), np.minimum(survival + z * error, 1.0)
    return Estimate(survival, error, low, high, np.full(survival.shape, len(accepted)))


# ------------------------------------------------------ where one position's acceptance comes from


def overlap(target_probs: ArrayLike, draft_probs: ArrayLike) -> Floats:
    """beta: the sum over tokens of min(p, q), the chance that a token drawn from q is accepted.

    Distributions over the vocabulary along the last axis. beta = 1 - total variation; no rule that
    drafts x ~ q and stays lossless accepts more (Leviathan et al., Corollary 3.6).
    """
    target = _distribution("target_probs", target_probs)
    shared = np.minimum(target, _distribution("draft_probs", draft_probs)).sum(axis=-1)
    return np.minimum(shared, 1.0)


def token_probs(logits: ArrayLike, temperature: ArrayLike = 1.0, top_p: float = 1.0) -> Floats:
    """The distribution a sampler draws from: softmax(logits / temperature), then the top-p filter.

    `logits` (..., vocabulary); `temperature` (...) broadcasts with the leading axes, and 0 is the
    argmax (lowest index on ties). `top_p` keeps the fewest likeliest tokens of at least that mass.
    """
    scores = np.asarray(logits, dtype=np.float64)
    peak = scores.max(axis=-1, keepdims=True)
    if not np.all(np.isfinite(peak)):
        raise SpecsimError("logits must hold no NaN and a finite maximum along the last axis")
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
    """Acceptance of a greedy draft: p(argmax of q). The draft is a point mass, whatever q was.

    As temperature grows it falls to 1 / vocabulary, while that of a sampled draft tends to 1.
    """
    target = _distribution("target_probs", target_probs)
    drafted = _distribution("draft_probs", draft_probs).argmax(axis=-1)[..., None]
    is_drafted = np.arange(target.shape[-1]) == drafted
    return np.where(is_drafted, target, 0.0).sum(axis=-1)


# ------------------------------------------------------------------------- shared by the laws


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


def _from_zero(survival: ArrayLike) -> Floats:
    """s_0 = 1 put in front: (..., gamma) -> (..., gamma + 1)."""
    vector = np.asarray(survival, dtype=np.float64)
    return np.concatenate([np.ones((*vector.shape[:-1], 1)), vector], axis=-1)


# ----------------------------------------------------------------- checks, where a value comes in


def _freeze(law: object, **parameters: Floats) -> None:
    for name, value in parameters.items():
        value.flags.writeable = False
        object.__setattr__(law, name, value.item() if value.ndim == 0 else value)


def within(name: str, value: ArrayLike, low: float = 0.0, high: ArrayLike = 1.0) -> Floats:
    """A float64 copy of `value`; refuses its first element that is NaN or outside [low, high]."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise SpecsimError(f"{name} must be a number or a regular array of numbers") from None
    inside = (array >= low) & (array <= np.asarray(high, dtype=np.float64))  # False for NaN
    if not np.all(inside):
        bad, top = (np.broadcast_to(x, inside.shape)[~inside][0] for x in (array, high))
        raise SpecsimError(f"{name} must be within [{low:g}, {top:g}], got {bad:g}")
    return array


def whole(name: str, value: ArrayLike, low: int = 0) -> Integers:
    """`value` as int64; refuses its first element that is not a whole number of at least `low`."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise SpecsimError(f"{name} must be whole numbers >= {low}, got {array.dtype} values")
    good = (array >= low) & (array < 2**53) & (array == np.floor(array))
    if not np.all(good):
        raise SpecsimError(f"{name} must be a whole number >= {low}, got {array[~good].flat[0]:g}")
    return array.astype(np.int64)


def one_count(name: str, value: ArrayLike, low: int = 0) -> int:
    array = whole(name, value, low)
    if array.ndim:
        raise SpecsimError(f"{name} must be a single whole number here, got shape {array.shape}")
    return int(array)


def _rounded(name: str, probs: ArrayLike) -> Floats:
    """Probabilities as 32-bit arithmetic leaves them: a hair above 1 is 1."""
    return np.minimum(within(name, probs, high=1.0001), 1.0)


def _distribution(name: str, probs: ArrayLike) -> Floats:
    array = _rounded(name, probs)
    total = array.sum(axis=-1)
    if not np.all(np.abs(total - 1.0) < 1e-3):
        worst = total.flat[np.argmax(np.abs(total - 1.0))]
        raise SpecsimError(f"{name} must sum to 1 along the last axis, got a sum of {worst:g}")
    return array
