"""What a drafting method costs per cycle. What it does to acceptance is `acceptance`'s business."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.architecture import Architecture
from specsim.cost import step_time
from specsim.system import System

Floats = NDArray[np.float64]


class Drafter(Protocol):
    """A drafting method, as the cost model sees it. Times are seconds for the whole batch."""

    def step_s(self, system: System, *, batch: ArrayLike, context: ArrayLike) -> Floats:
        """One draft step, where the method has such a thing."""

    def cycle_s(
        self, system: System, *, gamma: ArrayLike, batch: ArrayLike, context: ArrayLike
    ) -> Floats:
        """All drafting of one cycle of `gamma` tokens; 0 where gamma is 0."""


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A smaller model drafts, one pass per token (Leviathan et al., arXiv:2211.17192).

    `catch_up` is how the draft's cache gets the last drafted token after a cycle in which all were accepted: "row", the
    first pass of a cycle reads two tokens, as `reference` does; "pass", an extra pass per cycle; "none", left out.
    `precision` names the format of its weights where it differs from the target's system.
    """

    architecture: Architecture
    precision: str | None = None
    catch_up: str = "row"

    def step_s(self, system: System, *, batch: ArrayLike, context: ArrayLike, rows: int = 1) -> Floats:
        system = self._own(system)
        forward = step_time(self.architecture, system, batch=batch, rows=rows, context=context)
        logits = np.asarray(batch, float) * self.architecture.vocab_size
        sampling = system.engine.sampling_overhead_s + system.engine.logit_overhead_s * logits
        return forward.total_s + sampling

    def cycle_s(
        self, system: System, *, gamma: ArrayLike, batch: ArrayLike, context: ArrayLike
    ) -> Floats:
        gamma = np.asarray(gamma)
        step = self.step_s(system, batch=batch, context=context)
        first = step
        extra: ArrayLike = 0.0
        if self.catch_up == "row":
            first = self.step_s(system, batch=batch, context=context, rows=2)
        elif self.catch_up == "pass":
            extra = step
        return np.where(gamma > 0, first + extra + (gamma - 1) * step, 0.0)

    def _own(self, system: System) -> System:
        return system if self.precision is None else system.with_precision(self.precision)
