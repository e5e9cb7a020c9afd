"""A small model drafts for a large one (Leviathan et al., arXiv:2211.17192)."""

from typing import Self

import torch
from torch import Tensor

from reference.cache import KVCache
from reference.drafters import Drafter, Proposal
from reference.sampling import SamplingParameters, draw, likeliest
from reference.sequences import Sequences
from reference.transformer import MAX_GAMMA, Transformer, prefill
from reference.verification import leading_run
from specsim.checks import SpecsimError


class DraftModel(Drafter):
    """Drafts `gamma` tokens with `model`, one forward pass each, sampled as the target samples.

    The first pass of a cycle reads two tokens: the pending one and the one before it. After a cycle
    in which every draft was accepted, the draft's cache lacks that earlier token; after any other
    cycle the pass writes it a second time, with the same result. So catching up costs one row,
    never a pass, and never a branch.

    With `stop_below`, the first token that the draft gave less probability than that is the last
    of its row. Stopping depends only on tokens already drafted, so the output distribution is
    unchanged. All rows are still drafted to the same length, so a stop saves time only if
    `choose_gamma` drafts less in the next cycle.
    """

    rows = 2  # that the first pass of a cycle reads
    spare = 0  # slots that its cache has more than the target's
    cache: KVCache | None = None
    stop_below = 0.0

    def __init__(self, model: Transformer, gamma: int, stop_below: float = 0.0):
        self.model = model
        self.gamma = gamma
        self.stop_below = stop_below

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        # its cache holds so many tokens after the text, of a chain or a tree
        (batch, capacity), ahead = sequences.tokens.shape, (self.nodes or self.gamma) + self.spare
        shape, wanted = self.model.architecture, target.architecture
        if shape.vocab_size != wanted.vocab_size:
            raise SpecsimError(
                f"the vocabularies differ: {shape.vocab_size} tokens in the draft {shape.name}, "
                f"{wanted.vocab_size} in the target {wanted.name}"
            )
        if sequences.ends + self.gamma > shape.max_context + MAX_GAMMA:
            raise SpecsimError(
                f"the text may reach {sequences.ends} tokens, beyond the context of "
                f"{shape.max_context} of the draft {shape.name}"
            )
        size = (shape, batch, capacity + self.spare, self.model.dtype, self.model.device)
        if self.cache is None or self.cache.size != size or self.cache.width < ahead:
            self.cache = None  # given back before more is allocated
            self.cache = self.model.new_cache(*size[1:3], ahead, self.rows - 1)
        else:
            self.cache.clear()
        prefill(self.model, sequences, self.cache)

    def view(self, rows: slice) -> Self:
        view = super().view(rows)
        view.cache = None if self.cache is None else self.cache.rows(rows)
        return view

    def join(self, tokens: Tensor, positions: Tensor, hidden: Tensor, window: int) -> None:
        if self.rows > 1:  # else the cache is the target's, which has read them
            self.model.hidden(tokens, positions, self.cache, window)

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        # a prompt of one token has no token before it, and reads that one twice
        positions = sequences.positions(self.rows).sub(self.rows - 1).clamp(min=0)
        tokens = sequences.tokens.gather(1, positions)
        drafted, draft_probs, sure = sequences.tokens[:, :0], [], []
        if uniforms.shape[1] == 0 and self.rows > 1:  # later drafts need what is read
            self.model.hidden(tokens, positions, self.cache, sequences.window)
        for k in range(uniforms.shape[1]):
            logits = self.model(tokens, positions, self.cache, sequences.window)[:, -1:]
            logits = sampling.penalise(logits, sequences, drafted)[:, 0]
            if sampling.greedy:
                token = likeliest(logits)
                probs = logits.float().softmax(-1) if self.stop_below else None
            else:
                probs = sampling.probabilities(logits)
                draft_probs.append(probs)
                token = draw(probs, uniforms[:, k])
            if self.stop_below:
                sure.append(probs.gather(1, token[:, None]) >= self.stop_below)
            drafted = torch.cat((drafted, token[:, None]), dim=1)
            tokens, positions = token[:, None], positions[:, -1:] + 1
        counts = until_unsure(torch.cat(sure, dim=1)) if sure else None
        return Proposal(drafted, torch.stack(draft_probs, dim=1) if draft_probs else None, counts)


def until_unsure(sure: Tensor) -> Tensor:
    """How many tokens of each row count, (B,), if the first that is not `sure` (B, G) is the
    last."""
    return leading_run(sure[:, :-1]) + 1
