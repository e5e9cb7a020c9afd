"""Drafters: whatever guesses the target's next tokens. One file each, one protocol."""

from typing import NamedTuple, Protocol

from torch import Tensor

from reference.cache import KVCache
from reference.sampling import Sampling
from reference.sequences import Sequences
from reference.transformer import Transformer
from reference.trees import Layout


class Proposal(NamedTuple):
    """`tokens` (B, G), and the laws (B, G, V) they were drawn from, or None if chosen without
    chance. Of row b the first `counts[b]` are meant, all if None (see `verification` on who may
    stop where).

    They are a chain, each a guess at what follows the one before. Or, with the shape of a `tree`,
    they are its nodes but for the root, and the law of each is given its elder siblings.
    """

    tokens: Tensor
    probabilities: Tensor | None
    counts: Tensor | None = None
    tree: Layout | None = None

    def first(self, gamma: int) -> "Proposal":
        """No more than `gamma` tokens of every row of a chain."""
        if self.tokens.shape[1] <= gamma or self.tree is not None:
            return self
        laws, counts = self.probabilities, self.counts
        return Proposal(
            self.tokens[:, :gamma],
            None if laws is None else laws[:, :gamma],
            None if counts is None else counts.clamp(max=gamma),
        )


class Drafter(Protocol):
    """Up to `gamma` tokens are proposed per cycle: a drafter is a subclass with `gamma` and
    `propose`.

    The decoder calls `start` once, and every cycle `propose` and then `observe`. After a cycle the
    sequences may be shorter than what was drafted: a drafter reads `sequences.lengths` afresh each
    time and forgets whatever lies beyond. On a GPU a cycle is recorded once and replayed: shapes
    are fixed, and nothing in `propose` and `observe` may wait for the device (`.item()`, `if` on a
    tensor).
    """

    gamma: int
    nodes: int | None = None  # that a tree has, `gamma` being its depth; None: chains are proposed

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        """Prepare to draft these sequences for `target`: allocate, read the prompts, refuse.

        It may be called again for other prompts in the same buffers. What is then kept where it was
        need not be recorded again; what moves is noticed.

        `cache` is the target's own and holds every prompt but its pending token. The verify pass
        writes the slots from `lengths` to `lengths` + G of all its layers, whatever stood there.
        """

    def propose(self, sequences: Sequences, sampling: Sampling, uniforms: Tensor) -> Proposal:
        """Draft from the pending token on, as many tokens as `uniforms` has columns: gamma, or
        fewer where the decoder adapts. `uniforms[:, k]` is the chance to `draw` the k-th token
        with. A pass of a model reads `sequences.window` slots of its cache."""

    def observe(self, hidden: Tensor, positions: Tensor) -> None:
        """See what the target has just read, before it is known how much of it counts.

        `hidden[b, t]`, of (B, T, C), is the normalised last state in which the target left the
        token at `positions[b, t]`: the one whose logits are for the place after it. The first call
        follows `start`, with the prompts up to their pending tokens, T of the longest (row b counts
        up to its `lengths[b]`; there is no call if every prompt is one token). Then each cycle: the
        pending token and its G drafts, at `lengths` … `lengths` + G, rejected ones included. After
        it row b will hold the states of all places before its new pending token; later calls
        overwrite the rest, so what is kept by position needs no roll-back. Of a tree the path that
        was accepted is seen, as if it had been a chain.
        """
