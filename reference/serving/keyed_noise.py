"""Random numbers that belong to a request: a text does not depend on who else is served.

A number is a function of (the request's seed, where the cycle begins in the text, which draft of
the cycle, drafter or rule). It is not keyed by the draft's own position: the token that replaces
a rejected draft is drawn with the last number of its cycle, and the next cycle, which begins
earlier than that, must not see this number again. Cycles of one text begin at different places.
"""

from copy import copy

import torch
from torch import Tensor

from reference.noise import GOLDEN, scramble
from reference.sampling import finest_float


class KeyedNoise:
    """A uniform in [0, 1) per draft for the drafter and an independent one for the rule, from the
    seed of each row."""

    def __init__(self, batch: int, device: torch.device):
        self.seeds = torch.zeros((batch, 1), dtype=torch.long, device=device)

    def rows(self, rows: slice) -> "KeyedNoise":
        """A view of some rows' seeds."""
        view = copy(self)
        view.seeds = self.seeds[rows]
        return view

    def refresh(self) -> None:
        """Nothing to draw: the next cycle begins elsewhere and has other numbers."""

    def uniforms(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """For the drafter and for the rule, (B, T) each, of a cycle at `positions` (B, T)."""
        finest = finest_float(positions.device)
        kept = 53 if finest == torch.float64 else 24
        places = torch.arange(positions.shape[1], device=positions.device)
        key = scramble(scramble(self.seeds) + positions[:, :1] * GOLDEN)  # (B, 1)
        key = torch.stack((key, key + 1))  # of the drafter, and of the rule, (2, B, 1)
        bits = scramble(scramble(key) + places * GOLDEN) >> 64 - kept & (1 << kept) - 1
        drafting, deciding = bits.to(finest) * 2.0**-kept
        return drafting, deciding
