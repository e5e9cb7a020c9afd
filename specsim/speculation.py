"""predict(): what a cycle of speculation takes, what it emits, and what that gains.

    speedup = tokens per cycle x plain step / cycle
    cycle   = draft passes + verification (one pass of gamma + 1 rows) + overhead

A plain step is the same sum with gamma = 0, so speedup(gamma = 0) is exactly 1.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from specsim.acceptance import Acceptance, PerPosition, as_acceptance
from specsim.architecture import Architecture
from specsim.checks import (
    ArrayLike,
    Floats,
    Integers,
    SpecsimError,
    as_survival,
    at_least_one,
    quoted,
    whole,
    within,
)
from specsim.checks.limits import require_limit
from specsim.cost import Ledger, ModelPass, Wait
from specsim.drafting import Drafter
from specsim.hardware import System, emptied
from specsim.operators import Workload
from specsim.prediction import Prediction

BEST = "best"  # the gamma that is chosen


def predict(
    target: Architecture,
    drafter: Drafter | None,
    system: System,
    *,
    gamma: ArrayLike | str | None = None,
    alpha: ArrayLike | None = None,
    survival: ArrayLike | None = None,
    tokens_per_cycle: ArrayLike | None = None,
    acceptance: Acceptance | None = None,
    batch: ArrayLike = 1,
    context: ArrayLike = 1024,
    tokens_error: ArrayLike = 0.0,
    routing_correlation: ArrayLike | None = None,
    top_p: float | None = None,
) -> Prediction:
    """Predict plain and speculative decoding of `target` on `system`.

    speedup = tokens per cycle x plain step / cycle. Numeric arguments may be arrays; they combine
    by NumPy broadcasting.

    Arguments: `drafter`, a drafting method, None for plain decoding. `gamma`, drafted tokens per
    cycle; "best" is the method's best for each scenario (so is None where a drafter and an
    acceptance are given; else None is 0).

    Acceptance, given once: as `alpha` (the probability that a drafted token is accepted), as
    a `survival` vector along the last axis (P(at least k accepted); vLLM calls it the acceptance
    rate per position), as `tokens_per_cycle` (bonus included; vLLM: mean acceptance length), or as
    an `acceptance` model of `specsim.acceptance`. `batch`, sequences decoded together. `context`,
    the KV length in tokens at the step that is priced. `tokens_error`, the relative half-width of
    the 80 % band on tokens per cycle. `routing_correlation`, of a mixture of experts alone: how
    alike consecutive tokens choose, 0 independently (the default, pessimistic) to 1 the same.
    `top_p`, below 1 where target and draft both sample from a nucleus: the likeliest
    tokens of every distribution are then sorted, which takes the engine's `sorting_overhead_s`
    (what it does to the acceptance is in the acceptance that is given).

    An alpha, a survival or an acceptance model describes a chain of drafts where there is one: the
    method makes of it the survival of its cycles (a lookup that finds nothing, a tree, heads whose
    drafts decay). Tokens per cycle are taken as they are.

    Raises SpecsimError for a gamma that is not a whole number >= 0, an acceptance out of range or
    given twice, or a draft whose vocabulary is not the target's.
    """
    if gamma is None or isinstance(gamma, str):
        gamma = chosen_gamma(
            gamma, target, drafter, system, alpha, survival, tokens_per_cycle, acceptance,
            batch=batch, context=context, routing_correlation=routing_correlation, top_p=top_p,
        )  # fmt: skip
    for name, value in (("gamma", gamma), ("batch", batch), ("context", context)):
        require_limit(name, value)
    gamma = whole("gamma", gamma)
    batch, context = at_least_one("batch", batch), at_least_one("context", context)
    require_few_cells(gamma, batch, context, alpha, tokens_per_cycle)
    require_able(drafter, target, gamma)
    require_on_accelerator(drafter, system)
    acceptance, tau = acceptance_of_cycles(
        gamma, drafter, alpha, survival, tokens_per_cycle, acceptance
    )
    if routing_correlation is not None:
        if target.experts is None:
            raise SpecsimError(f"{target.name} has no experts whose routing could be correlated")
        routing_correlation = within("routing_correlation", routing_correlation, low=0.0, high=1.0)

    # a system of "auto" holds the target as its checkpoint stores it, and a draft model as its own,
    # which never lies on the host
    if top_p is not None and within("top_p", top_p, low=1e-9, high=1.0) < 1:
        system = replace(system, filtered=True)
    drafting_system, system = system.on_accelerator, system.storing(target)
    system.require_layers_of(target)
    engine = system.engine
    rows, share = verification_width(drafter, gamma, batch)
    workload = Workload(batch, context=context)
    plain = ModelPass(target, system, workload)
    wide = ModelPass(
        target, system, Workload(batch, rows, context, routing_correlation=routing_correlation)
    )
    drafted = np.where(gamma > 0, share, 0.0)  # of the passes carry drafts
    verification = Ledger(((drafted, wide), (1.0 - drafted, plain)))
    verify_s = verification.seconds
    host_s = engine.cycle_overhead_s + engine.sequence_overhead_s * batch
    refill_s = np.asarray(engine.cycle_refill_s)
    if np.any(refill_s):
        refill_s = refill_s * emptied(plain.work.weight_bytes)
    host_s = host_s + refill_s + engine.checking_overhead_s * target.vocab_size
    plain_overhead = (
        host_s + engine.begin_overhead_s + system.sampling_s(batch, batch, target.vocab_size)
    )
    wide_overhead = (
        host_s
        + np.where(gamma > 0, 0.0, engine.begin_overhead_s)
        + np.where(gamma > 0, (agreeing_s(system) + refill_s) * share, 0.0)
        + engine.verified_row_overhead_s * batch * share * (rows - 1)
        + system.sampling_s(batch * (1 + share * (rows - 1)), batch, target.vocab_size)
    )
    draft_step_s, overlapped_s = np.asarray(np.nan), np.zeros(())
    drafting = Ledger()
    if drafter is not None:
        draft_step_s = drafter.step(drafting_system, workload).seconds
        drafting = drafter.cycle(drafting_system, workload, gamma)
        if drafter.copies:
            drafting = drafting + Ledger.of(Wait(engine.begin_overhead_s)).times(gamma > 0)
        overlapped_s = np.asarray(drafter.overlapped_s(drafting_system, workload, gamma, verify_s))
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
        step_s=plain.seconds + plain_overhead,
        plain_overhead_s=np.asarray(plain_overhead),
        draft_step_s=full(draft_step_s),
        draft_s=full(draft_s),
        verify_step_s=full(verify_s),
        overhead_s=full(wide_overhead),
        tokens_per_cycle=full(tau),
        error=engine.error,
        tokens_error=np.asarray(tokens_error, float),
        overlapped_s=full(overlapped_s),
        plain=plain,
        verification=verification,
        drafting=drafting,
        extra_devices=0 if drafter is None else drafter.extra_devices,
        lossless=drafter is None or drafter.lossless,
        acceptance=acceptance,
    )


def chosen_gamma(
    asked: str | None,
    target: Architecture,
    drafter: Drafter | None,
    system: System,
    alpha: ArrayLike | None,
    survival: ArrayLike | None,
    tokens_per_cycle: ArrayLike | None,
    acceptance: Acceptance | None,
    **others: Any,
) -> Integers:
    """The best gamma of each scenario where "best" is asked for, or nothing but an acceptance for a
    drafter is said; else 0.

    Raises SpecsimError for another word, tokens per cycle (which belong to one gamma), no
    acceptance, and an acceptance model of arrays, which does not say how its axes are meant.
    """
    if asked not in (None, BEST):
        raise SpecsimError(f'gamma must be whole numbers >= 0 or "{BEST}", got {quoted(asked)}')
    given = any(each is not None for each in (alpha, survival, tokens_per_cycle, acceptance))
    if drafter is None or (asked is None and not given):
        return np.zeros((), dtype=np.int64)
    require_able(drafter, target, np.zeros((), dtype=np.int64))
    if tokens_per_cycle is not None:
        raise SpecsimError("tokens_per_cycle needs the gamma that it was measured at: give gamma")
    if not given:
        raise SpecsimError("the best gamma needs an acceptance: give alpha, survival or acceptance")
    gammas = drafter.gammas
    if survival is not None:
        vector = as_survival(survival)
        gammas, survival = drafter.gammas_within(vector.shape[-1]), vector[..., None, :]
    if isinstance(acceptance, PerPosition):
        gammas = drafter.gammas_within(np.shape(acceptance.vector)[-1])
    if acceptance is not None and np.ndim(acceptance.tokens_per_cycle(np.asarray(0))):
        raise SpecsimError("the best gamma needs an acceptance model of single numbers: give gamma")
    apart: dict[str, Any] = {
        name: value if value is None or name == "top_p" else np.asarray(value)[..., None]
        for name, value in ({"alpha": alpha} | others).items()
    }
    over = predict(
        target, drafter, system, gamma=gammas, survival=survival, acceptance=acceptance, **apart
    )
    return np.asarray(gammas[over.best()])


def agreeing_s(system: System) -> float | Floats:
    """Seconds in which drafts are decided on, and the devices agree on what is accepted: rounds of
    doubling partners."""
    rounds, engine = 1.0 + math.log2(system.tensor_parallel), system.engine
    by_distributions = 0.0 if system.greedy else engine.rule_overhead_s
    return engine.speculation_overhead_s * rounds + by_distributions


def require_few_cells(*arguments: ArrayLike | None) -> None:
    """SpecsimError if the arguments do not broadcast together, or to more cells than the limit."""
    shapes = [np.shape(each) for each in arguments if each is not None]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise SpecsimError(
            f"the arguments must broadcast together, got the shapes {', '.join(map(str, shapes))}"
        ) from None
    require_limit("cells", math.prod(shape), "the number of scenarios in one prediction")


def require_able(drafter: Drafter | None, target: Architecture, gamma: Integers) -> None:
    """SpecsimError unless `drafter` can draft `gamma` tokens for `target`."""
    if drafter is None:
        if np.any(gamma > 0):
            raise SpecsimError(
                "gamma > 0 needs a drafter: pass one, or predict plain decoding with gamma=0"
            )
        return
    if not isinstance(drafter, Drafter):
        raise SpecsimError(
            f"the drafter must be a specsim.drafting.Drafter, such as DraftModel(model), "
            f"not {type(drafter).__name__}"
        )
    drafter.require_vocabulary_of(target)
    if drafter.max_gamma is not None and np.any(gamma > drafter.max_gamma):
        raise SpecsimError(
            f"gamma = {gamma.max()}: this drafter can draft at most {drafter.max_gamma} tokens"
        )


def require_on_accelerator(drafter: Drafter | None, system: System) -> None:
    """SpecsimError if `drafter` needs layers of the target that lie on the host."""
    if system.offloaded_layers and drafter is not None and drafter.runs_target_layers:
        raise SpecsimError(
            "this method drafts with the target's own layers, which must not be left to the host: "
            "give a draft model, or offload no layers"
        )


def verification_width(
    drafter: Drafter | None, gamma: Integers, batch: Floats
) -> tuple[Floats, Floats]:
    """Rows per sequence of a pass that verifies drafts, and the share of the passes that do."""
    if drafter is None:
        return np.asarray(gamma, float) + 1.0, np.ones(())
    return drafter.verify_rows(gamma, batch), np.asarray(drafter.drafting_share(batch), float)


def acceptance_of_cycles(
    gamma: Integers,
    drafter: Drafter | None,
    alpha: ArrayLike | None,
    survival: ArrayLike | None,
    tokens_per_cycle: ArrayLike | None,
    acceptance: Acceptance | None,
) -> tuple[Acceptance | None, Floats]:
    """The acceptance of a cycle, None where only its mean is known, and tokens per cycle; from the
    one of the four that was given."""
    given = [value is not None for value in (alpha, survival, tokens_per_cycle, acceptance)]
    if sum(given) > 1:
        raise SpecsimError(
            "give acceptance once, as one of alpha, survival, tokens_per_cycle, acceptance"
        )
    if not any(given) and np.all(gamma == 0):
        return None, np.ones(gamma.shape)
    if tokens_per_cycle is not None:
        return None, within("tokens_per_cycle", tokens_per_cycle, low=1.0, high=gamma + 1)
    if acceptance is None:
        acceptance = as_acceptance(alpha=alpha, survival=survival)
    if drafter is not None:
        acceptance = drafter.acceptance_of(acceptance)
    return acceptance, np.asarray(acceptance.tokens_per_cycle(gamma))
