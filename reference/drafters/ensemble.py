"""Two drafters, the better-informed first: the text's own repetitions, and a model for the rest."""

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
    """Row by row, drafts the n-gram's tokens where the text repeats itself, else those of `second`.

    `second` (a DraftModel, say) drafts in every cycle, also where its tokens are then not used: its
    cache keeps up, and nothing waits for the host to learn who has found a match. So the ensemble
    saves no drafting time; on text that repeats itself it accepts more.
    """

    def __init__(self, second: Drafter, longest: int = 3):
        if second.nodes is not None:
            raise SpecsimError("an ensemble joins chains: its second drafter must not draft trees")
        self.second = second
        self.gamma = second.gamma
        self.longest = longest

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        self.second.start(sequences, target, cache)

    def observe(self, hidden: Tensor, positions: Tensor) -> None:
        self.second.observe(hidden, positions)

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        matched, found = look_up(sequences, uniforms.shape[1], self.longest)
        drafted, laws, counts, _ = self.second.propose(sequences, sampling, uniforms)
        tokens = torch.where(found[:, None], matched, drafted)
        if counts is not None:
            counts = torch.where(found, matched.shape[1], counts)
        if laws is None:
            return Proposal(tokens, None, counts)
        certain = torch.zeros_like(laws).scatter_(2, matched[..., None], 1.0)  # without chance
        return Proposal(tokens, torch.where(found[:, None, None], certain, laws), counts)
