"""The text drafts for itself: the tokens that followed the last time the same tokens occurred.

Prompt lookup decoding (Saxena, github.com/apoorvumang/prompt-lookup-decoding). It needs no model,
and is strong where the answer repeats the question, as in editing and summarising.
"""

import torch
from torch import Tensor

from reference.drafters import Drafter, Proposal
from reference.sampling import SamplingParameters
from reference.sequences import Sequences


class NGram(Drafter):
    """Drafts what followed the most recent match of the text's last tokens: the longest match of
    `longest` down to 1 tokens.

    The tokens are not drawn, so no distribution is reported. Where nothing matches, the pending
    token is repeated: shapes stay fixed, and a wrong draft only costs a row of the verification.
    """

    def __init__(self, gamma: int, longest: int = 3):
        self.gamma = gamma
        self.longest = longest

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        return Proposal(look_up(sequences, uniforms.shape[1], self.longest)[0], None)


def look_up(sequences: Sequences, gamma: int, longest: int) -> tuple[Tensor, Tensor]:
    """The drafts (B, G), and whether each row found a match, (B,)."""
    tokens, lengths = sequences.tokens, sequences.lengths[:, None]  # (B, S) and (B, 1)
    ends = torch.arange(tokens.shape[1], device=tokens.device)  # where an earlier match may end
    matching = ends < lengths  # before the pending token, (B, S)
    scores = torch.zeros_like(tokens)  # the length of the match that ends here
    for back in range(longest):
        here = tokens[:, (ends - back).clamp(min=0)]
        suffix = tokens.gather(1, (lengths - back).clamp(min=0))
        matching = matching & (here == suffix) & (ends >= back)
        scores += matching
    best, found = scores.amax(1, keepdim=True), scores.any(1)
    end = torch.where((scores == best) & (best > 0), ends, -1).amax(1, keepdim=True)
    end = torch.where(found[:, None], end, lengths - 1)  # so that a miss repeats the pending token
    # a match near the end is followed by few known tokens; they are drafted again and again
    steps = torch.arange(gamma, device=tokens.device) % (lengths - end)
    return tokens.gather(1, end + 1 + steps), found
