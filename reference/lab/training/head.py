"""A head is trained to say what the target says, on states of the target's and on its own.

At decoding time only the first draft of a cycle stands on the target's state; every further one
stands on what the head itself made of the place before. So training unrolls: at depth d the head
reads at each place the state that it made, at depth d - 1, of the place before ("training-time
test", EAGLE-3, arXiv:2503.01840). The target is frozen; its law at each place is the label.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from reference.heads import Head, untrained_head
from reference.lab.training.recipe import HeadRecipe
from reference.lab.training.run import Curve, even_windows, run
from reference.transformer import Transformer


def train_head(
    recipe: HeadRecipe,
    target: Transformer,
    tokens: Tensor,
    held_out: Tensor,
    checkpoint: Path,
    compiled: bool = True,
) -> tuple[Head, Curve]:
    """Train a head of `target`, on its device; returns it and its loss curve (see `run`).

    The losses are the divergence of the head's law from the target's, in nats per token, a mean
    over the depths. `target` must not be packed: gradients flow through its LM head.
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

    curve = run(
        f"head of {target.architecture.name}", head.own, recipe, tokens, checkpoint,
        batch_loss=torch.compile(batch_loss) if compiled else batch_loss,
        held_out_loss=held_out_loss,
    )  # fmt: skip
    return head.eval().requires_grad_(False), curve


def divergences(head: Head, target: Transformer, tokens: Tensor, depth: int) -> Tensor:
    """KL(target's law || head's law) in nats at each depth, (depth,): means over the windows
    `tokens` (B, T)."""
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
    """The head's log-probabilities at depths 1 … `depth`, (B, T - d + 1, V) for depth d: those of
    its d-th draft in a row, at every place where that can stand.

    `states` (B, T, C) are the target's on `tokens` (B, T).
    """
    cache, places = Unrolled(), torch.arange(tokens.shape[1], device=tokens.device)
    shape = head.architecture
    for skipped in range(depth):
        bias = unrolled_bias(places, skipped, states.dtype)
        bias = bias.repeat(shape.num_heads // shape.num_kv_heads, 1)[None, None]
        before = F.pad(states[:, :-1], (0, 0, 1, 0))  # one place later; zeros before the first
        states = head.states(tokens, before, places[None], cache, bias=bias)
        yield head.head(states[:, skipped:]).float().log_softmax(-1)


def unrolled_bias(places: Tensor, skipped: int, dtype: torch.dtype) -> Tensor:
    """Who looks where at one depth, (T, (skipped + 1) T): 0 where a place may look, else -inf.

    The draft at place s, `skipped` places after the pending token, looks at what was made of the
    target's states up to s - skipped, and of each place since at its own depth.
    """
    here, there = places[:, None], places[None]
    visible = [there <= here - skipped]
    visible += [there == here - skipped + depth for depth in range(1, skipped + 1)]
    visible = torch.cat(visible, dim=1)
    return torch.zeros(visible.shape, dtype=dtype, device=places.device).masked_fill_(
        ~visible, -math.inf
    )


class Unrolled:
    """The keys and values of all depths so far, one after another, in the place of a KVCache."""

    capacity = None  # the bias is given; no window is asked for

    def __init__(self):
        self.keys, self.values = [], []

    def write(self, layer: int, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        self.keys.append(keys)
        self.values.append(values)

    def read(self, layer: int, window: int | None) -> tuple[Tensor, Tensor]:
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
    """How the first, second, … draft in a row fares on the text `tokens`, each if it is reached.

    "sampled": the mean over places of sum min(p, q) at temperature 1, the chance that the draft is
    accepted. "greedy": the share of places where both laws have the same likeliest token.
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
