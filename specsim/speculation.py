"""predict(): what a cycle of speculation takes, what it emits, and what that gains.

    speedup = tokens per cycle x plain step / cycle
    cycle   = draft passes + verification (one pass of gamma + 1 rows) + overhead

A plain step is the same sum with gamma = 0, so speedup(gamma = 0) is exactly 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance import Law, as_acceptance, per_position, whole, within
from specsim.architecture import Architecture
from specsim.catalog import SpecsimError
from specsim.cost import ForwardTime, step_time
from specsim.drafting import Drafter, Method, as_method
from specsim.latency import RequestLatency, request_latency
from specsim.ledger import Ledger, model_pass
from specsim.system import System

Floats = NDArray[np.float64]

INDISTINGUISHABLE = 0.02  # settings whose speedups are this close to the best are a tie
SHARED = 0.5  # assumed correlation of the errors of a plain step and of a cycle on one machine


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds are for one pass, or one cycle, of the whole batch; all arrays broadcast together.

    `tokens_per_cycle` is per sequence and includes the bonus or correction token. `draft_s` is what
    a cycle waits for drafting; `overlapped_s` is drafting that hides behind the verification.
    `verification` and `drafting` are the ledgers that the seconds come from; they know bytes and
    FLOPs too. `error` is the relative half-width of the 80 % band on a pass, `tokens_error` the
    same of tokens per cycle. `extra_devices` are the drafter's own, beside the target's; the output
    law stays the target's if `lossless`. `law` is the acceptance of the method's cycles, None where
    tokens per cycle are all that is known.
    """

    target: Architecture
    system: System
    gamma: NDArray[np.int64]
    batch: Floats
    context: Floats
    step_s: Floats
    plain_overhead_s: Floats
    draft_step_s: Floats
    draft_s: Floats
    verify_step_s: Floats
    overhead_s: Floats
    tokens_per_cycle: Floats
    error: float
    tokens_error: Floats
    overlapped_s: Floats
    verification: Ledger
    drafting: Ledger
    extra_devices: int = 0
    lossless: bool = True
    law: Law | None = None

    @property
    def step(self) -> ForwardTime:
        """The plain pass, operator by operator."""
        return step_time(self.target, self.system, batch=self.batch, context=self.context)

    @property
    def cycle_s(self) -> Floats:
        return self.draft_s + self.verify_step_s + self.overhead_s

    @property
    def speedup(self) -> Floats:
        return self.tokens_per_cycle * (self.step_s / self.cycle_s)

    @property
    def speedup_per_device(self) -> Floats:
        """The same per accelerator: plain decoding needs none of the drafter's own."""
        devices = self.system.tensor_parallel
        return self.speedup * (devices / (devices + self.extra_devices))

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
        """80 % bands.

        The speedup is a quotient of two times on one machine, whose errors are correlated by
        `SHARED` = 1/2 (assumed): sqrt(2 (1 - 1/2)) = 1 of a pass's error is left in it. Were they
        one and the same error it would cancel (flatters: drafts are smaller, verifications wider
        than a step); were they independent, 1.41 of it would stay. Tokens per cycle are independent
        of both.
        """
        wide = 1 + self.error
        # gamma = 0 is the baseline itself, whatever the error
        many = 1 + np.where(self.gamma > 0, self.tokens_error, 0.0)
        quotient = self.error * np.sqrt(2 * (1 - SHARED))
        spread = np.where(self.gamma > 0, np.hypot(quotient, self.tokens_error), 0.0)
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
        if not self.speedup.size:
            raise SpecsimError(
                f"no best of no scenarios: the speedup's shape is {self.speedup.shape}"
            )
        return self.speedup.argmax(axis=axis)

    def ties(self) -> NDArray[np.int64]:
        """The gammas of a one-dimensional prediction that are within 2 % of the best."""
        speedup = self.speedup
        tied = speedup >= (1 - INDISTINGUISHABLE) * speedup.max(initial=0.0)
        return np.broadcast_to(self.gamma, speedup.shape)[tied]

    def request(self, more_tokens: int = 256) -> RequestLatency:
        """How long an answer of one scenario takes behind its first token, and how unevenly its
        tokens arrive: percentiles, not only means.

        Raises SpecsimError for an array of scenarios, and where tokens per cycle were given: a mean
        does not say how it varies.
        """
        if self.cycle_s.ndim or np.ndim(self.gamma):
            raise SpecsimError(f"request answers for one scenario, not for {self.cycle_s.shape}")
        gamma, survival = int(self.gamma), np.zeros(0)
        if gamma > 0:
            if self.law is None:
                raise SpecsimError(
                    "tokens per cycle alone do not say how they vary: give alpha, survival or a law"
                )
            survival = np.asarray(per_position(self.law, gamma).vector)
        sequences = max(1, int(self.batch))
        return request_latency(more_tokens, survival, float(self.cycle_s), sequences)

    def waterfall(self) -> dict[str, Floats]:
        """Where the ideal gamma + 1 went: factors whose product is the speedup, exactly.

        "ideal" every draft accepted, drafts free, verification as cheap as a step; then what
        acceptance, the drafting, the widening of the pass from 1 to gamma + 1 rows, and the
        remaining overhead leave of it.
        """
        ideal = np.asarray(self.gamma + 1.0)
        narrow_cycle = self.step_s  # verification as narrow as a plain step, drafts free
        drafted = narrow_cycle + self.draft_s
        widened = self.draft_s + self.verify_step_s + self.plain_overhead_s
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
    routing_correlation: ArrayLike | None = None,
) -> Prediction:
    """Predict plain and speculative decoding; numeric arguments may be arrays, which broadcast.

    Acceptance is given once, as `alpha`, as a `survival` vector along the last axis, as
    `tokens_per_cycle` (bonus included), or as a law of `specsim.acceptance`. `context` is the KV
    length at the step that is priced. `routing_correlation`, of a mixture of experts alone, says
    how alike consecutive tokens choose: 0 independently (the default, which punishes), 1 the same.

    Raises SpecsimError for a gamma that is not a whole number >= 0, an acceptance out of range or
    given twice, or a draft whose vocabulary is not the target's.

    What an alpha or a law says is a chain of drafts where there are any: the method makes of it the
    survival of its cycles (a lookup that finds nothing, a tree, heads whose drafts decay). Tokens
    per cycle are taken as they are.
    """
    gamma = whole("gamma", gamma)
    batch, context = positive("batch", batch), positive("context", context)
    method = _method(drafter, target, gamma)
    law, tau = _acceptance(gamma, method, alpha, survival, tokens_per_cycle, acceptance)
    if routing_correlation is not None:
        if target.experts is None:
            raise SpecsimError(f"{target.name} has no experts whose routing could be correlated")
        routing_correlation = within("routing_correlation", routing_correlation, low=0.0, high=1.0)

    engine = system.engine
    rows, share = verification_width(method, gamma, batch)
    plain = model_pass(target, system, batch=batch, context=context)
    wide = model_pass(
        target, system, batch=batch, rows=rows, context=context,
        routing_correlation=routing_correlation,
    )  # fmt: skip
    drafted = np.where(gamma > 0, share, 0.0)  # of the passes carry drafts
    verification = Ledger(((drafted, wide), (1.0 - drafted, plain)))
    plain_s, verify_s = plain.seconds, verification.seconds
    logits = batch * target.vocab_size
    host_s = engine.cycle_overhead_s + engine.sequence_overhead_s * batch
    plain_overhead = host_s + engine.logit_overhead_s * logits
    wide_overhead = (
        host_s
        + np.where(gamma > 0, engine.speculation_overhead_s * share, 0.0)
        + engine.logit_overhead_s * logits * (1 + share * (rows - 1))
    )
    draft_step_s, overlapped_s = np.asarray(np.nan), np.zeros(())
    drafting = Ledger()
    if method is not None:
        place = {"batch": batch, "context": context}
        draft_step_s = method.step(system, **place).seconds
        drafting = method.cycle(system, gamma=gamma, **place)
        hidden_s = method.overlapped_s(system, gamma=gamma, verify_s=verify_s, **place)
        overlapped_s = np.asarray(hidden_s)
    draft_s = drafting.seconds - overlapped_s
    shape = np.broadcast_shapes(np.shape(tau), np.shape(verify_s), np.shape(draft_s))

    def full(value: ArrayLike) -> Floats:
        return np.broadcast_to(np.asarray(value, float), shape)

    return Prediction(
        target=target,
        system=system,
        gamma=gamma,
        batch=batch,
        context=context,
        step_s=plain_s + plain_overhead,
        plain_overhead_s=np.asarray(plain_overhead),
        draft_step_s=full(draft_step_s),
        draft_s=full(draft_s),
        verify_step_s=full(verify_s),
        overhead_s=full(wide_overhead),
        tokens_per_cycle=full(tau),
        error=engine.error,
        tokens_error=np.asarray(tokens_error, float),
        overlapped_s=full(overlapped_s),
        verification=verification,
        drafting=drafting,
        extra_devices=0 if method is None else method.extra_devices,
        lossless=method is None or method.lossless,
        law=law,
    )


