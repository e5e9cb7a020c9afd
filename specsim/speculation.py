"""predict(): what a cycle of speculation takes, what it emits, and what that gains.

    speedup = tokens per cycle x plain step / cycle
    cycle   = draft passes + verification (one pass of gamma + 1 rows) + overhead

A plain step is the same sum with gamma = 0, so speedup(gamma = 0) is exactly 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance import Law, as_acceptance, whole, within
from specsim.architecture import Architecture
from specsim.catalog import SpecsimError
from specsim.cost import ForwardTime, step_time
from specsim.drafting import Drafter, DraftModel
from specsim.system import System

Floats = NDArray[np.float64]

INDISTINGUISHABLE = 0.02  # settings whose speedups are this close to the best are a tie


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds are for one pass, or one cycle, of the whole batch; all arrays broadcast together.

    `tokens_per_cycle` is per sequence and includes the bonus or correction token. `error` is the
    relative half-width of the 80 % band on a pass, `tokens_error` the same of tokens per cycle.
    """

    gamma: NDArray[np.int64]
    batch: Floats
    step: ForwardTime
    step_s: Floats
    draft_step_s: Floats
    draft_s: Floats
    verify_step_s: Floats
    overhead_s: Floats
    tokens_per_cycle: Floats
    error: float
    tokens_error: Floats

    @property
    def cycle_s(self) -> Floats:
        return self.draft_s + self.verify_step_s + self.overhead_s

    @property
    def speedup(self) -> Floats:
        return self.tokens_per_cycle * (self.step_s / self.cycle_s)

    @property
    def tokens_per_s(self) -> Floats:
        """Plain decoding, all sequences together."""
        return self.batch / self.step_s

    @property
    def speculative_tokens_per_s(self) -> Floats:
        return self.batch * self.tokens_per_cycle / self.cycle_s

    @property
    def bound(self) -> NDArray[np.str_]:
        """What the plain step mostly spends its time on."""
        return self.step.bound

    @property
    def band(self) -> dict[str, tuple[Floats, Floats]]:
        """80 % bands. An error of the machine moves baseline and cycle alike, so the speedup keeps
        only what does not cancel."""
        wide = 1 + self.error
        # gamma = 0 is the baseline itself, whatever the error
        many = 1 + np.where(self.gamma > 0, self.tokens_error, 0.0)
        spread = np.where(self.gamma > 0, np.hypot(self.error, self.tokens_error), 0.0)
        return {
            "step_s": (self.step_s / wide, self.step_s * wide),
            "verify_step_s": (self.verify_step_s / wide, self.verify_step_s * wide),
            "draft_step_s": (self.draft_step_s / wide, self.draft_step_s * wide),
            "cycle_s": (self.cycle_s / wide, self.cycle_s * wide),
            "tokens_per_cycle": (self.tokens_per_cycle / many, self.tokens_per_cycle * many),
            "speedup": (self.speedup / (1 + spread), self.speedup * (1 + spread)),
        }

    def best(self, axis: int = -1) -> NDArray[np.intp]:
        """The index of the best gamma along `axis`; the smallest of equals."""
        return self.speedup.argmax(axis=axis)

    def ties(self) -> NDArray[np.int64]:
        """The gammas of a one-dimensional prediction that are within 2 % of the best."""
        speedup = self.speedup
        tied = speedup >= (1 - INDISTINGUISHABLE) * speedup.max()
        return np.broadcast_to(self.gamma, speedup.shape)[tied]

    def waterfall(self) -> dict[str, Floats]:
        """Where the ideal gamma + 1 went: factors whose product is the speedup, exactly.

        "ideal" every draft accepted, drafts free, verification as cheap as a step; then what
        acceptance, the drafting, the widening of the pass from 1 to gamma + 1 rows, and the
        remaining overhead leave of it.
        """
        ideal = np.asarray(self.gamma + 1.0)
        narrow_cycle = self.step_s  # verification as narrow as a plain step, drafts free
        drafted = narrow_cycle + self.draft_s
        plain_overhead = self.step_s - self.step.total_s
        widened = self.draft_s + self.verify_step_s + plain_overhead
        return {
            "ideal": ideal,
            "acceptance": self.tokens_per_cycle / ideal,
            "drafting": narrow_cycle / drafted,
            "wider verification": drafted / widened,
            "overhead": widened / self.cycle_s,
        }


