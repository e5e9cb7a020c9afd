"""The tokens of a batch, and how far each sequence has come.

One invariant carries the whole decoder: the last emitted token of a sequence is *pending*, its keys
and values are in no cache yet. `lengths[b]` counts the tokens before it, so `tokens[b, lengths[b]]`
is pending, and rolling back a rejected draft is nothing but a smaller length. All of it lives on
the device, in buffers that stay where they are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(slots=True)
class Sequences:
    """`tokens` (B, capacity) prompt and emitted tokens; `lengths` (B,); `room` (B,), how many
    tokens each may still emit, 0 once it has ended; `stops` (K,), the ids that end a sequence.

    And what the host knows: a bound on the lengths now and on the texts in the end, and the slots
    of a cache that a pass over the next tokens must read.
    """

    tokens: Tensor
    lengths: Tensor
    room: Tensor
    stops: Tensor
    longest: int = 0
    ends: int = 0
    window: int = 1

    @classmethod
    def empty(
        cls, batch: int, capacity: int, stops: Iterable[int], device: torch.device
    ) -> "Sequences":
        """Buffers for `batch` sequences of `capacity` places, which have ended."""
        tokens = torch.zeros((batch, capacity), dtype=torch.long, device=device)
        lengths, room = tokens[:, 0].clone(), tokens[:, 0].clone()
        return cls(tokens, lengths, room, torch.tensor([*stops], dtype=torch.long, device=device))

    @classmethod
    def from_prompts(cls, prompts: list[list[int]], room: int, device: torch.device) -> "Sequences":
        """Buffers that hold the prompts, each with `room` tokens to emit."""
        sequences = cls.empty(len(prompts), max(map(len, prompts)) + room, (), device)
        sequences.load(prompts, [room] * len(prompts))
        return sequences

    def load(self, prompts: list[list[int]], room: list[int]) -> None:
        """Begin anew with these prompts, right-padded; the last token of every prompt is
        pending."""
        tokens = torch.zeros(self.tokens.shape, dtype=torch.long)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        self.tokens.copy_(tokens)
        self.lengths.copy_(torch.tensor([len(prompt) - 1 for prompt in prompts]))
        self.room.copy_(torch.tensor(room))
        self.longest = max(map(len, prompts)) - 1
        self.ends = max(len(prompt) + places for prompt, places in zip(prompts, room, strict=True))
        self.window = self.longest + 1

    @property
    def pending(self) -> Tensor:
        """The last emitted token of each sequence, (B, 1)."""
        return self.tokens.gather(1, self.lengths[:, None])

    def positions(self, count: int) -> Tensor:
        """The positions (B, count) of the pending token and those after it."""
        return self.lengths[:, None] + torch.arange(count, device=self.lengths.device)

    def seen(self, drafted: Tensor, vocab_size: int, ancestors: Tensor | None = None) -> Tensor:
        """Which tokens, (B, G+1, V), a text holds before each of the next G+1 places if `drafted`
        (B, G) continue it; (B, T, V) after each of T nodes if they are a tree, whose `ancestors`
        (B, T, G+1) are the root and drafts on the path to each."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        # what lies beyond the pending token is no text; its first token stands in for it
        text = self.tokens.where(places <= self.lengths[:, None], self.tokens[:, :1])
        held = torch.zeros((len(text), vocab_size), dtype=torch.bool, device=text.device)
        held.scatter_(1, text, True)
        drafts = drafted[..., None] == torch.arange(vocab_size, device=text.device)  # (B, G, V)
        if ancestors is not None:
            return held[:, None] | (ancestors[:, :, 1:].float() @ drafts.float() > 0)
        return torch.cat((held[:, None], drafts), dim=1).byte().cummax(1).values.bool()

    def commit(
        self,
        drafted: Tensor,
        accepted: Tensor,
        next_token: Tensor,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Emit `accepted` (B,) of the `drafted` (B, G) tokens and then `next_token` (B,), up to the
        first stop and the room there is; the last one emitted becomes pending.

        Returns a `Report` of every row, (B, 5 + G + 1); `counts` (B,), all G by default, is how
        many were drafted. A sequence that has ended emits nothing and stays where it is.
        """
        places = torch.arange(1, drafted.shape[1] + 2, device=drafted.device)
        drafted = torch.cat((drafted, next_token[:, None]), dim=1)
        emitted = torch.where(places <= accepted[:, None], drafted, next_token[:, None])
        # what is written beyond the end of a cycle's tokens is overwritten by the next
        self.tokens.scatter_(1, self.lengths[:, None] + places, emitted)
        kept = torch.minimum(accepted + 1, self.room)
        left = self.room - kept
        if len(self.stops):
            goes_on = (emitted[..., None] != self.stops).all(-1)
            before = goes_on.cumprod(1).sum(1)  # the first stop; as many if there is none
            left = left * (before >= kept)
            kept = torch.minimum(kept, before + 1)
        self.lengths += kept
        self.room.copy_(left)
        if counts is None:
            counts = torch.full_like(kept, drafted.shape[1] - 1)
        facts = torch.stack((self.lengths, left, counts, accepted, kept), dim=1)
        return torch.cat((facts, emitted), dim=1)


FACTS = 5  # columns of a report before its tokens


class Report(NamedTuple):
    """A cycle of one sequence, read by the host: its length and room after it, how many tokens were
    drafted, how many of them the rule accepted, those that were emitted (fewer than accepted + 1
    where the text ends), and for how many places, from the first, the laws were numbers."""

    length: int
    room: int
    drafted: int
    accepted: int
    emitted: list[int]
    numbers: int

    @property
    def is_whole(self) -> bool:
        return len(self.emitted) == self.accepted + 1

    @classmethod
    def of_row(cls, row: list[int]) -> "Report":
        *facts, kept = row[:FACTS]
        return cls(*facts, row[FACTS : FACTS + kept], row[-1])


class Mail:
    """A report on its way to the host: on a GPU the copy is under way, and the device goes on."""

    def __init__(self, report: Tensor):
        on_cuda = report.device.type == "cuda"
        self.rows = torch.empty(report.shape, dtype=report.dtype, pin_memory=on_cuda)
        self.rows.copy_(report, non_blocking=on_cuda)
        self.arrived = torch.cuda.current_stream().record_event() if on_cuda else None

    def read(self) -> list[list[int]]:
        """The rows, once they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.rows.tolist()
