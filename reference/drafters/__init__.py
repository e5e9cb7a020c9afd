"""Drafters: whatever guesses the target's next tokens. One file each, one protocol."""

from typing import NamedTuple, Protocol

from torch import Tensor

from reference.sampling import Sampling
from reference.sequences import Sequences
from reference.transformer import Transformer


class Proposal(NamedTuple):
    """`tokens` (B, G), and the laws (B, G, V) they were drawn from, or None if chosen without
    chance."""

    tokens: Tensor
    probabilities: Tensor | None


class Drafter(Protocol):
    """`gamma` tokens are proposed per cycle. The decoder calls `start` once and `propose` every
    cycle.

    After a cycle the sequences may be shorter than what was drafted: a drafter reads
    `sequences.lengths` afresh each time and forgets whatever lies beyond.
    """

    gamma: int

    def start(self, sequences: Sequences, target: Transformer) -> None:
        """Prepare to draft these sequences for `target`: allocate caches, read the prompts."""

    def propose(self, sequences: Sequences, sampling: Sampling, uniforms: Tensor) -> Proposal:
        """Draft from the pending token on; `uniforms` is the chance to use, [:, k] to `draw` the
        k-th token."""
