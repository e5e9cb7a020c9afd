"""What a drafting method is to the cost model: a ledger, and what differs from the plain chain.

    cycle            all drafting of one cycle, an entry per kind of pass; nothing where gamma is 0
    step             one draft pass (or head), where the method has such a thing
    law              the acceptance of a chain -> the acceptance of this method's cycles
    verify_rows      how wide the target's pass becomes, and `drafting_share` how many passes do
    overlapped_s     how much of the drafting hides behind the verification
    extra_devices    accelerators it occupies beyond the target's own
    held_bytes       the memory it takes on the target's
    lossless         whether the output law stays the target's

`step_s` and `cycle_s` are the ledgers' seconds. A `Drafter` from outside may have these two alone;
then its bytes are not known, and everything else has the defaults of `Method`.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from specsim.acceptance import IID, Decaying, Law
from specsim.architecture import Architecture
from specsim.checks import Floats, Integers, SpecsimError, whole
from specsim.cost.ledger import Ledger, Uncounted, Wait
from specsim.hardware import System


class Drafter(Protocol):
    """A drafting method, as the cost model sees it. Times are seconds for the whole batch."""

    def step_s(self, system: System, *, batch: ArrayLike, context: ArrayLike) -> Floats:
        """One draft step, where the method has such a thing."""

    def cycle_s(
        self, system: System, *, gamma: ArrayLike, batch: ArrayLike, context: ArrayLike
    ) -> Floats:
        """All drafting of one cycle of `gamma` tokens; 0 where gamma is 0."""


class Method:
    """The plain chain: gamma drafts one after the other, then a pass of gamma + 1 rows."""

    __slots__ = ()

    @property
    def lossless(self) -> bool:
        return True

    @property
    def extra_devices(self) -> int:
        return 0

    @property
    def max_gamma(self) -> int | None:
        """The most tokens it can draft per cycle, where there is a limit."""
        return None

    @property
    def gammas(self) -> Integers:
        """The gammas worth looking at when the best one is asked for, 0 first."""
        return np.arange((16 if self.max_gamma is None else self.max_gamma) + 1)

    def gammas_within(self, positions: int) -> Integers:
        """The same where acceptance is known for so many positions."""
        most = positions if self.max_gamma is None else min(positions, self.max_gamma)
        return np.arange(most + 1)

    def require_vocabulary_of(self, target: Architecture) -> None:
        """SpecsimError unless this method can draft for `target`."""

    def step(
        self, system: System, *, batch: ArrayLike, context: ArrayLike, rows: ArrayLike = 1
    ) -> Ledger:
        """One draft pass of `rows` tokens for each sequence."""
        return Ledger()

    def first_step(
        self, system: System, *, gamma: ArrayLike, batch: ArrayLike, context: ArrayLike
    ) -> Ledger:
        """The first pass of a cycle, with whatever begins a cycle."""
        begin = Ledger.of(Wait(system.engine.drafting_overhead_s))
        return begin + self.step(system, batch=batch, context=context)

    def cycle(
        self, system: System, *, gamma: ArrayLike, batch: ArrayLike, context: ArrayLike
    ) -> Ledger:
        """All drafting of one cycle of `gamma` tokens."""
        gamma = np.asarray(gamma)
        first = self.first_step(system, gamma=gamma, batch=batch, context=context)
        step = self.step(system, batch=batch, context=context)
        return first.times(gamma > 0) + step.times(np.maximum(gamma - 1, 0))

    def step_s(self, system: System, *, batch: ArrayLike, context: ArrayLike) -> Floats:
        return self.step(system, batch=batch, context=context).seconds

    def cycle_s(
        self, system: System, *, gamma: ArrayLike, batch: ArrayLike, context: ArrayLike
    ) -> Floats:
        return self.cycle(system, gamma=gamma, batch=batch, context=context).seconds

    def law(self, law: Law) -> Law:
        return law

    def verify_rows(self, gamma: ArrayLike, batch: ArrayLike) -> Floats:
        """Rows per sequence, on average over the batch, of a pass that verifies drafts."""
        return np.asarray(gamma) + 1.0

    def drafting_share(self, batch: ArrayLike) -> ArrayLike:
        """The share of the target's passes that verify drafts; the others are plain."""
        return 1.0

    def overlapped_s(
        self,
        system: System,
        *,
        gamma: ArrayLike,
        batch: ArrayLike,
        context: ArrayLike,
        verify_s: Floats,
    ) -> ArrayLike:
        return 0.0

    def held_bytes(
        self, system: System, *, batch: ArrayLike, slots: ArrayLike
    ) -> tuple[ArrayLike, ArrayLike]:
        """Weight bytes and KV bytes on the fullest of the target's devices, beside the target's
        own, with `slots` tokens of each sequence cached."""
        return 0.0, 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What its numbers assume, in sentences."""
        return ()


class Around(Method):
    """A method that changes when or how `drafter` drafts; what it does not define is the drafter's.

    Memory is the exception: a subclass says whether the drafter lies on the target's devices.
    """

    __slots__ = ()
    drafter: Drafter

    @property
    def lossless(self) -> bool:
        return as_method(self.drafter).lossless

    @property
    def max_gamma(self) -> int | None:
        return as_method(self.drafter).max_gamma

    def require_vocabulary_of(self, target: Architecture) -> None:
        as_method(self.drafter).require_vocabulary_of(target)

    def step(
        self, system: System, *, batch: ArrayLike, context: ArrayLike, rows: ArrayLike = 1
    ) -> Ledger:
        return as_method(self.drafter).step(system, batch=batch, context=context, rows=rows)

    def cycle(
        self, system: System, *, gamma: ArrayLike, batch: ArrayLike, context: ArrayLike
    ) -> Ledger:
        return as_method(self.drafter).cycle(system, gamma=gamma, batch=batch, context=context)

    def law(self, law: Law) -> Law:
        return as_method(self.drafter).law(law)


class Foreign(Method):
    """A drafter from outside that has the prices, and of the rest only what differs."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter

    def __getattribute__(self, name: str) -> Any:
        drafter = object.__getattribute__(self, "_drafter")
        if name != "_drafter" and hasattr(drafter, name):
            return getattr(drafter, name)
        return object.__getattribute__(self, name)

    def step(
        self, system: System, *, batch: ArrayLike, context: ArrayLike, rows: ArrayLike = 1
    ) -> Ledger:
        return self._priced(self._drafter.step_s(system, batch=batch, context=context))

    def cycle(
        self, system: System, *, gamma: ArrayLike, batch: ArrayLike, context: ArrayLike
    ) -> Ledger:
        drafter = self._drafter
        return self._priced(drafter.cycle_s(system, gamma=gamma, batch=batch, context=context))

    def _priced(self, seconds: ArrayLike) -> Ledger:
        return Ledger.of(Uncounted(type(self._drafter).__name__, seconds))


