"""The tokens of a batch, and how far each sequence has come.

The whole decoder relies on one invariant: the last emitted token of a sequence is *pending*, which
means that no cache holds its keys and values yet. `lengths[b]` counts the tokens before it, so
`tokens[b, lengths[b]]` is the pending one. A rejected draft is not counted: the length grows by the
accepted drafts and one token. Everything lives on the device, in buffers that keep their addresses.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(slots=True)
class Sequences:
    """The state of a batch. The last three fields are what the host knows without asking the
    device."""

    tokens: Tensor  # (B, S), the prompt and the emitted tokens; what lies beyond does not count
    lengths: Tensor  # (B,), tokens before the pending one
    remaining: Tensor  # (B,), tokens that may still be emitted; 0 once a sequence has ended
    stops: Tensor  # (K,), ids that end a sequence; or (B, 1, K), each one's own
    longest: int = 0  # an upper bound on `lengths`
    ends: int = 0  # an upper bound on the tokens of a finished text, prompt included
    window: int = 1  # slots of a cache that the next pass reads

    @classmethod
    def empty(
        cls, batch: int, capacity: int, stops: Iterable[int], device: torch.device
    ) -> "Sequences":
        """Buffers for `batch` sequences of `capacity` tokens, all of which have ended."""
        tokens = torch.zeros((batch, capacity), dtype=torch.long, device=device)
        lengths, remaining = tokens[:, 0].clone(), tokens[:, 0].clone()
        stops = torch.tensor([*stops], dtype=torch.long, device=device)
        return cls(tokens, lengths, remaining, stops)

    def load(self, prompts: list[list[int]], remaining: list[int]) -> None:
        """Start again with these prompts, right-padded; the last token of each is pending."""
        capacity = self.tokens.shape[1]
        padded = [prompt + [0] * (capacity - len(prompt)) for prompt in prompts]
        self.tokens.copy_(torch.tensor(padded))
        self.lengths.copy_(torch.tensor([len(prompt) - 1 for prompt in prompts]))
        self.remaining.copy_(torch.tensor(remaining))
        self.longest = max(map(len, prompts)) - 1
        self.ends = max(len(prompt) + new for prompt, new in zip(prompts, remaining, strict=True))
        self.window = self.longest + 1

    def rows(self, rows: slice) -> "Sequences":
        """A view of some of the sequences, which shares their memory."""
        stops = self.stops if self.stops.ndim == 1 else self.stops[rows]
        return Sequences(self.tokens[rows], self.lengths[rows], self.remaining[rows], stops)

    @property
    def pending(self) -> Tensor:
        """The last emitted token of each sequence, (B, 1)."""
        return self.tokens.gather(1, self.lengths[:, None])

    def positions(self, count: int) -> Tensor:
        """The positions (B, count) of the pending token and those after it."""
        return self.lengths[:, None] + torch.arange(count, device=self.lengths.device)

    def held(self, drafted: Tensor, places: int, ancestors: Tensor | None = None) -> Tensor:
        """The tokens (B, T, N) that a text holds before each of the last T = `places` of its next
        G + 1 positions, if `drafted` (B, G) continue it; in no order, and some of them repeatedly.

        If the drafts are a tree: those that it holds after each of T nodes, where `ancestors`
        (B, T, G+1) marks the root and the drafts on the path to each node.
        """
        text = self.tokens[:, : self.window]
        order = torch.arange(text.shape[1], device=text.device)
        # what lies beyond the pending token is no text; the text's first token stands in for it
        text = text.where(order <= self.lengths[:, None], text[:, :1])[:, None]
        if ancestors is None:
            ancestors = drafted.new_ones((1, places, drafted.shape[1] + 1), dtype=torch.bool)
            ancestors = ancestors.tril(drafted.shape[1] + 1 - places)
        drafts = drafted[:, None].where(ancestors[:, :, 1:], text[:, :, :1])
        return torch.cat((text.expand(-1, places, -1), drafts), dim=2)

    def commit(
        self, drafted: Tensor, accepted: Tensor, next_token: Tensor, counts: Tensor | None = None
    ) -> Tensor:
        """Emit `accepted` (B,) of the `drafted` (B, G) tokens and then `next_token` (B,), up to the
        first stop and to the remaining tokens; the last one emitted becomes pending.

        `counts` (B,) is how many tokens each row drafted, by default G. Returns the columns of a
        `CycleResult` but the last, (B, 5 + G + 1). A sequence that has ended emits nothing and
        keeps its length.
        """
        order = torch.arange(1, drafted.shape[1] + 2, device=drafted.device)
        drafted = torch.cat((drafted, next_token[:, None]), dim=1)
        emitted = torch.where(order <= accepted[:, None], drafted, next_token[:, None])
        # what is written after the last emitted token is overwritten by the next cycle
        self.tokens.scatter_(1, self.lengths[:, None] + order, emitted)
        kept = torch.minimum(accepted + 1, self.remaining)
        left = self.remaining - kept
        if len(self.stops):
            goes_on = (emitted[..., None] != self.stops).all(-1)
            before = goes_on.cumprod(1).sum(1)  # tokens before the first stop; all without a stop
            left = left * (before >= kept)
            kept = torch.minimum(kept, before + 1)
        self.lengths += kept
        self.remaining.copy_(left)
        if counts is None:
            counts = torch.full_like(kept, drafted.shape[1] - 1)
        first_columns = torch.stack((self.lengths, left, counts, accepted, kept), dim=1)
        return torch.cat((first_columns, emitted), dim=1)


COUNTS = 5  # columns of a cycle's result before its tokens


class CycleResult(NamedTuple):
    """What one cycle did to one sequence, as the host reads it."""

    length: int  # after the cycle
    remaining: int  # after the cycle
    drafted: int
    accepted: int  # of the drafted tokens, by the rule
    emitted: list[int]  # fewer than accepted + 1 where the text ends
    finite: int  # leading positions whose logits and draft probabilities were finite

    @property
    def is_whole(self) -> bool:
        """Whether everything that was accepted was emitted: the text did not end inside."""
        return len(self.emitted) == self.accepted + 1

    @classmethod
    def of_row(cls, row: list[int]) -> "CycleResult":
        """The result from its row: five counts, G + 1 tokens, and how many positions were
        finite."""
        *counts, kept = row[:COUNTS]
        return cls(*counts, row[COUNTS : COUNTS + kept], row[-1])


class AsyncCopy:
    """A copy of a cycle's result to the host. On a GPU the device goes on while it is under way."""

    def __init__(self, result: Tensor):
        on_cuda = result.device.type == "cuda"
        self.rows = torch.empty(result.shape, dtype=result.dtype, pin_memory=on_cuda)
        self.rows.copy_(result, non_blocking=on_cuda)
        stream = torch.cuda.current_stream(result.device) if on_cuda else None
        self.arrived = stream.record_event() if stream else None

    def read(self) -> list[CycleResult]:
        """The result of every sequence, once it has arrived."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return [CycleResult.of_row(row) for row in self.rows.tolist()]
