"""What a drafting method is to the cost model: a ledger, and what differs from the plain chain.

    cycle            all drafting of one cycle, an entry per kind of pass; nothing where gamma is 0
    step             one draft pass (or head), where the method has such a thing
    acceptance_of    the acceptance of a chain -> the acceptance of this method's cycles
    verify_rows      how wide the target's pass becomes, and `drafting_share` how many passes do
    overlapping      which of the drafting may run during the verification
    prompt_pass      how it reads a prompt into a cache of its own
    extra_devices    accelerators it occupies beyond the target's own
    held_bytes       the memory it takes on the target's
    lossless         whether the output distribution stays the target's

To bring your own, subclass `Drafter`, define `step`, and override what differs.
"""

from dataclasses import dataclass

import numpy as np

from specsim.acceptance import IID, Acceptance, Decaying, PerPosition, per_position
from specsim.architecture import Architecture
from specsim.checks import ArrayLike, Floats, Integers, SpecsimError, whole
from specsim.cost import Ledger, Wait
from specsim.hardware import System
from specsim.operators import Workload


class Drafter:
    """The plain chain: gamma drafts one after the other, then a pass of gamma + 1 rows.

    Times are seconds for the whole batch. The `workload` of each question is that of a plain
    decode step: its batch and its context, one row.
    """

    __slots__ = ()

    @property
    def lossless(self) -> bool:
        return True

    @property
    def extra_devices(self) -> int:
        return 0

    @property
    def runs_target_layers(self) -> bool:
        """Whether it drafts with the target's own layers, so that they must be where it is."""
        return False

    @property
    def copies(self) -> bool:
        """Whether drafts are copied from the text. What a cycle begins with is then no part of what
        beginning to draft takes."""
        return False

    @property
    def max_gamma(self) -> int | None:
        """The most tokens it can draft per cycle, where there is a limit."""
        return None

    @property
    def gammas(self) -> Integers:
        """The gammas to choose from when the best one is asked for, 0 first."""
        return np.arange((16 if self.max_gamma is None else self.max_gamma) + 1)

    def gammas_within(self, positions: int) -> Integers:
        """The same where acceptance is known for `positions` positions."""
        most = positions if self.max_gamma is None else min(positions, self.max_gamma)
        return np.arange(most + 1)

    def require_vocabulary_of(self, target: Architecture) -> None:
        """SpecsimError unless this method can draft for `target`."""

    def step(self, system: System, workload: Workload) -> Ledger:
        """One draft pass of `workload.rows` tokens for each sequence; every subclass has one."""
        raise SpecsimError(
            f"{type(self).__name__} does not say what a draft pass costs: define step"
        )

    def first_step(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        """The first pass of a cycle, with whatever begins a cycle."""
        return Ledger.of(Wait(system.engine.drafting_overhead_s)) + self.step(system, workload)

    def cycle(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        """All drafting of one cycle of `gamma` tokens."""
        gamma = np.asarray(gamma)
        first, step = self.first_step(system, workload, gamma), self.step(system, workload)
        return first.times(gamma > 0) + step.times(np.maximum(gamma - 1, 0))

    def acceptance_of(self, chain: Acceptance) -> Acceptance:
        """What the acceptance of a `chain` of drafts becomes in this method's cycles."""
        return chain

    def verify_rows(self, gamma: ArrayLike, batch: ArrayLike) -> Floats:
        """Rows per sequence, on average over the batch, of a pass that verifies drafts."""
        return np.asarray(gamma) + 1.0

    def drafting_share(self, batch: ArrayLike) -> ArrayLike:
        """The share of the target's passes that verify drafts; the others are plain."""
        return 1.0

    def overlapping(
        self, system: System, workload: Workload, gamma: ArrayLike
    ) -> tuple[float, Ledger]:
        """The share of cycles whose drafting runs during the verification, and that drafting."""
        return 0.0, Ledger()

    def overlapped_s(
        self, system: System, workload: Workload, gamma: ArrayLike, verify_s: Floats
    ) -> ArrayLike:
        """Seconds of the drafting that run during the verification."""
        share, drafting = self.overlapping(system, workload, gamma)
        return share * np.minimum(drafting.seconds, verify_s) if share else 0.0

    def prompt_pass(self, system: System, workload: Workload) -> Ledger:
        """The pass that reads `workload.rows` tokens of a prompt into the drafter's own cache, on
        the target's devices; nothing where it has no cache of its own."""
        return Ledger()

    def held_bytes(
        self, system: System, *, batch: ArrayLike, slots: ArrayLike, states: ArrayLike = 1
    ) -> tuple[ArrayLike, ArrayLike]:
        """Weight bytes and KV bytes on the fullest of the target's devices, in addition to the
        target's own, with `slots` tokens of each sequence cached. A recurrent draft keeps `states`
        states of each sequence, one after each token in flight."""
        return 0.0, 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What its numbers assume, in sentences."""
        return ()


class Around(Drafter):
    """A method that changes when or how `drafter` drafts. What it drafts, and how that is accepted,
    are the drafter's; rows, shares of the passes, devices and memory are its own.
    """

    __slots__ = ()
    drafter: Drafter

    @property
    def lossless(self) -> bool:
        return self.drafter.lossless

    @property
    def runs_target_layers(self) -> bool:
        return self.drafter.runs_target_layers

    @property
    def max_gamma(self) -> int | None:
        return self.drafter.max_gamma

    def require_vocabulary_of(self, target: Architecture) -> None:
        self.drafter.require_vocabulary_of(target)

    def step(self, system: System, workload: Workload) -> Ledger:
        return self.drafter.step(system, workload)

    def cycle(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        return self.drafter.cycle(system, workload, gamma)

    def prompt_pass(self, system: System, workload: Workload) -> Ledger:
        return self.drafter.prompt_pass(system, workload)

    def acceptance_of(self, chain: Acceptance) -> Acceptance:
        return self.drafter.acceptance_of(chain)


def candidates(drafter: Drafter, gammas: ArrayLike | None) -> Integers:
    """The gammas to choose from: those given, or all of the method's. SpecsimError if there is
    none."""
    found = drafter.gammas if gammas is None else np.atleast_1d(whole("gammas", gammas))
    if found.ndim != 1 or not len(found):
        raise SpecsimError(f"gammas must be at least one whole number, got shape {found.shape}")
    return found


@dataclass(frozen=True, slots=True)
class Mixed:
    """A share h of the cycles accepts as one model says, the rest as another, independently:
    s = h s1 + (1-h) s2.

    `Mixed(chain, IID(0.0), hit)` is a lookup that finds something in a share `hit` of the cycles.
    """

    first: Acceptance
    second: Acceptance
    share: ArrayLike

    def at(self, gamma: int) -> PerPosition:
        """The survival of cycles of `gamma` drafts, on which either model may depend."""
        share = np.asarray(self.share)[..., None]
        first, second = (
            np.asarray(per_position(one, gamma).vector, float) for one in (self.first, self.second)
        )
        return PerPosition(share * first + (1.0 - share) * second)

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
    each_s = system.engine.sampling_overhead_s
    return Wait(each_s + system.sampling_s(batch, batch, vocab))


def further_rows(system: System, batch: ArrayLike, rows: ArrayLike) -> Wait:
    """What a pass adds that drafts from `rows` rows of each sequence, beside drawing from one: the
    choice among the children of a tree's nodes, a token for every place of a block."""
    further = np.maximum(np.asarray(rows, float) - 1.0, 0.0)
    return Wait(system.engine.drafted_row_overhead_s * np.asarray(batch, float) * further)


def decayed(chain: Acceptance, decay: float) -> Acceptance:
    """A bare alpha is the acceptance of the first draft; each deeper one keeps `decay` of it. What
    says more (a survival vector, a trace) is left as it is."""
    return Decaying(chain.alpha, decay) if isinstance(chain, IID) and decay != 1.0 else chain
