"""Drafting while the target verifies, on devices of its own: PEARL and SSD.

What they gain is latency bought with hardware, so compare `Prediction.speedup_per_device`. The
drafter has one device, whatever the target is split over, or as many as its `tensor_parallel` says.
"""

from dataclasses import dataclass, replace

from specsim.acceptance import Acceptance
from specsim.architecture import Architecture
from specsim.checks import ArrayLike, require_share
from specsim.cost import Ledger
from specsim.drafting.drafter import Around, Drafter, Mixed
from specsim.hardware import System
from specsim.operators import Workload


class Elsewhere(Around):
    """A `drafter` on devices of its own."""

    __slots__ = ()

    @property
    def extra_devices(self) -> int:
        return getattr(self.drafter, "tensor_parallel", None) or 1

    def there(self, system: System) -> System:
        """The target's system as one device of the drafter's is, or as its own `tensor_parallel`
        makes of it."""
        return replace(system, tensor_parallel=1)

    def step(self, system: System, workload: Workload) -> Ledger:
        return self.drafter.step(self.there(system), workload)

    def prompt_pass(self, system: System, workload: Workload) -> Ledger:
        return Ledger()  # on the other devices, while the target reads it


@dataclass(frozen=True, slots=True)
class Pearl(Elsewhere):
    """The next drafts are made during the verification: a cycle takes the longer of the two
    (PEARL, arXiv:2408.11850).

    An upper bound (optimistic): after a rejection the drafts in flight are void, and the two
    sides are assumed never to slow each other down.
    """

    drafter: Drafter

    def cycle(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        return self.drafter.cycle(self.there(system), workload, gamma)

    def overlapping(
        self, system: System, workload: Workload, gamma: ArrayLike
    ) -> tuple[float, Ledger]:
        return 1.0, self.cycle(system, workload, gamma)

    @property
    def notes(self) -> tuple[str, ...]:
        return (
            "Drafting and verification overlap perfectly, on separate devices: an upper bound, to "
            "be compared per device.",
            *self.drafter.notes,
        )


@dataclass(frozen=True, slots=True)
class SSD(Elsewhere):
    """Drafts for the likely outcomes are prepared during the verification (Speculative Speculative
    Decoding, arXiv:2603.03251): with probability `hit` the next cycle's drafts are ready.

    speedup = [h E + (1-h) E'] / [h max(1, T) + (1-h)(1 + T')], in units of a verification: T, E are
    the drafter's time and tokens, T', E' those of `backup`, which drafts when nothing is ready
    (None: the drafter itself) under `backup_acceptance` (None: as the drafter's).
    """

    drafter: Drafter
    hit: float = 0.8
    backup: Drafter | None = None
    backup_acceptance: Acceptance | None = None

    def __post_init__(self) -> None:
        require_share("hit", self.hit)

    @property
    def lossless(self) -> bool:
        both = (self.drafter, self.backup or self.drafter)
        return all(one.lossless for one in both)

    def require_vocabulary_of(self, target: Architecture) -> None:
        for one in (self.drafter, self.backup or self.drafter):
            one.require_vocabulary_of(target)

    def cycle(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        there = self.there(system)
        ready = self.drafter.cycle(there, workload, gamma)
        late = (self.backup or self.drafter).cycle(there, workload, gamma)
        return ready.times(self.hit) + late.times(1.0 - self.hit)

    def acceptance_of(self, chain: Acceptance) -> Acceptance:
        own = self.drafter.acceptance_of(chain)
        other = self.backup_acceptance
        if other is None:
            other = (self.backup or self.drafter).acceptance_of(chain)
        return Mixed(own, other, self.hit)

    def overlapping(
        self, system: System, workload: Workload, gamma: ArrayLike
    ) -> tuple[float, Ledger]:
        return self.hit, self.drafter.cycle(self.there(system), workload, gamma)

    @property
    def notes(self) -> tuple[str, ...]:
        return (
            f"The next drafts are ready in {self.hit:.0%} of the cycles, made on devices of their "
            "own: compare per device.",
            *self.drafter.notes,
        )
