"""A whole model drafts, one pass per token: a smaller one, or the target itself made cheaper."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from specsim.architecture import Architecture, require_tokenizer_of
from specsim.checks import ArrayLike, SpecsimError, require_count, require_share
from specsim.checks.limits import require_limit
from specsim.cost import Ledger, ModelPass, Wait
from specsim.drafting.drafter import Drafter, sampling
from specsim.hardware import System
from specsim.operators import (
    AUTO,
    PLAIN_STEP,
    Precision,
    Sharding,
    Workload,
    cache_bytes,
    forward_work,
    precision_of,
    stored_weight_bytes,
)
from specsim.operators import precision as precision_named

CATCH_UPS = ("row", "pass", "none")
UNQUANTISED = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class DraftModel(Drafter):
    """A smaller model drafts, one pass per token (Leviathan et al., arXiv:2211.17192).

    `catch_up` is how the draft's cache gets the last drafted token after a cycle in which all were
    accepted: "row", the first pass of a cycle reads two tokens, as `reference` does; "pass", an
    extra pass per cycle; "none", left out. The first two charge it to every cycle
    (pessimistic).
    `precision` names the format of its weights ("auto": that of its own checkpoint; where that says
    nothing, of the activations), and `tensor_parallel` the devices it is split over, where they
    differ from the target's system. `window` is how many tokens of context it keeps, if
    not all (StreamingLLM-style drafts of long contexts). A draft small enough stays in the last
    cache from one pass of a cycle to the next (`System.after_own_pass`); the first pass of a cycle
    finds it pushed out by the target.
    """

    architecture: Architecture
    precision: str | None = None
    catch_up: str = "row"
    tensor_parallel: int | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if self.catch_up not in CATCH_UPS:
            raise SpecsimError(
                f"catch_up must be one of {', '.join(CATCH_UPS)}, not {self.catch_up!r}"
            )
        if self.precision is not None:
            precision_named(self.precision)
        for name in ("tensor_parallel", "window"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))
                limit = "context" if name == "window" else name
                require_limit(limit, getattr(self, name), name)

    def require_vocabulary_of(self, target: Architecture) -> None:
        require_tokenizer_of(target, self.architecture)

    def step(self, system: System, workload: Workload) -> Ledger:
        return self._pass(self.priced_on(system), workload)

    def _pass(self, system: System, workload: Workload) -> Ledger:
        drafting = ModelPass(self.architecture, system, workload.within(self.window))
        return Ledger.of(
            drafting,
            Wait(system.engine.draft_model_overhead_s),
            sampling(system, workload.batch, self.architecture.vocab_size),
        )

    def first_step(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        rows = 2 if self.catch_up == "row" else 1
        first = self.step(system, workload.of_rows(rows))
        if self.catch_up == "pass":
            first = first.times(2)
        return Ledger.of(Wait(self.priced_on(system).engine.drafting_overhead_s)) + first

    def cycle(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        gamma = np.asarray(gamma)
        own = self.priced_on(system)
        again = own.after_own_pass(_streamed(self.architecture, own.precision, own.sharding))
        first, step = self.first_step(system, workload, gamma), self._pass(again, workload)
        return first.times(gamma > 0) + step.times(np.maximum(gamma - 1, 0))

    def prompt_pass(self, system: System, workload: Workload) -> Ledger:
        return self.step(system, workload)

    def held_bytes(
        self, system: System, *, batch: ArrayLike, slots: ArrayLike, states: ArrayLike = 1
    ) -> tuple[ArrayLike, ArrayLike]:
        own, kept = self.priced_on(system), np.asarray(slots, float)
        if self.window is not None:
            kept = np.minimum(kept, self.window)
        weights = stored_weight_bytes(self.architecture, own.precision, own.sharding)
        caches = cache_bytes(
            self.architecture, own.precision,
            batch=batch, slots=kept, tensor_parallel=own.tensor_parallel, states=states,
        )  # fmt: skip
        return weights, caches

    def priced_on(self, system: System) -> System:
        """The target's system as it holds the draft: in its own precision, on its own devices."""
        if self.precision == AUTO:
            system = in_its_own(self.architecture, system)
        elif self.precision is not None:
            system = system.with_precision(self.precision)
        return split_over(system.storing(self.architecture), self.tensor_parallel)


@lru_cache(maxsize=256)
def _streamed(model: Architecture, stored: Precision, sharding: Sharding) -> float:
    """Bytes of weights that a device reads in a plain step of one sequence."""
    return float(forward_work(model, PLAIN_STEP, stored, sharding).weight_bytes)


def in_its_own(model: Architecture, system: System) -> System:
    """The system as it holds a draft in the precision of the draft's own checkpoint. One that says
    nothing is in the activations' format: the target's, where that is not quantised."""
    if model.stored is None and system.precision.name in UNQUANTISED:
        return system
    return system.with_precision(precision_of(model))


def split_over(system: System, devices: int | None) -> System:
    """The system with its models split over `devices`; None leaves it as it is."""
    return system if devices is None else replace(system, tensor_parallel=devices)


@dataclass(frozen=True, slots=True)
class EarlyExit(Drafter):
    """The target's own first layers draft, through its LM head (LayerSkip, arXiv:2404.16710).

    `kept` is the fraction of the layers: an early exit keeps the first, layer skipping (Draft &
    Verify, arXiv:2309.08168) any. The cache is the target's, so there is nothing to catch up with.
    A verification that resumes from the exit layer would save that fraction of its first row: not
    counted (pessimistic).
    """

    target: Architecture
    kept: float = 0.5

    def __post_init__(self) -> None:
        require_share("kept", self.kept)
        if self.kept == 0.0:
            raise SpecsimError("kept must be above 0: a draft needs a layer")

    @property
    def architecture(self) -> Architecture:
        return self.target.first_layers(max(1, round(self.kept * self.target.num_layers)))

    @property
    def runs_target_layers(self) -> bool:
        return True

    def require_vocabulary_of(self, target: Architecture) -> None:
        require_tokenizer_of(target, self.target)

    def step(self, system: System, workload: Workload) -> Ledger:
        return DraftModel(self.architecture).step(system, workload)


@dataclass(frozen=True, slots=True)
class QuantisedSelf(Drafter):
    """The target drafts for itself with its weights in a smaller format (QuantSpec,
    arXiv:2502.10424). It shares the target's cache: nothing to catch up with.

    Both copies of the weights must fit. Acceptance is very high; the cost is a whole model's
    overheads and cache, whatever the format, so gains stay below 1 / (relative cost).
    """

    target: Architecture
    precision: str = "int4"

    def __post_init__(self) -> None:
        precision_named(self.precision)

    @property
    def runs_target_layers(self) -> bool:
        return True

    def require_vocabulary_of(self, target: Architecture) -> None:
        require_tokenizer_of(target, self.target)

    def step(self, system: System, workload: Workload) -> Ledger:
        return DraftModel(self.target, precision=self.precision).step(system, workload)

    def held_bytes(
        self, system: System, *, batch: ArrayLike, slots: ArrayLike, states: ArrayLike = 1
    ) -> tuple[ArrayLike, ArrayLike]:
        own = system.with_precision(self.precision)
        return stored_weight_bytes(self.target, own.precision, own.sharding), 0.0
