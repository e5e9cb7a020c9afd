"""A draft is taught what it is wanted for: to say what the target says, not what the text says.

The chance that a draft is accepted is the overlap of the two laws, sum min(p, q), which is one
minus their distance in total variation. So that distance is the loss, on the text, the target
frozen (DistillSpec, arXiv:2310.08461, compares it with divergences). It has little to say about a
law far from the target's: a draft begins as any model does, and this comes after.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from reference.lab.training.recipe import DraftRecipe
from reference.lab.training.run import Curve, even_windows, run
from reference.transformer import Transformer


def distil(
    recipe: DraftRecipe,
    draft: Transformer,
    target: Transformer,
    tokens: Tensor,
    held_out: Tensor,
    checkpoint: Path,
    compiled: bool = True,
) -> Curve:
    """Train `draft` in place towards the law of `target`; returns the curve (see `run`), in which a
    loss is one minus the mean acceptance at temperature 1."""
    target.requires_grad_(False)
    draft.requires_grad_(True)
    precision = torch.autocast(target.device.type, torch.bfloat16)

    def batch_loss(batch: Tensor) -> Tensor:
        with precision:
            return 1 - overlap(target, draft, batch[:, :-1])

    @torch.inference_mode()
    def held_out_loss() -> float:
        windows = even_windows(held_out, recipe.sequence, 32)[:, :-1].to(target.device)
        with precision:
            means = [1 - overlap(target, draft, part) for part in windows.split(8)]
        return torch.stack(means).mean().item()

    second = replace(
        recipe,
        budget_tokens=recipe.distilled_tokens,
        matrix_learning_rate=recipe.matrix_learning_rate * recipe.distilled_rate,
        learning_rate=recipe.learning_rate * recipe.distilled_rate,
        seed=recipe.seed + 1,  # other windows
    )
    return run(
        f"{recipe.architecture.name}, distilled", dict(draft.named_parameters()), second, tokens,
        checkpoint,
        batch_loss=torch.compile(batch_loss) if compiled else batch_loss,
        held_out_loss=held_out_loss,
    )  # fmt: skip


def overlap(target: Transformer, draft: Transformer, tokens: Tensor) -> Tensor:
    """The mean over all places of `tokens` (B, T) of sum min(p, q): how often a token that the
    draft proposes there is accepted at temperature 1. Gradients flow to the draft alone."""
    with torch.no_grad():
        p = target(tokens).float().softmax(-1)
    return torch.minimum(p, draft(tokens).float().softmax(-1)).sum(-1).mean()
