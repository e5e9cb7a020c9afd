"""A draft head learns to predict the target's distribution, from the target's states and its own.

In decoding, the first draft of a cycle uses a hidden state of the target; every further draft uses
a state that the head made itself, at the position before. So training does the same: at depth d,
the head reads at each position the state that it made for the position before at depth d - 1
("training-time test", EAGLE-3, arXiv:2503.01840). The target is frozen; its distribution at each
position is the label.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from reference.heads import Head, untrained_head
from reference.lab.training.loop import Curve, even_windows, train
from reference.lab.training.recipe import HeadRecipe
from reference.transformer import Transformer


def train_head(
    recipe: HeadRecipe,
    target: Transformer,
    tokens: Tensor,
    held_out: Tensor,
    checkpoint: Path,
    compiled: bool = True,
) -> tuple[Head, Curve]:
    """Train a draft head for `target`, on its device and on the stream `tokens`.

    `target` must not be packed, because gradients flow through its LM head. Returns the head and
    its loss curve (see `train`). A loss is the KL divergence of the head's distribution from the
    target's, in nats per token: a mean over the depths.
    """
    head = untrained_head(target.requires_grad_(False), recipe.seed)
    precision = torch.autocast(target.device.type, torch.bfloat16)

    def batch_loss(batch: Tensor) -> Tensor:
        with precision:
            return divergences(head, target, batch[:, :-1], recipe.depth).mean()

    @torch.inference_mode()
    def held_out_loss() -> float:
        windows = even_windows(held_out, recipe.sequence, 32)[:, :-1].to(target.device)
        with precision:
            means = [
                divergences(head, target, part, recipe.depth).mean() for part in windows.split(8)
            ]
        return torch.stack(means).mean().item()

    curve = train(
        f"head of {target.architecture.name}", head.own, recipe, tokens, checkpoint,
        batch_loss=torch.compile(batch_loss) if compiled else batch_loss,
        held_out_loss=held_out_loss,
        models={"target": target},
    )  # fmt: skip
    return head.eval().requires_grad_(False), curve


def divergences(head: Head, target: Transformer, tokens: Tensor, depth: int) -> Tensor:
    """KL(target || head) at each depth, in nats, (depth,): means over the positions of `tokens`
    (B, T)."""
    with torch.no_grad():
        states = target.hidden(tokens)
        labels = target.head(states).float().log_softmax(-1)
    return torch.stack(
        [
            F.kl_div(drafted, labels[:, skipped:], reduction="none", log_target=True).sum(-1).mean()
            for skipped, drafted in enumerate(unrolled(head, states, tokens, depth))
        ]
    )


def unrolled(head: Head, states: Tensor, tokens: Tensor, depth: int) -> Iterator[Tensor]:
    """The head's log-probabilities at depths 1 … `depth`, (B, T - d + 1, V) for depth d.

    They are those of the d-th draft of a cycle, at every position where it can be. `states`
    (B, T, C) are the target's hidden states on `tokens` (B, T).
    """
    cache, positions = Unrolled(), torch.arange(tokens.shape[1], device=tokens.device)
    model = head.architecture
    for skipped in range(depth):
        bias = unrolled_bias(positions, skipped, states.dtype)
        bias = bias.repeat(model.num_heads // model.num_kv_heads, 1)[None, None]
        before = F.pad(states[:, :-1], (0, 0, 1, 0))  # one position later; zeros before the first
        states = head.states(tokens, before, positions[None], cache, bias=bias)
        yield head.head(states[:, skipped:]).float().log_softmax(-1)


def unrolled_bias(positions: Tensor, skipped: int, dtype: torch.dtype) -> Tensor:
    """The attention mask of one depth, (T, (skipped + 1) T): 0 for visible keys, else -inf.

    A draft at position s, `skipped` positions after the pending token, sees the keys from the
    target's states up to position s - skipped. Of each later position it sees the key of the depth
    at which that position was drafted.
    """
    here, there = positions[:, None], positions[None]
    visible = [there <= here - skipped]
    visible += [there == here - skipped + depth for depth in range(1, skipped + 1)]
    visible = torch.cat(visible, dim=1)
    return torch.zeros(visible.shape, dtype=dtype, device=positions.device).masked_fill_(
        ~visible, -math.inf
    )


class Unrolled:
    """The keys and values of all depths so far, in the role of a KVCache."""

    capacity = None  # the mask is given, so no window is needed

    def __init__(self):
        self.keys, self.values = [], []

    def write(self, layer: int, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Append the keys and values of one depth; the positions are not needed."""
        self.keys.append(keys)
        self.values.append(values)

    def read(self, layer: int, window: int | None) -> tuple[Tensor, Tensor]:
        """All keys and values so far."""
        return torch.cat(self.keys, dim=1), torch.cat(self.values, dim=1)


@torch.inference_mode()
def acceptance_by_depth(
    head: Head,
    target: Transformer,
    tokens: Tensor,
    depth: int = 8,
    sequence: int = 256,
    rows: int = 32,
) -> dict[str, list[float]]:
    """How often the first, second, … draft of a cycle is accepted on the text `tokens`, if all
    drafts before it were accepted.

    "sampled" is the mean over positions of sum min(p, q) at temperature 1. "greedy" is the share of
    positions where both distributions have the same most likely token.
    """
    windows = even_windows(tokens, sequence, rows)[:, :-1].to(target.device)
    sums = torch.zeros((2, depth))
    for part in windows.split(8):
        states = target.hidden(part)
        labels = target.head(states).float()
        p, best = labels.softmax(-1), labels.argmax(-1)
        for skipped, drafted in enumerate(unrolled(head, states, part, depth)):
            overlap = torch.minimum(p[:, skipped:], drafted.exp()).sum(-1).mean(1).sum()
            same = (best[:, skipped:] == drafted.argmax(-1)).float().mean(1).sum()
            sums[:, skipped] += torch.stack((overlap, same)).cpu()
    sampled, greedy = (sums / rows).tolist()
    return {
        "sampled": [round(share, 4) for share in sampled],
        "greedy": [round(share, 4) for share in greedy],
    }