def _method(
    drafter: Drafter | None, target: Architecture, gamma: NDArray[np.int64]
) -> Method | None:
    """The drafter as a method that can draft so many tokens for `target`."""
    if drafter is None:
        if np.any(gamma > 0):
            raise SpecsimError(
                "gamma > 0 needs a drafter: pass one, or predict plain decoding with gamma=0"
            )
        return None
    method = as_method(drafter)
    method.require_vocabulary_of(target)
    if method.max_gamma is not None and np.any(gamma > method.max_gamma):
        raise SpecsimError(
            f"gamma = {gamma.max()}: this drafter can draft at most {method.max_gamma} tokens"
        )
    return method


def verification_width(
    method: Method | None, gamma: NDArray[np.int64], batch: Floats
) -> tuple[Floats, Floats]:
    """Rows per sequence of a pass that verifies drafts, and the share of the passes that do."""
    if method is None:
        return np.asarray(gamma, float) + 1.0, np.ones(())
    return method.verify_rows(gamma, batch), np.asarray(method.drafting_share(batch), float)


def _acceptance(
    gamma: NDArray[np.int64],
    method: Method | None,
    alpha: ArrayLike | None,
    survival: ArrayLike | None,
    tokens_per_cycle: ArrayLike | None,
    acceptance: Law | None,
) -> tuple[Law | None, Floats]:
    """The law of a cycle, where more is known than its mean, and tokens per cycle; from whichever
    of the four was given."""
    given = [value is not None for value in (alpha, survival, tokens_per_cycle, acceptance)]
    if sum(given) > 1:
        raise SpecsimError(
            "give acceptance once, as one of alpha, survival, tokens_per_cycle, acceptance"
        )
    if not any(given) and np.all(gamma == 0):
        return None, np.ones(gamma.shape)
    if tokens_per_cycle is not None:
        return None, within("tokens_per_cycle", tokens_per_cycle, low=1.0, high=gamma + 1)
    law = acceptance
    if law is None:
        law = as_acceptance(alpha=alpha, survival=survival)
    if method is not None:
        law = method.law(law)
    return law, np.asarray(law.tokens_per_cycle(gamma))


def positive(name: str, value: ArrayLike) -> Floats:
    """`value` as an array of finite numbers >= 1; SpecsimError names the first that is not."""
    return within(name, value, low=1.0, high=1e15)
