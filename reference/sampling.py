"""From logits to the law a token is drawn from, and from a law to a token.

The target's p and the draft's q both come out of `Sampling.probabilities`: whatever temperature and
filters do, the ratio p / q in verification is then between the laws that tokens are really drawn
from. Probabilities are float32 for 16- and 32-bit logits and float64 for float64 ones.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from specsim.catalog import SpecsimError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature, then top-k, then top-p; temperature 0 is greedy (ties go to the lowest id).

    Raises SpecsimError, naming the value, for a negative temperature, top_k below 1, or top_p
    outside (0, 1].
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise SpecsimError(f"temperature must be a finite number >= 0, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise SpecsimError(f"top_k must be at least 1, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise SpecsimError(f"top_p must be in (0, 1], not {self.top_p}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def probabilities(self, logits: Tensor) -> Tensor:
        """The law (..., V) that a token is drawn from; exactly one-hot when greedy."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.greedy:
            return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            lowest_kept = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < lowest_kept, -math.inf)
        if self.top_p is not None and self.top_p < 1:
            logits = keep_nucleus(logits, self.top_p)
        return logits.softmax(-1)


def keep_nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Mask all but the fewest most likely tokens whose mass reaches `top_p` (Holtzman et al.,
    arXiv:1904.09751)."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    mass_before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    dropped = torch.zeros_like(mass_before, dtype=torch.bool).scatter_(
        -1, order, mass_before >= top_p
    )
    return logits.masked_fill(dropped, -math.inf)


def draw(law: Tensor, uniforms: Tensor) -> Tensor:
    """The token ids (...) that `uniforms` (...) in [0, 1) pick from `law` (..., V), which need not
    be normalised.

    Inverse transform: the first token whose cumulative mass exceeds u times the total. The
    comparison is strict and the sum is carried in float64, so a token of probability 0 is never
    drawn.
    """
    cumulative = law.cumsum(-1, dtype=torch.float64)
    targets = uniforms.to(torch.float64)[..., None] * cumulative[..., -1:]
    return (
        torch.searchsorted(cumulative, targets, right=True)
        .squeeze(-1)
        .clamp_(max=law.shape[-1] - 1)
    )
