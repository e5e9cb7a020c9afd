"""Sampling that differs from row to row: what `SamplingParameters` does, with a tensor per option.

A batch is of one of three kinds, the least that all its rows need: all greedy; no filters; filters,
a penalty or a least length somewhere. A greedy row among sampled ones has a distribution with all
mass on its likeliest token, which the rules accept and draw like any other.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reference.nucleus import may_choose
from reference.sampling import (
    SamplingParameters,
    finest_float,
    keep_nucleus,
    likeliest,
    penalised,
    reaching,
)
from reference.sequences import Sequences

KINDS = ("greedy", "plain", "filtered")


@dataclass(slots=True)
class RowValues:
    """The sampling options of every row, on the device."""

    temperature: Tensor  # (B,), 1 where the row is greedy
    greedy: Tensor  # (B,), bool
    top_k: Tensor  # (B,), V where there is none
    top_p: Tensor  # (B,)
    log_min_p: Tensor  # (B,), -inf where there is none
    penalty: Tensor  # (B,)
    least: Tensor  # (B,), tokens of a text before which no stop is allowed

    @classmethod
    def empty(cls, batch: int, device: torch.device) -> "RowValues":
        """All rows greedy."""
        ones = torch.ones(batch, dtype=finest_float(device), device=device)
        whole = torch.ones(batch, dtype=torch.long, device=device)
        return cls(
            ones.clone(), ones.bool(), whole.clone(), ones.clone(), ones * -math.inf, ones.clone(),
            whole * 0,
        )  # fmt: skip

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in order."""
        return (
            self.temperature, self.greedy, self.top_k, self.top_p, self.log_min_p, self.penalty,
            self.least,
        )  # fmt: skip

    def rows(self, rows: slice) -> "RowValues":
        """A view of some rows."""
        return RowValues(*(tensor[rows] for tensor in self.tensors))

    def set(self, row: int, sampling: SamplingParameters, vocab_size: int, least: int) -> None:
        """Write one row; `least` is how many tokens its text has before it may stop."""
        values = (
            sampling.temperature or 1.0,
            sampling.greedy,
            min(sampling.top_k or vocab_size, vocab_size),
            sampling.top_p or 1.0,
            math.log(sampling.min_p) if sampling.min_p else -math.inf,
            sampling.repetition_penalty,
            least,
        )
        for tensor, value in zip(self.tensors, values, strict=True):
            tensor[row] = value


def kind_of(sampling: SamplingParameters, least: int) -> int:
    """The place in `KINDS` of what one row needs; a batch needs the largest of its rows."""
    if sampling.repetition_penalty != 1 or least:
        return 2
    if sampling.greedy:
        return 0
    filtered = sampling.top_k is not None or (sampling.top_p or 1) < 1 or sampling.min_p
    return 2 if filtered else 1


@dataclass(frozen=True, slots=True, eq=False)
class RowSampling(SamplingParameters):
    """A batch's sampling, of one kind, by the `values` of its rows."""

    kind: str = "greedy"
    values: RowValues = field(default_factory=lambda: RowValues.empty(1, torch.device("cpu")))
    stops: Tensor = field(default_factory=lambda: torch.empty(1, 1, 0, dtype=torch.long))

    @property
    def greedy(self) -> bool:
        """Whether all rows always take the likeliest token."""
        return self.kind == "greedy"

    def penalise(
        self, logits: Tensor, sequences: Sequences, drafted: Tensor, ancestors: Tensor | None = None
    ) -> Tensor:
        """Each row's repetition penalty, and no stop before its least length; see
        `SamplingParameters.penalise`."""
        if self.kind != "filtered":
            return logits
        penalty = self.values.penalty.to(logits.dtype)[:, None, None]
        logits = penalised(logits, sequences.held(drafted, logits.shape[1]), penalty)
        places = sequences.positions(drafted.shape[1] + 1)[:, -logits.shape[1] :] + 1  # (B, T)
        early = (places < self.values.least[:, None])[..., None]
        # in place of what is no token, one of the row's stops is named again; without any, token 0
        stops = self.stops.where(self.stops < logits.shape[-1], -1)
        one = stops.amax(-1, keepdim=True)  # (B, 1, 1)
        stops = stops.where(stops >= 0, one.clamp(min=0)).expand(-1, logits.shape[1], -1)
        lowest = torch.finfo(logits.dtype).min
        found = logits.gather(-1, stops).masked_fill(early & (one >= 0), lowest)
        return logits.scatter(-1, stops, found)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Each row's distribution, of logits (B, V) or (B, T, V); see
        `SamplingParameters.probabilities`."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        shape = (-1, *(1,) * (logits.ndim - 1))
        certain = torch.zeros_like(logits).scatter_(-1, likeliest(logits)[..., None], 1.0)
        if self.kind == "greedy":
            return certain
        values = self.values
        logits = logits / values.temperature.to(logits.dtype).view(shape)
        if self.kind == "filtered":
            logits = self.filtered(logits, shape)
        probabilities = logits.softmax(-1)
        # a row that is not finite stays so: nothing may be made certain of it
        return torch.where(values.greedy.view(shape), certain, probabilities)

    def filtered(self, logits: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Top-k, then top-p of what is left, then min-p, each by the row's own value."""
        values = self.values
        top_k, top_p = values.top_k.view(shape), values.top_p.to(logits.dtype).view(shape)
        if may_choose(logits):
            logits = keep_top_k(logits, top_k)
            # a row without top-p is not looked at: 0 keeps nothing of it, which is soon found
            nucleus = keep_nucleus(logits, top_p * (top_p < 1))
        else:
            ordered, order = logits.sort(dim=-1, descending=True, stable=True)
            lowest_kept = ordered.gather(-1, (top_k - 1).expand_as(logits[..., :1]))
            logits = logits.masked_fill(logits < lowest_kept, -math.inf)
            ordered = ordered.masked_fill(ordered < lowest_kept, -math.inf)
            nucleus = reaching(logits, ordered, order, top_p)
        logits = torch.where(top_p < 1, nucleus, logits)
        lowest_kept = logits.amax(-1, keepdim=True) + values.log_min_p.to(logits.dtype).view(shape)
        return logits.masked_fill(logits < lowest_kept, -math.inf)


def keep_top_k(logits: Tensor, top_k: Tensor) -> Tensor:
    """`logits` (..., V) with all but each row's `top_k` (..., 1) largest masked; what ties with the
    last of them stays."""
    filters = top_k < logits.shape[-1]
    if not filters.any():
        return logits
    most = int(top_k.where(filters, 1).max())
    last = (top_k - 1).clamp(max=most - 1).expand_as(logits[..., :1])
    lowest_kept = logits.topk(most, dim=-1).values.gather(-1, last).where(filters, -math.inf)
    return logits.masked_fill(logits < lowest_kept, -math.inf)
