"""The chance of a cycle: drawn afresh, or belonging to places in the text.

Fresh noise is what the accept rules need that judge p against q. Shared noise is keyed by (seed,
row, place, token) and the same whenever, and by whomever, it is asked for: then a draft and the
target that look at one place see the same noise, and what is written there is a function of the
seed alone.

A cycle that was recorded as a CUDA graph repeats what it was recorded with. So fresh noise is drawn
before the cycle, by `refresh`, into a buffer that the cycle reads, and the seed of shared noise is
a tensor.
"""

import torch
from torch import Tensor

from reference.sampling import finest_float

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2^64 / golden ratio, as a signed 64-bit integer


class FreshNoise:
    """One uniform in [0, 1) per place for the drafter, and an independent one for the rule; up to
    `width` places at once."""

    def __init__(self, seed: int, batch: int, width: int, device: torch.device):
        self.generator = torch.Generator(device).manual_seed(seed)
        self.drawn = torch.empty((2, batch, width), dtype=finest_float(device), device=device)

    def reseed(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    def refresh(self) -> None:
        """Draw for the next cycle."""
        self.drawn.uniform_(generator=self.generator)

    def uniforms(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) each, for `places` (B, T)."""
        drafting, deciding = self.drawn[:, :, : places.shape[1]]
        return drafting, deciding


class SharedNoise:
    """A uniform in (0, 1) for every token of the vocabulary at every place, the same for both."""

    def __init__(self, seed: int, vocab_size: int, device: torch.device | str = "cpu"):
        self.vocab_size = vocab_size
        self.seed = torch.empty((1, 1), dtype=torch.long, device=device)
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        self.seed.fill_((seed + 2**63) % 2**64 - 2**63)  # any integer, wrapped into 64 signed bits

    def refresh(self) -> None:
        """The places that are asked for next are other places: there is nothing to draw."""

    def uniforms(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, V), twice the same, for `places` (B, T): positions in the text from its start."""
        rows = torch.arange(len(places), device=places.device)[:, None]
        tokens = torch.arange(self.vocab_size, device=places.device)
        key = scramble(scramble(self.seed) + rows * GOLDEN)  # (B, 1)
        key = scramble(key + places * GOLDEN)[..., None]  # (B, T, 1)
        finest = finest_float(places.device)
        kept = 52 if finest == torch.float64 else 23  # bits, so that + 0.5 is exact
        bits = scramble(key + tokens * GOLDEN) >> 64 - kept & (1 << kept) - 1
        shared = (bits.to(finest) + 0.5) * 2.0**-kept
        return shared, shared


def scramble(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): neighbouring integers become unrelated
    ones. Integers wrap around; `>>` copies the sign, which the masks take off again."""
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * (0x94D049BB133111EB - 2**64)
    return x ^ (x >> 31 & (1 << 33) - 1)