def as_method(drafter: Drafter) -> Method:
    """The drafter with a default for every question it does not answer itself."""
    return drafter if isinstance(drafter, Method) else Foreign(drafter)


def candidates(drafter: Drafter, gammas: ArrayLike | None) -> Integers:
    """The gammas to choose from: those given, or all of the method's. SpecsimError if there is
    none."""
    found = as_method(drafter).gammas if gammas is None else np.atleast_1d(whole("gammas", gammas))
    if found.ndim != 1 or not len(found):
        raise SpecsimError(f"gammas must be at least one whole number, got shape {found.shape}")
    return found


@dataclass(frozen=True, slots=True)
class Mixed:
    """A share of the cycles follows one law, the rest another, independently: s = h s1 + (1-h) s2.

    `Mixed(law, IID(0.0), hit)` is a lookup that finds something in a share `hit` of the cycles.
    """

    first: Law
    second: Law
    share: ArrayLike

    def survival(self, k: ArrayLike) -> Floats:
        share = np.asarray(self.share)
        return share * self.first.survival(k) + (1.0 - share) * self.second.survival(k)

    def tokens_per_cycle(self, gamma: ArrayLike) -> Floats:
        # as 1 + ..., so that gamma = 0 gives exactly 1
        share, gamma = np.asarray(self.share), np.asarray(gamma)
        first = share * (self.first.tokens_per_cycle(gamma) - 1.0)
        return 1.0 + first + (1.0 - share) * (self.second.tokens_per_cycle(gamma) - 1.0)


def sampling(system: System, batch: ArrayLike, vocab: int) -> Wait:
    """Drawing a token for each sequence from the logits of a draft pass."""
    engine = system.engine
    logits = np.asarray(batch, float) * vocab
    return Wait(engine.sampling_overhead_s + engine.logit_overhead_s * logits)


def decayed(law: Law, decay: float) -> Law:
    """A bare alpha is the acceptance of the first draft; deeper ones keep `decay` of it each. A law
    that says more (a survival vector, a trace) is left as it is."""
    return Decaying(law.alpha, decay) if isinstance(law, IID) and decay != 1.0 else law


def require_vocabulary(name: str, vocab_size: int, target: Architecture) -> None:
    """SpecsimError unless a drafter of `vocab_size` tokens can share the target's tokenizer.

    Some families pad the table of one vocabulary to different sizes (Qwen2.5: 151936 and 152064),
    so up to 1 % apart passes.
    """
    if abs(vocab_size - target.vocab_size) > 0.01 * target.vocab_size:
        raise SpecsimError(
            f"{name} has {vocab_size} tokens and {target.name} {target.vocab_size}: "
            "a draft must share the target's vocabulary"
        )
