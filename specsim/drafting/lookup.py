"""Nothing is computed: the draft is copied from the prompt or from earlier output."""

from dataclasses import dataclass

import numpy as np

from specsim.acceptance import IID, Acceptance
from specsim.checks import ArrayLike, Floats, SpecsimError, require_share
from specsim.cost import Ledger, Wait
from specsim.drafting.drafter import Drafter, Mixed
from specsim.hardware import System
from specsim.operators import Workload

SEARCH_S = 50e-6  # seconds of a search, assumed where no calibration timed it


@dataclass(frozen=True, slots=True)
class Lookup(Drafter):
    """N-gram, prompt-lookup and suffix drafting: a match is found in a share `hit` of the cycles.

    An alpha or a survival vector is that of cycles with a hit; tokens per cycle = 1 + hit * (sum of
    the survivals). `host_s` is the search, once per cycle for the whole batch: by default what the
    engine's calibration timed, or `SEARCH_S`.

    Without `pad`, a sequence that found nothing sends one row, so at batch 1 a miss is a plain
    step. In a batch, a pass is plain only if nobody found anything; else it is priced at its mean
    width (slightly optimistic: the price is convex in the width). With `pad` every sequence sends
    gamma + 1 rows, as static shapes do.
    """

    hit: float = 0.4
    host_s: float | None = None
    pad: bool = False

    def __post_init__(self) -> None:
        require_share("hit", self.hit)
        if self.host_s is not None and not 0.0 <= self.host_s < float("inf"):
            raise SpecsimError(f"host_s must be seconds >= 0, got {self.host_s!r}")

    @property
    def copies(self) -> bool:
        return True

    def step(self, system: System, workload: Workload) -> Ledger:
        return Ledger()  # no pass of a model

    def cycle(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        timed_s = system.engine.lookup_overhead_s or SEARCH_S
        search = Wait(timed_s if self.host_s is None else self.host_s)
        return Ledger.of(search).times(np.asarray(gamma) > 0)

    def acceptance_of(self, chain: Acceptance) -> Acceptance:
        return Mixed(chain, IID(0.0), self.hit)

    def verify_rows(self, gamma: ArrayLike, batch: ArrayLike) -> Floats:
        gamma = np.asarray(gamma)
        if self.pad:
            return gamma + 1.0
        anyone = np.asarray(self.drafting_share(batch))
        return 1.0 + gamma * self.hit / np.where(anyone > 0, anyone, 1.0)

    def drafting_share(self, batch: ArrayLike) -> ArrayLike:
        return 1.0 if self.pad else 1.0 - (1.0 - self.hit) ** np.asarray(batch, float)

    @property
    def notes(self) -> tuple[str, ...]:
        if self.host_s is None:
            search = f"{SEARCH_S * 1e6:g} us of host time, or what the calibration timed"
        else:
            search = f"{self.host_s * 1e6:g} us of host time"
        return (
            f"A match is found in {self.hit:.0%} of the cycles, and the acceptance is that of "
            f"cycles with a match; the search takes {search}.",
        )
