"""What a drafting method costs per cycle. What it does to acceptance is `acceptance`'s business."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.architecture import Architecture
from specsim.catalog import SpecsimError
from specsim.cost import step_time
from specsim.system import System
from specsim.work import precision as precision_named

Floats = NDArray[np.float64]

CATCH_UPS = ("row", "pass", "none")


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

    `catch_up` is how the draft's cache gets the last drafted token after a cycle in which all were
    accepted: "row", the first pass of a cycle reads two tokens, as `reference` does; "pass", an
    extra pass per cycle; "none", left out. The first two charge it to every cycle (punishes).
    `precision` names the format of its weights where it differs from the target's system.
    """

    architecture: Architecture
    precision: str | None = None
    catch_up: str = "row"

    def __post_init__(self) -> None:
        if self.catch_up not in CATCH_UPS:
            raise SpecsimError(
                f"catch_up must be one of {', '.join(CATCH_UPS)}, not {self.catch_up!r}"
            )
        if self.precision is not None:
            precision_named(self.precision)

    def require_vocabulary_of(self, target: Architecture) -> None:
        """SpecsimError unless draft and target can share a tokenizer.

        Some families pad the table of one vocabulary to different sizes (Qwen2.5: 151936 and
        152064), so up to 1 % apart passes.
        """
        draft = self.architecture
        if abs(draft.vocab_size - target.vocab_size) > 0.01 * target.vocab_size:
            raise SpecsimError(
                f"{draft.name} has {draft.vocab_size} tokens and {target.name} "
                f"{target.vocab_size}: a draft must share the target's vocabulary"
            )

    def step_s(
        self, system: System, *, batch: ArrayLike, context: ArrayLike, rows: int = 1
    ) -> Floats:
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
        if self.catch_up == "row":
            first = self.step_s(system, batch=batch, context=context, rows=2)
        elif self.catch_up == "pass":
            first = step + step
        begin_s = self._own(system).engine.drafting_overhead_s
        return np.where(gamma > 0, begin_s + first + (gamma - 1) * step, 0.0)

    def _own(self, system: System) -> System:
        return system if self.precision is None else system.with_precision(self.precision)
