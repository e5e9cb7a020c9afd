"""Several drafters together: a cascade, where one drafts for the next, and an ensemble."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from specsim.acceptance import IID
from specsim.architecture import Architecture
from specsim.checks import ArrayLike, SpecsimError, require_count, require_share
from specsim.cost import Ledger
from specsim.drafting.drafter import Drafter
from specsim.hardware import System
from specsim.operators import Workload


def held_together(
    drafters: Sequence[Drafter],
    system: System,
    *,
    batch: ArrayLike,
    slots: ArrayLike,
    states: ArrayLike = 1,
) -> tuple[ArrayLike, ArrayLike]:
    """Weight and KV bytes of several drafters on one device."""
    held = [one.held_bytes(system, batch=batch, slots=slots, states=states) for one in drafters]
    weights, caches = zip(*held, strict=True)
    return np.sum(weights, axis=0), reduce(np.add, caches)


@dataclass(frozen=True, slots=True)
class Cascade(Drafter):
    """The middle model's drafts are themselves made speculatively, by a still cheaper drafter.

    A drafted token costs (g2 drafts + one middle pass of g2 + 1 rows) / E(alpha12, g2): the price
    of the middle model, sped up. Survival is the middle model's: its output distribution is exact.
    `inner_alpha` is the acceptance between the two drafters. The last inner cycle of a draft is
    not rounded up (optimistic). Source: Cascade Speculative Drafting (arXiv:2312.11462).
    """

    middle: Drafter
    inner: Drafter
    inner_gamma: int = 3
    inner_alpha: float = 0.6

    def __post_init__(self) -> None:
        require_count("inner_gamma", self.inner_gamma)
        require_share("inner_alpha", self.inner_alpha)

    @property
    def runs_target_layers(self) -> bool:
        return self.middle.runs_target_layers or self.inner.runs_target_layers

    def require_vocabulary_of(self, target: Architecture) -> None:
        for drafter in (self.middle, self.inner):
            drafter.require_vocabulary_of(target)

    def step(self, system: System, workload: Workload) -> Ledger:
        gamma = self.inner_gamma
        drafting = self.inner.cycle(system, workload, gamma)
        verifying = self.middle.step(system, workload.of_rows(gamma + 1))
        tokens = self.inner.acceptance_of(IID(self.inner_alpha)).tokens_per_cycle(gamma)
        return (drafting + verifying).times(1.0 / tokens)

    def prompt_pass(self, system: System, workload: Workload) -> Ledger:
        both = (self.middle, self.inner)
        return reduce(add, (one.prompt_pass(system, workload) for one in both))

    def held_bytes(
        self, system: System, *, batch: ArrayLike, slots: ArrayLike, states: ArrayLike = 1
    ) -> tuple[ArrayLike, ArrayLike]:
        return held_together(
            (self.middle, self.inner), system, batch=batch, slots=slots, states=states
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return (
            f"The draft model's own tokens are drafted {self.inner_gamma} at a time, accepted with "
            f"probability {self.inner_alpha:g}.",
        )


@dataclass(frozen=True, slots=True)
class Ensemble(Drafter):
    """Several drafters propose, and one draw from the mean of their distributions is the draft.

    It costs all of them, one after the other (pessimistic where they share a device well). The
    acceptance is the mixture's and has to be measured: overlap with a mean is at least the mean
    overlap.
    """

    drafters: tuple[Drafter, ...]

    def __post_init__(self) -> None:
        if not self.drafters:
            raise SpecsimError("an ensemble needs at least one drafter")

    @property
    def runs_target_layers(self) -> bool:
        return any(one.runs_target_layers for one in self.drafters)

    def require_vocabulary_of(self, target: Architecture) -> None:
        for drafter in self.drafters:
            drafter.require_vocabulary_of(target)

    def step(self, system: System, workload: Workload) -> Ledger:
        return reduce(add, (one.step(system, workload) for one in self.drafters))

    def cycle(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        return reduce(add, (one.cycle(system, workload, gamma) for one in self.drafters))

    def prompt_pass(self, system: System, workload: Workload) -> Ledger:
        return reduce(add, (one.prompt_pass(system, workload) for one in self.drafters))

    def held_bytes(
        self, system: System, *, batch: ArrayLike, slots: ArrayLike, states: ArrayLike = 1
    ) -> tuple[ArrayLike, ArrayLike]:
        return held_together(self.drafters, system, batch=batch, slots=slots, states=states)
