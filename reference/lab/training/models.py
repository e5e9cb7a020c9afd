"""A model is trained to tell the next token of the corpus."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from reference.lab.training.recipe import Recipe
from reference.lab.training.run import Curve, even_windows, run
from reference.transformer import Transformer


def train_model(
    recipe: Recipe,
    tokens: Tensor,
    held_out: Tensor,
    checkpoint: Path,
    device: torch.device | str = "cpu",
    compiled: bool = True,
) -> tuple[Transformer, Curve]:
    """Train `recipe` on the stream `tokens`; returns the model and its loss curve (see `run`).

    `compiled` fuses the element-wise work with torch.compile, which needs a C++ compiler on a CPU
    and is 1.3 times faster there.
    """
    torch.manual_seed(recipe.seed)
    model = initialise(Transformer(recipe.architecture)).to(device)
    precision = torch.autocast(torch.device(device).type, torch.bfloat16)

    def batch_loss(batch: Tensor) -> Tensor:
        with precision:
            logits = model(batch[:, :-1])
            return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())

    def held_out_loss() -> float:
        with precision:
            return evaluate(model, held_out, recipe.sequence)

    curve = run(
        recipe.architecture.name, dict(model.named_parameters()), recipe, tokens, checkpoint,
        batch_loss=torch.compile(batch_loss) if compiled else batch_loss,
        held_out_loss=held_out_loss,
    )  # fmt: skip
    return model.eval(), curve


def initialise(model: Transformer) -> Transformer:
    """Normal weights, the projections that write to the residual stream scaled down by depth
    (GPT-2's rule)."""
    depth_scale = 1 / math.sqrt(2 * model.architecture.num_layers)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            std = 0.02 * (depth_scale if name.endswith(("output.weight", "down.weight")) else 1)
            torch.nn.init.normal_(parameter, std=std)
    return model


@torch.inference_mode()
def evaluate(model: Transformer, tokens: Tensor, sequence: int, rows: int = 64) -> float:
    """Mean loss in nats per token over `rows` windows spread evenly over the stream."""
    total = 0.0
    for batch in even_windows(tokens, sequence, rows).to(model.device).split(16):
        logits = model(batch[:, :-1]).float()
        total += F.cross_entropy(
            logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
        ).item()
    return total / (rows * sequence)
