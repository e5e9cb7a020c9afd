"""The random numbers of a cycle: drawn afresh, or fixed for every position in the text.

The rules that compare p with q need fresh noise. Shared noise is a function of (seed, row,
position, token), the same for everyone who asks. A draft and the target then see the same noise at
the same position, and the text depends on the seed alone.

A CUDA graph replays the very numbers that it was recorded with. So fresh noise is drawn before the
cycle, by `refresh`, into a buffer that the cycle reads, and the seed of shared noise is a tensor.
"""

import torch
from torch import Tensor

from reference.sampling import finest_float

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2^64 / golden ratio, as a signed 64-bit integer


class FreshNoise:
    """One uniform in [0, 1) per position for the drafter, and an independent one for the rule; for
    up to `width` positions at once."""

    def __init__(self, seed: int, batch: int, width: int, device: torch.device):
        self.generator = torch.Generator(device).manual_seed(seed)
        self.drawn = torch.empty((2, batch, width), dtype=finest_float(device), device=device)

    def reseed(self, seed: int) -> None:
        """Start the random numbers of a run."""
        self.generator.manual_seed(seed)

    def refresh(self) -> None:
        """Draw for the next cycle."""
        self.drawn.uniform_(generator=self.generator)

    def uniforms(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """For the drafter and for the rule, (B, T) each, at `positions` (B, T)."""
        drafting, deciding = self.drawn[:, :, : positions.shape[1]]
        return drafting, deciding


class SharedNoise:
    """A uniform in (0, 1) for every token of the vocabulary at every position; the drafter and the
    rule get the same ones."""

    def __init__(self, seed: int, vocab_size: int, device: torch.device | str = "cpu"):
        self.vocab_size = vocab_size
        self.seed = torch.empty((1, 1), dtype=torch.long, device=device)
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start the random numbers of a run."""
        self.seed.fill_((seed + 2**63) % 2**64 - 2**63)  # any integer, wrapped into 64 signed bits

    def refresh(self) -> None:
        """Nothing to draw: later positions have other numbers."""

    def uniforms(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The same (B, T, V) twice, at `positions` (B, T) counted from the start of the text."""
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        tokens = torch.arange(self.vocab_size, device=positions.device)
        key = scramble(scramble(self.seed) + rows * GOLDEN)  # (B, 1)
        key = scramble(key + positions * GOLDEN)[..., None]  # (B, T, 1)
        finest = finest_float(positions.device)
        kept = 52 if finest == torch.float64 else 23  # bits, so that + 0.5 is exact
        bits = scramble(key + tokens * GOLDEN) >> 64 - kept & (1 << kept) - 1
        shared = (bits.to(finest) + 0.5) * 2.0**-kept
        return shared, shared


def scramble(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): neighbouring integers become unrelated
    ones. Integers wrap around; `>>` copies the sign bit, and the masks clear the copies."""
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * (0x94D049BB133111EB - 2**64)
    return x ^ (x >> 31 & (1 << 33) - 1)
