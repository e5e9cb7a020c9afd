"""Drafters: whatever guesses the target's next tokens. One file each, one protocol."""

from copy import copy
from typing import NamedTuple, Protocol, Self

from torch import Tensor

from reference.cache import KVCache
from reference.sampling import SamplingParameters
from reference.sequences import Sequences
from reference.transformer import Transformer
from reference.trees import Layout


class Proposal(NamedTuple):
    """What a drafter proposes: a chain of tokens, each a guess at what follows the one before it;
    or the nodes of a tree without its root, if it has the shape of a `tree`."""

    tokens: Tensor  # (B, G)
    # (B, G, V), the distributions that the tokens were drawn from, in a tree given the elder
    # siblings; None if the tokens were not drawn
    probabilities: Tensor | None
    # (B,), how many tokens of each row count; None: all (see `verification` on who may stop where)
    counts: Tensor | None = None
    tree: Layout | None = None

    def first(self, gamma: int) -> "Proposal":
        """No more than the first `gamma` tokens of every row."""
        if self.tokens.shape[1] <= gamma:
            return self
        probabilities, counts = self.probabilities, self.counts
        return Proposal(
            self.tokens[:, :gamma],
            None if probabilities is None else probabilities[:, :gamma],
            None if counts is None else counts.clamp(max=gamma),
        )


class Drafter(Protocol):
    """Proposes up to `gamma` tokens per cycle. A drafter is a subclass with `gamma` and `propose`.

    The decoder calls `start` once, and every cycle `propose` and then `observe`. After a cycle the
    sequences may be shorter than what was drafted: a drafter reads `sequences.lengths` afresh each
    time and ignores everything beyond. On a GPU a cycle is recorded once and replayed: shapes are
    fixed, and nothing in `propose` and `observe` may wait for the device (`.item()`, `if` on a
    tensor).
    """

    gamma: int
    nodes: int | None = None  # of a tree, whose depth is `gamma`; None for a drafter of chains

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        """Prepare to draft these sequences for `target`: allocate, read the prompts, refuse with a
        SpecsimError what does not fit.

        It may be called again for other prompts in the same buffers. Buffers that keep their place
        need not be recorded again; those that move are noticed.

        `cache` is the target's own and holds every prompt except its pending token. The verify pass
        writes the slots from `lengths` to `lengths` + G of all its layers, whatever was there.
        """

    def release(self) -> None:
        """Let go of the target's cache that `start` has given: a larger one may be made next."""

    def view(self, rows: slice) -> Self:
        """This drafter on some rows of its buffers, whose memory the view shares. A server drafts
        for the rows in use, and reads a prompt into one of them."""
        return copy(self)

    def join(self, tokens: Tensor, positions: Tensor, hidden: Tensor, window: int) -> None:
        """Read the next piece of a prompt that joins a server's batch, on a `view` of its row.

        `tokens` (B, T) stand at `positions` (B, T); `hidden` (B, T, C) are the target's states for
        them; a pass reads `window` slots. It does what `start` and the first `observe` do, without
        a new start.
        """

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        """Draft from the pending token on, as many tokens as `uniforms` has columns: gamma, or
        fewer where the decoder adapts. `uniforms[:, k]` are the random numbers to `draw` the k-th
        token with. A pass of a model reads `sequences.window` slots of its cache."""

    def observe(self, hidden: Tensor, positions: Tensor) -> None:
        """See what the target has just read, before it is known how much of it counts.

        `hidden[b, t]`, of (B, T, C), is the normalised last state of the target for the token at
        `positions[b, t]`; its logits are for the position after it. The first call follows `start`,
        with the prompts up to their pending tokens, T of the longest (row b counts up to its
        `lengths[b]`; there is no call if every prompt is one token). After that, each cycle: the
        pending token and its G drafts, at `lengths` … `lengths` + G, rejected ones included. Then
        row b holds the states of all positions before its new pending token, and later calls
        overwrite the rest: a buffer that is written by position needs no roll-back. Of a tree the
        accepted path is shown, as if it had been a chain.
        """


class NoDrafter(Drafter):
    """Drafts nothing: plain autoregressive decoding as the gamma = 0 case of speculation."""

    gamma = 0

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        return Proposal(sequences.tokens[:, :0], None)
