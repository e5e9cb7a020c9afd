"""A draft learns to predict the target's distribution, instead of the text.

A draft token is accepted with probability sum min(p, q), the overlap of the two distributions. This
is one minus their total variation distance, so that distance is the loss (DistillSpec,
arXiv:2310.08461, compares it with other divergences). The target is frozen. The loss teaches little
while the draft is far from the target, so the draft first learns the text like any other model.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from reference.lab.training.loop import Curve, even_windows, train
from reference.lab.training.recipe import DraftRecipe
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
    """Train `draft` in place towards the distribution of `target`, on the stream `tokens`.

    Returns the loss curve (see `train`). A loss is one minus the mean acceptance rate at
    temperature 1.
    """
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
    return train(
        f"{recipe.architecture.name}, distilled", dict(draft.named_parameters()), second, tokens,
        checkpoint,
        batch_loss=torch.compile(batch_loss) if compiled else batch_loss,
        held_out_loss=held_out_loss,
        models={"target": target, "draft": draft},
    )  # fmt: skip


def overlap(target: Transformer, draft: Transformer, tokens: Tensor) -> Tensor:
    """Mean of sum min(p, q) over the positions of `tokens` (B, T).

    This is how often a token of the draft is accepted there at temperature 1. Only the draft gets
    gradients.
    """
    with torch.no_grad():
        p = target(tokens).float().softmax(-1)
    return torch.minimum(p, draft(tokens).float().softmax(-1)).sum(-1).mean()
