"""The tokens of a batch, and how far each sequence has come.

One invariant carries the whole decoder: the last emitted token of a sequence is *pending*, its keys
and values are in no cache yet. `lengths[b]` counts the tokens before it, so `tokens[b, lengths[b]]`
is pending, and rolling back a rejected draft is nothing but a smaller length.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(slots=True)
class Sequences:
    """`tokens` (B, capacity) prompt and emitted tokens, `lengths` (B,), and what the host knows: a
    bound on the lengths, and the slots that a pass over the next tokens must read of a cache."""

    tokens: Tensor
    lengths: Tensor
    longest: int
    window: int

    @classmethod
    def from_prompts(cls, prompts: list[list[int]], room: int, device: torch.device) -> "Sequences":
        """Right-padded prompts with `room` further places each; the last token of every prompt is
        pending."""
        capacity = max(map(len, prompts)) + room
        tokens = torch.zeros((len(prompts), capacity), dtype=torch.long)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
        longest = int(lengths.max())
        return cls(tokens.to(device), lengths.to(device), longest, longest + 1)

    @property
    def pending(self) -> Tensor:
        """The last emitted token of each sequence, (B, 1)."""
        return self.tokens.gather(1, self.lengths[:, None])

    def positions(self, count: int) -> Tensor:
        """The positions (B, count) of the pending token and those after it."""
        return self.lengths[:, None] + torch.arange(count, device=self.lengths.device)

    def seen(self, drafted: Tensor, vocab_size: int) -> Tensor:
        """Which tokens, (B, G+1, V), a text holds before each of the next G+1 places if `drafted`
        (B, G) continue it."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        # what lies beyond the pending token is no text; its first token stands in for it
        text = self.tokens.where(places <= self.lengths[:, None], self.tokens[:, :1])
        held = torch.zeros((len(text), vocab_size), dtype=torch.bool, device=text.device)
        held.scatter_(1, text, True)
        drafts = F.one_hot(drafted, vocab_size).bool()  # (B, G, V)
        return torch.cat((held[:, None], drafts), dim=1).byte().cummax(1).values.bool()

    def commit(
        self, drafted: Tensor, accepted: Tensor, next_token: Tensor, active: Tensor
    ) -> Tensor:
        """Emit `accepted` (B,) of the `drafted` (B, G) tokens and then `next_token` (B,), which
        becomes pending.

        Returns what was emitted, (B, G+1): the first `accepted` + 1 columns count, the rest is
        overwritten later. Sequences that are not `active` (B,) stay where they are.
        """
        columns = torch.arange(drafted.shape[1] + 1, device=drafted.device)
        drafted = torch.cat((drafted, next_token[:, None]), dim=1)
        emitted = torch.where(columns < accepted[:, None], drafted, next_token[:, None])
        self.tokens.scatter_(1, self.positions(len(columns)) + 1, emitted)
        self.lengths += torch.where(active, accepted + 1, 0)
        # a sequence that overshot its limit has ended; it waits for the others where a pass still
        # fits
        self.lengths.clamp_(max=self.tokens.shape[1] - len(columns) - 1)
        return emitted

    def read(self, accepted: Tensor, emitted: Tensor) -> tuple[list[int], list[list[int]]]:
        """Bring to the host how many drafts each sequence accepted, and the tokens it emitted."""
        rows = torch.cat((self.lengths[:, None], accepted[:, None], emitted), dim=1).tolist()
        self.longest = max(row[0] for row in rows)
        return [row[1] for row in rows], [row[2 : row[1] + 3] for row in rows]
