"""predict(): what a cycle of speculation takes, what it emits, and what that gains.

    speedup = tokens per cycle x plain step / cycle
    cycle   = draft passes + verification (one pass of gamma + 1 rows) + overhead

A plain step is the same sum with gamma = 0, so speedup(gamma = 0) is exactly 1.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance import Law, as_acceptance
from specsim.architecture import Architecture
from specsim.checks import Floats, SpecsimError, at_least_one, whole, within
from specsim.cost.ledger import Ledger, model_pass
from specsim.drafting import Drafter, Method, as_method
from specsim.hardware import System
from specsim.prediction import Prediction


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
    batch, context = at_least_one("batch", batch), at_least_one("context", context)
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
