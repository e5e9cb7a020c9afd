"""From logits to the distribution that a token is drawn from, and from a distribution to a token.

The target's p and the draft's q both come from `SamplingParameters.probabilities`. So the ratio
p / q in verification compares the distributions that tokens are really drawn from, after
temperature and filters. Probabilities are float32 for 16- and 32-bit logits and float64 for float64
ones.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reference.nucleus import WIDE, may_choose, nucleus_of_few
from reference.sequences import Sequences
from specsim.checks import SpecsimError

COLDEST = 1e-6  # the lowest temperature above 0
LARGE = 60_000  # probabilities; so many or more are drawn from in two steps,
BLOCK = 128  # first a block of so many tokens, then a token of that block


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How a distribution is made of logits: repetition penalty, temperature, top-k, top-p, min-p,
    in this order.

    Arguments: `temperature` 0 is greedy (ties go to the lowest id). `top_k` keeps the k likeliest
    tokens, `top_p` the fewest likely ones whose mass reaches top_p. `min_p` drops tokens less
    likely than min_p times the likeliest one (Nguyen et al., arXiv:2407.01082).
    `repetition_penalty` divides the positive logits of tokens that the text already holds, and
    multiplies their negative ones (Keskar et al., arXiv:1909.05858); 1 changes nothing.

    Raises SpecsimError, naming the value, for a temperature that is negative or between 0 and 1e-6,
    top_k below 1, top_p outside (0, 1], min_p outside [0, 1], or a penalty that is not above 0.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        heat, penalty = self.temperature, self.repetition_penalty
        for is_valid, name, wanted in (
            (heat >= 0 and math.isfinite(heat), "temperature", "a finite number >= 0"),
            (self.top_k is None or self.top_k >= 1, "top_k", "at least 1"),
            (self.top_p is None or 0 < self.top_p <= 1, "top_p", "in (0, 1]"),
            (self.min_p is None or 0 <= self.min_p <= 1, "min_p", "in [0, 1]"),
            (penalty > 0 and math.isfinite(penalty), "repetition_penalty", "a finite number > 0"),
        ):
            if not is_valid:
                raise SpecsimError(f"{name} must be {wanted}, not {getattr(self, name)}")
        if 0 < heat < COLDEST:
            raise SpecsimError(
                f"temperature must be 0 (greedy) or at least {COLDEST:g}, not {heat:g}: logits "
                "divided by it leave the range of float32"
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    def penalise(
        self, logits: Tensor, sequences: Sequences, drafted: Tensor, ancestors: Tensor | None = None
    ) -> Tensor:
        """Apply the repetition penalty to `logits` (B, T, V), which belong to the last T positions
        of each text with its `drafted` tokens (B, G); of a tree, to nodes with these `ancestors`
        (B, T, G+1).

        At each position the prompt, the emitted tokens and the drafts before it count. The target's
        logits and every drafter's pass through here, so that p and q know the same history.
        """
        if self.repetition_penalty == 1:
            return logits
        held = sequences.held(drafted, logits.shape[1], ancestors)
        return penalised(logits, held, self.repetition_penalty)

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution (..., V) that a token is drawn from; exactly one-hot when greedy."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.greedy:
            return torch.zeros_like(logits).scatter_(-1, likeliest(logits)[..., None], 1.0)
        if self.temperature != 1:
            logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            lowest_kept = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < lowest_kept, -math.inf)
        if self.top_p is not None and self.top_p < 1:
            logits = keep_nucleus(logits, self.top_p)
        if self.min_p:
            lowest_kept = logits.amax(-1, keepdim=True) + math.log(self.min_p)
            logits = logits.masked_fill(logits < lowest_kept, -math.inf)
        return logits.softmax(-1)


def penalised(logits: Tensor, held: Tensor, penalty: float | Tensor) -> Tensor:
    """`logits` (B, T, V) with the repetition penalty for the tokens `held` (B, T, N), and no others
    looked at: a token that is named several times is given one value."""
    found = logits.gather(-1, held)
    return logits.scatter(-1, held, torch.where(found < 0, found * penalty, found / penalty))


def keep_nucleus(logits: Tensor, top_p: float | Tensor) -> Tensor:
    """Mask all but the fewest most likely tokens whose mass reaches `top_p` (Holtzman et al.,
    arXiv:1904.09751); of equally likely ones the lowest ids are kept."""
    if logits.shape[-1] >= WIDE and may_choose(logits):
        return nucleus_of_few(logits, top_p, reaching)
    return reaching(logits, *logits.sort(dim=-1, descending=True, stable=True), top_p)


def reaching(logits: Tensor, ordered: Tensor, order: Tensor, top_p: float | Tensor) -> Tensor:
    """`logits` (..., V), masked except for the tokens before which those of this `order` (..., N),
    with the logits `ordered`, have a mass below `top_p`."""
    shares = logits.softmax(-1).gather(-1, order)
    before = F.pad(shares.cumsum(-1)[..., :-1], (1, 0))
    kept = ordered.masked_fill(before >= top_p, -math.inf)
    return torch.full_like(logits, -math.inf).scatter_(-1, order, kept)


def likeliest(logits: Tensor) -> Tensor:
    """The ids (...) of the largest of `logits` (..., V), the lowest where several tie. `argmax`
    gives the same, but takes three times as long on a CPU for logits of 16 bits."""
    return logits.max(-1).indices


def finest_float(device: torch.device) -> torch.dtype:
    """The dtype for sums of probabilities: float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def draw(probs: Tensor, uniforms: Tensor) -> Tensor:
    """The token ids (...) that `uniforms` (...) in [0, 1) pick from the distribution `probs`
    (..., V), which need not be normalised.

    Inverse transform: the first token whose cumulative mass exceeds u times the total (reduced by
    one rounding error). The comparison is strict and the sum is carried in float64 (on MPS in
    float32), so a token of probability 0 is never drawn. With one uniform in (0, 1) for every
    token, (..., V), the tokens race instead: the smallest -log(u) / p wins (the Gumbel-max trick).
    Two distributions that share such noise pick the same token nearly as often as is possible.

    Of many probabilities a block of tokens is found first, and then the token in it, because long
    running sums are slow. The exception is a single row on a GPU, whose sum all processors share.
    """
    if uniforms.ndim == probs.ndim:
        return (probs / -uniforms.log()).argmax(-1)
    size, finest = probs.shape[-1], finest_float(probs.device)
    if probs.numel() < LARGE or size % BLOCK or (probs.is_cuda and probs.numel() == size):
        cumulative = probs.cumsum(-1, dtype=finest)
        return first_beyond(cumulative, uniforms[..., None] * just_below(cumulative)).squeeze(-1)
    blocks = probs.unflatten(-1, (-1, BLOCK))
    cumulative = blocks.sum(-1, dtype=finest).cumsum(-1)
    targets = uniforms[..., None] * just_below(cumulative)
    block = first_beyond(cumulative, targets)  # (..., 1)
    left = targets - F.pad(cumulative, (1, 0)).gather(-1, block)
    within = blocks.gather(-2, block[..., None].expand(*block.shape, BLOCK)).squeeze(-2)
    within = within.cumsum(-1, dtype=finest)
    left = torch.minimum(left, just_below(within))  # it may reach the end by rounding
    return (block * BLOCK + first_beyond(within, left)).squeeze(-1)


def just_below(cumulative: Tensor) -> Tensor:
    """The total (..., 1) of running sums (..., N), less a rounding or two: u <= 1 times it stays
    below the total."""
    return cumulative[..., -1:] * (1 - torch.finfo(cumulative.dtype).eps)


def first_beyond(cumulative: Tensor, targets: Tensor) -> Tensor:
    """The first index where `cumulative` (..., N) exceeds `targets` (..., 1); the last index where
    none does, or where a target is NaN."""
    found = torch.searchsorted(cumulative, targets, right=True)
    return found.clamp_(max=cumulative.shape[-1] - 1)
