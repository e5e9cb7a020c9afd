"""A trained head drafts from the target's own hidden states (EAGLE, arXiv:2401.15077)."""

from typing import Self

import torch
from torch import Tensor

from reference.cache import KVCache
from reference.drafters import Drafter, Proposal
from reference.heads import Head
from reference.sampling import SamplingParameters, draw, likeliest
from reference.sequences import Sequences
from reference.transformer import Transformer
from specsim.checks import SpecsimError


class DraftHead(Drafter):
    """Drafts `gamma` tokens with a `Head`, one pass each, sampled as the target samples.

    The first pass of a cycle reads the last gamma + 1 positions, up to the pending token. While it
    drafted, the head made their keys and values from its own states; now the target's states are
    known, and they are made again from those. Positions that were right already are written a
    second time, with the same result, so every cycle has the same shapes.
    """

    cache: KVCache | None = None

    def __init__(self, head: Head, gamma: int):
        self.head = head
        self.gamma = gamma

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        if self.head.embedding is not target.embedding:
            raise SpecsimError(
                f"this head was loaded for another target than {target.architecture.name}; "
                "load it for the target that decodes: load_head(source, target)"
            )
        head, (batch, capacity) = self.head, sequences.tokens.shape
        size = (head.architecture, batch, capacity, head.dtype, head.device)
        if self.cache is None or self.cache.size != size:
            self.cache = None  # given back before more is allocated
            self.cache = KVCache(*size)
            # [b, s] is the target's state at position s - 1, which the head reads at s
            shape = (batch, capacity, head.architecture.hidden_size)
            self.before = torch.zeros(shape, dtype=head.dtype, device=head.device)
            self.rows = torch.arange(batch, device=head.device)[:, None]  # (B, 1)
        else:  # the last run may have left numbers that are not finite
            self.cache.clear()
            self.before.zero_()
        self.unread = sequences.tokens[:, : sequences.longest if target.reads_prompts else 0]
        if not target.reads_prompts:
            self.cache.fill_with_noise(sequences.longest)

    def view(self, rows: slice) -> Self:
        view = super().view(rows)
        if self.cache is not None:
            view.cache, view.before = self.cache.rows(rows), self.before[rows]
            view.rows = self.rows[: len(view.before)]
        return view

    def join(self, tokens: Tensor, positions: Tensor, hidden: Tensor, window: int) -> None:
        self.before.index_put_((self.rows, positions + 1), hidden)
        self.head.states(tokens, self.before[self.rows, positions], positions, self.cache, window)

    def observe(self, hidden: Tensor, positions: Tensor) -> None:
        self.before.index_put_((self.rows, positions + 1), hidden)
        if self.unread.numel():  # the prompts, which are read once
            before = self.before[:, : positions.shape[1]]
            self.head.states(self.unread, before, positions, self.cache, positions.shape[1])
            self.unread = self.unread[:, :0]

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        # a shorter text reads its first token several times
        positions = sequences.positions(self.gamma + 1).sub(self.gamma).clamp(min=0)
        tokens, before = sequences.tokens.gather(1, positions), self.before[self.rows, positions]
        drafted, draft_probs = sequences.tokens[:, :0], []
        if uniforms.shape[1] == 0:  # nothing is drafted, but later drafts need what is read
            self.head.states(tokens, before, positions, self.cache, sequences.window)
            return Proposal(drafted, None)
        for k in range(uniforms.shape[1]):
            states = self.head.states(tokens, before, positions, self.cache, sequences.window)
            before = states[:, -1:]
            logits = self.head.head(states[:, -1])[:, None]  # of (B, 1, C) it could be a bmm
            logits = sampling.penalise(logits, sequences, drafted)[:, 0]
            if sampling.greedy:
                token = likeliest(logits)
            else:
                draft_probs.append(sampling.probabilities(logits))
                token = draw(draft_probs[-1], uniforms[:, k])
            drafted = torch.cat((drafted, token[:, None]), dim=1)
            tokens, positions = token[:, None], positions[:, -1:] + 1
        return Proposal(drafted, torch.stack(draft_probs, dim=1) if draft_probs else None)
