"""Two drafters in one: repetitions of the text where there are any, and a model elsewhere."""

from typing import Self

import torch
from torch import Tensor

from reference.cache import KVCache
from reference.drafters import Drafter, Proposal
from reference.drafters.n_gram import look_up
from reference.sampling import SamplingParameters
from reference.sequences import Sequences
from reference.transformer import Transformer
from specsim.checks import SpecsimError


class Ensemble(Drafter):
    """For each sequence, drafts the n-gram's tokens if the text repeats itself, else those of
    `second`.

    `second` (for example a DraftModel) drafts in every cycle, even if its tokens are not used. So
    its cache keeps up, and the host need not know which sequences found a match. The ensemble saves
    no drafting time, but on text that repeats itself more drafts are accepted.
    """

    def __init__(self, second: Drafter, longest: int = 3):
        if second.nodes is not None:
            raise SpecsimError("an ensemble is for chains: its second drafter must not draft trees")
        self.second = second
        self.gamma = second.gamma
        self.longest = longest

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        self.second.start(sequences, target, cache)

    def observe(self, hidden: Tensor, positions: Tensor) -> None:
        self.second.observe(hidden, positions)

    def release(self) -> None:
        self.second.release()

    def view(self, rows: slice) -> Self:
        view = super().view(rows)
        view.second = self.second.view(rows)
        return view

    def join(self, tokens: Tensor, positions: Tensor, hidden: Tensor, window: int) -> None:
        self.second.join(tokens, positions, hidden, window)

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        matched, found = look_up(sequences, uniforms.shape[1], self.longest)
        drafted, draft_probs, counts, _ = self.second.propose(sequences, sampling, uniforms)
        tokens = torch.where(found[:, None], matched, drafted)
        if counts is not None:
            counts = torch.where(found, matched.shape[1], counts)
        if draft_probs is None:
            return Proposal(tokens, None, counts)
        # a match was not drawn: its distribution is a point mass
        certain = torch.zeros_like(draft_probs).scatter_(2, matched[..., None], 1.0)
        return Proposal(tokens, torch.where(found[:, None, None], certain, draft_probs), counts)
