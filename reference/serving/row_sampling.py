"""Sampling that differs from row to row: what `SamplingParameters` does, with a tensor per option.

A batch is of one of three kinds, the least that all its rows need: all greedy; no filters; filters,
a penalty or a least length somewhere. A greedy row among sampled ones has a distribution with all
mass on its likeliest token, which the rules accept and draw like any other.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reference.sampling import SamplingParameters, finest_float, likeliest
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
        batch, count, vocab_size = logits.shape
        seen = sequences.seen(drafted, vocab_size)[:, -count:]
        penalty = self.values.penalty.to(logits.dtype)[:, None, None]
        penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
        logits = torch.where(seen, penalised, logits)
        ends = torch.zeros((batch, vocab_size + 1), dtype=torch.bool, device=logits.device)
        stops = self.stops[:, 0].where(self.stops[:, 0] >= 0, vocab_size)  # (B, K)
        ends = ends.scatter(1, stops, True)[:, None, :vocab_size]
        chosen_at = sequences.positions(drafted.shape[1] + 1)[:, -count:] + 1  # (B, T)
        early = (chosen_at < self.values.least[:, None])[..., None]
        return logits.masked_fill(early & ends, torch.finfo(logits.dtype).min)

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
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        last = (values.top_k - 1).view(shape).expand(*logits.shape[:-1], 1)
        lowest_kept = ordered.gather(-1, last)
        logits = logits.masked_fill(logits < lowest_kept, -math.inf)
        ordered = ordered.masked_fill(ordered < lowest_kept, -math.inf)
        top_p = values.top_p.to(logits.dtype).view(shape)
        shares = ordered.softmax(-1)
        beyond = (shares.cumsum(-1) - shares >= top_p) & (top_p < 1)
        dropped = torch.zeros_like(beyond).scatter_(-1, order, beyond)
        logits = logits.masked_fill(dropped, -math.inf)
        lowest_kept = logits.amax(-1, keepdim=True) + values.log_min_p.to(logits.dtype).view(shape)
        return logits.masked_fill(logits < lowest_kept, -math.inf)
