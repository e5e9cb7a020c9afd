"""A small head on the target's own features drafts: Medusa, EAGLE, MTP, and blocks in one pass.

What they cost is mostly the LM head: on an 8B model a layer is 218 M parameters, the projection of
the features 34 M, the LM head 525 M. A reduced draft vocabulary cuts that term alone.
"""

from dataclasses import dataclass, replace

import numpy as np

from specsim.acceptance import Acceptance
from specsim.architecture import Architecture, DraftHead, require_tokenizer_of
from specsim.checks import ArrayLike, Floats, SpecsimError, require_count, require_share
from specsim.checks.limits import require_limit
from specsim.cost import Ledger, ModelPass, Product, Wait
from specsim.drafting.drafter import Drafter, decayed, further_rows, sampling
from specsim.drafting.models import in_its_own, split_over
from specsim.hardware import System
from specsim.operators import AUTO, Workload, body_bytes, cache_bytes
from specsim.operators import precision as precision_named


@dataclass(frozen=True, slots=True)
class Eagle(Drafter):
    """One decoder layer on the target's features drafts autoregressively (EAGLE, arXiv:2401.15077;
    EAGLE-3, arXiv:2503.01840; MTP modules, arXiv:2412.19437, are the same shape).

    `features`: how many hidden vectors the projection fuses into one (2: embedding and feature; 3
    and the embedding for EAGLE-3). `draft_vocab`: tokens of a reduced LM head; None, the target's.
    The first pass of a cycle reads the verified rows, gamma + 1 of them, padded (pessimistic, a
    little). Its layer is in the target's precision, dense, and attends to all tokens also where the
    target's are recurrent or have a window; `own_layer` makes it one of the target's (the mixture
    of experts of an MTP module). `decay`: the acceptance kept per depth, since deeper drafts stand
    on drafted features.
    """

    target: Architecture
    features: int = 2
    draft_vocab: int | None = None
    decay: float = 1.0
    layers: int = 1
    own_layer: bool = False

    def __post_init__(self) -> None:
        require_share("decay", self.decay)
        require_count("features", self.features)
        require_count("layers", self.layers)
        require_limit("children", self.features, "the features of a head")
        require_limit("layers", self.layers)
        if self.own_layer and self.layers != 1:
            raise SpecsimError(f"an MTP module is one layer of the target's, not {self.layers}")
        if self.draft_vocab is not None:
            require_count("draft_vocab", self.draft_vocab)
            if self.draft_vocab > self.target.vocab_size:
                raise SpecsimError(
                    f"draft_vocab must be a part of the {self.target.vocab_size} tokens of "
                    f"{self.target.name}, got {self.draft_vocab}"
                )

    @property
    def architecture(self) -> Architecture:
        vocab = self.target.vocab_size if self.draft_vocab is None else self.draft_vocab
        body = self.target.mtp_module
        if not self.own_layer:
            body = self.target.plain_layers(min(self.layers, self.target.num_layers))
            body = replace(body, experts=None)
        return replace(body, name=f"head of {self.target.name}", vocab_size=vocab)

    def require_vocabulary_of(self, target: Architecture) -> None:
        require_tokenizer_of(target, self.target, f"the head of {self.target.name}")

    def step(self, system: System, workload: Workload) -> Ledger:
        head, system = self.architecture, system.storing(self.target)
        tokens = np.asarray(workload.batch, float) * np.asarray(workload.rows, float)
        return Ledger.of(
            ModelPass(head, system, workload),
            Product(system, self.features * self.target.hidden_size**2, tokens),
            sampling(system, workload.batch, head.vocab_size),
        )

    def prompt_pass(self, system: System, workload: Workload) -> Ledger:
        return self.step(system, workload)

    def first_step(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        begin = Ledger.of(Wait(system.engine.drafting_overhead_s))
        return begin + self.step(system, workload.of_rows(np.asarray(gamma) + 1))

    def held_bytes(
        self, system: System, *, batch: ArrayLike, slots: ArrayLike, states: ArrayLike = 1
    ) -> tuple[ArrayLike, ArrayLike]:
        """The layers, the projection and a reduced LM head; embedding and full LM head are the
        target's own."""
        system = system.storing(self.target)
        head, stored, devices = self.architecture, system.precision, system.tensor_parallel
        held = body_bytes(head, stored, system.sharding)
        held += self.features * head.hidden_size**2 * stored.weight_bytes / devices
        if self.draft_vocab is not None:
            held += head.embedding_parameters * stored.bytes_per_head_weight / devices
        caches = cache_bytes(head, stored, batch=batch, slots=slots, tensor_parallel=devices)
        return held, caches

    def acceptance_of(self, chain: Acceptance) -> Acceptance:
        return decayed(chain, self.decay)

    @property
    def notes(self) -> tuple[str, ...]:
        if self.decay == 1.0:
            return ()
        return (f"alpha is the first draft's; each deeper one keeps {self.decay:g} of it.",)


@dataclass(frozen=True, slots=True)
class ParallelBlock(Eagle):
    """All drafts of a cycle in one pass of gamma rows: flat in gamma until arithmetic binds
    (P-EAGLE, arXiv:2602.01469; DFlash, arXiv:2602.06036; PARD).

    No draft sees the one before it, so acceptance decays along the block: `decay`. `block` is the
    size of a published head's block, whose first token is the target's own: it drafts one fewer.
    """

    block: int | None = None

    @property
    def max_gamma(self) -> int | None:
        return None if self.block is None else self.block - 1

    def cycle(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        gamma = np.asarray(gamma)
        block = self.step(system, workload.of_rows(np.maximum(gamma, 1)))
        begin = Ledger.of(
            Wait(system.engine.drafting_overhead_s), further_rows(system, workload.batch, gamma)
        )
        return (begin + block).times(gamma > 0)


@dataclass(frozen=True, slots=True)
class TrainedHead(Drafter):
    """A head as its own config describes it (EAGLE, EAGLE-3, MTP, P-EAGLE, DFlash and other block
    drafters): its own layers, projections and vocabulary, in its own precision.

    A chain's first pass of a cycle reads the verified rows, gamma + 1 of them, padded (pessimistic,
    a little), and fuses their states; a head that drafts in one pass reads them with its masks.
    `precision` names the format of its weights; None and "auto": what its own checkpoint says, 16
    bits where that says nothing. An LM head that is the target's is in the target's format.
    `decay`: the acceptance kept per depth or position.
    """

    head: DraftHead
    target: Architecture
    decay: float = 1.0
    precision: str | None = None
    tensor_parallel: int | None = None

    def __post_init__(self) -> None:
        require_share("decay", self.decay)
        if self.precision is not None:
            precision_named(self.precision)

    @property
    def architecture(self) -> Architecture:
        return self.head.body

    @property
    def max_gamma(self) -> int | None:
        return self.head.drafts

    def require_vocabulary_of(self, target: Architecture) -> None:
        require_tokenizer_of(target, self.target, f"the head {self.head.body.name}")

    def priced_on(self, system: System) -> System:
        """The target's system as it holds the head: in its own precision, on its own devices."""
        system = system.storing(self.target)
        if self.precision in (None, AUTO):
            own = in_its_own(self.head.body, system)
        else:
            own = system.with_precision(self.precision)
        if not self.head.own_head:
            shared = system.precision.bytes_per_head_weight
            own = replace(own, precision=replace(own.precision, head_bytes=shared))
        return split_over(own, self.tensor_parallel)

    def step(self, system: System, workload: Workload) -> Ledger:
        """A first pass: it fuses the target's states. Later ones of a chain do not."""
        own = self.priced_on(system)
        fusing = Product(own, self.head.first_pass, _tokens(workload))
        return self._later_step(system, workload) + Ledger.of(fusing)

    def _later_step(self, system: System, workload: Workload) -> Ledger:
        own, body = self.priced_on(system), self.head.body
        return Ledger.of(
            ModelPass(body, own, workload),
            Product(own, self.head.every_pass, _tokens(workload)),
            sampling(own, workload.batch, body.vocab_size),
        )

    def prompt_pass(self, system: System, workload: Workload) -> Ledger:
        return self.step(system, workload)

    def first_step(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        begin = Ledger.of(Wait(system.engine.drafting_overhead_s))
        return begin + self.step(system, workload.of_rows(np.asarray(gamma) + 1))

    def cycle(self, system: System, workload: Workload, gamma: ArrayLike) -> Ledger:
        gamma = np.asarray(gamma)
        first = self.first_step(system, workload, np.maximum(gamma, 1)).times(gamma > 0)
        if self.head.in_one_pass:
            further = further_rows(system, workload.batch, gamma)
            return first + Ledger.of(further).times(gamma > 0)
        return first + self._later_step(system, workload).times(np.maximum(gamma - 1, 0))

    def held_bytes(
        self, system: System, *, batch: ArrayLike, slots: ArrayLike, states: ArrayLike = 1
    ) -> tuple[ArrayLike, ArrayLike]:
        """Its layers, its projections, and an LM head of its own; the embedding is the target's."""
        own, body = self.priced_on(system), self.head.body
        devices, projections = own.tensor_parallel, self.head.every_pass + self.head.first_pass
        held = body_bytes(body, own.precision, own.sharding)
        held += projections * own.precision.weight_bytes / devices
        if self.head.own_head:
            held += body.embedding_parameters * own.precision.bytes_per_head_weight / devices
        caches = cache_bytes(
            body,
            own.precision,
            batch=batch,
            slots=slots,
            tensor_parallel=devices,
            states=states,
        )
        return held, caches

    def acceptance_of(self, chain: Acceptance) -> Acceptance:
        return decayed(chain, self.decay)

    @property
    def notes(self) -> tuple[str, ...]:
        if self.decay == 1.0:
            return self.head.notes
        decay = f"alpha is the first draft's; each deeper one keeps {self.decay:g} of it."
        return (*self.head.notes, decay)


def _tokens(workload: Workload) -> Floats:
    return np.asarray(workload.batch, float) * np.asarray(workload.rows, float)


@dataclass(frozen=True, slots=True)
class Medusa(Drafter):
    """One head per position, all on the last hidden vector (Medusa, arXiv:2401.10774).

    A head is a residual h x h layer and an LM head of its own, read once per cycle. Heads do not
    see each other's tokens: `decay` per position. `acceptance` is "typical", Medusa's own, which is
    lossy, or "exact". `heads` is the most tokens that can be drafted, `layers` the residual layers
    of each, `draft_vocab` the tokens of a reduced LM head, `precision` the format of the weights
    (None: the target's), and `about` what a file was read as.
    """

    target: Architecture
    heads: int = 4
    decay: float = 0.8
    acceptance: str = "typical"
    layers: int = 1
    draft_vocab: int | None = None
    precision: str | None = None
    about: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_share("decay", self.decay)
        require_count("heads", self.heads)
        require_limit("gamma", self.heads, "the number of heads")
        require_count("layers", self.layers)
        if self.acceptance not in ("typical", "exact"):
            raise SpecsimError(f"acceptance must be typical or exact, not {self.acceptance!r}")

    @property
    def lossless(self) -> bool:
        return self.acceptance == "exact"

    @property
    def max_gamma(self) -> int | None:
        return self.heads

    def require_vocabulary_of(self, target: Architecture) -> None:
        require_tokenizer_of(target, self.target, f"the heads of {self.target.name}")

    def priced_on(self, system: System) -> System:
        """The target's system as it holds the heads."""
        system = system.storing(self.target)
        if self.precision is None:
            return system
        if self.precision == AUTO:
            return in_its_own(replace(self.target, stored=None), system)
        return system.with_precision(self.precision)

    @property
    def _parameters(self) -> int:
        """Of one head."""
        hidden = self.target.hidden_size
        return hidden * (self.layers * hidden + (self.draft_vocab or self.target.vocab_size))

    def step(self, system: System, workload: Workload) -> Ledger:
        system, vocab = self.priced_on(system), self.draft_vocab or self.target.vocab_size
        head = Product(system, self._parameters, np.asarray(workload.batch, float))
        return Ledger.of(head, sampling(system, workload.batch, vocab))

    def held_bytes(
        self, system: System, *, batch: ArrayLike, slots: ArrayLike, states: ArrayLike = 1
    ) -> tuple[ArrayLike, ArrayLike]:
        weights, system = self.heads * self._parameters, self.priced_on(system)
        return weights * system.precision.weight_bytes / system.tensor_parallel, 0.0

    def acceptance_of(self, chain: Acceptance) -> Acceptance:
        return decayed(chain, self.decay)

    @property
    def notes(self) -> tuple[str, ...]:
        decay = f"alpha is the first head's; each further one keeps {self.decay:g} of it."
        lossy = "Typical acceptance is lossy: the output distribution is not the target's."
        about = (*self.about, decay)
        return about if self.lossless else (*about, lossy)