def predict(
    target: Architecture,
    drafter: Drafter | None,
    system: System,
    *,
    gamma: ArrayLike = 0,
    alpha: ArrayLike | None = None,
    survival: ArrayLike | None = None,
    tokens_per_cycle: ArrayLike | None = None,
    acceptance: Law | None = None,
    batch: ArrayLike = 1,
    context: ArrayLike = 1024,
    tokens_error: ArrayLike = 0.0,
) -> Prediction:
    """Predict plain and speculative decoding; numeric arguments may be arrays, which broadcast.

    Acceptance is given once, as `alpha`, as a `survival` vector along the last axis, as
    `tokens_per_cycle` (bonus included), or as a law of `specsim.acceptance`. `context` is the KV
    length at the step that is priced.

    Raises SpecsimError for a gamma that is not a whole number >= 0, an acceptance out of range or
    given twice, or a draft whose vocabulary is not the target's.
    """
    gamma = whole("gamma", gamma)
    batch, context = positive("batch", batch), positive("context", context)
    if drafter is None and np.any(gamma > 0):
        raise SpecsimError(
            "gamma > 0 needs a drafter: pass one, or predict plain decoding with gamma=0"
        )
    if isinstance(drafter, DraftModel):
        drafter.require_vocabulary_of(target)
    given = [value is not None for value in (alpha, survival, tokens_per_cycle, acceptance)]
    tau: Floats
    if sum(given) > 1:
        raise SpecsimError(
            "give acceptance once, as one of alpha, survival, tokens_per_cycle, acceptance"
        )
    if not any(given) and np.all(gamma == 0):
        tau = np.ones(gamma.shape)
    elif acceptance is not None:
        tau = acceptance.tokens_per_cycle(gamma)
    elif tokens_per_cycle is not None:
        tau = within("tokens_per_cycle", tokens_per_cycle, low=1.0, high=gamma + 1)
    else:
        tau = as_acceptance(alpha=alpha, survival=survival).tokens_per_cycle(gamma)

    engine = system.engine
    step = step_time(target, system, batch=batch, rows=1, context=context)
    verify = step_time(target, system, batch=batch, rows=gamma + 1, context=context)
    logits = batch * target.vocab_size
    plain_overhead = engine.cycle_overhead_s + engine.logit_overhead_s * logits
    wide_overhead = (
        engine.cycle_overhead_s
        + np.where(gamma > 0, engine.speculation_overhead_s, 0.0)
        + engine.logit_overhead_s * logits * (gamma + 1)
    )
    draft_step_s: ArrayLike = np.nan
    draft_s: ArrayLike = 0.0
    if drafter is not None:
        draft_step_s = drafter.step_s(system, batch=batch, context=context)
        draft_s = drafter.cycle_s(system, gamma=gamma, batch=batch, context=context)
    zero = np.zeros(np.broadcast_shapes(tau.shape, verify.total_s.shape))
    return Prediction(
        gamma=gamma,
        batch=batch,
        step=step,
        step_s=step.total_s + plain_overhead,
        draft_step_s=zero + np.asarray(draft_step_s),
        draft_s=zero + np.asarray(draft_s),
        verify_step_s=verify.total_s + zero,
        overhead_s=wide_overhead + zero,
        tokens_per_cycle=tau + zero,
        error=engine.error,
        tokens_error=np.asarray(tokens_error, float),
    )


def positive(name: str, value: ArrayLike) -> Floats:
    """`value` as an array of finite numbers >= 1; SpecsimError names the first that is not."""
    return within(name, value, low=1.0, high=1e15)
