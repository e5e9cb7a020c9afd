"""The training loop of every part of the pair: batches, optimisers, checkpoints, best weights."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from reference.lab.training.recipe import Recipe
from specsim.checks import SpecsimError
from specsim.checks.files import writing

CHECKPOINT_EVERY_S = 120.0

Curve = list[dict[str, float]]


def train(
    name: str,
    weights: Mapping[str, nn.Parameter],
    recipe: Recipe,
    tokens: Tensor,
    checkpoint: Path,
    *,
    batch_loss: Callable[[Tensor], Tensor],
    held_out_loss: Callable[[], float],
    models: Mapping[str, nn.Module] | None = None,
) -> Curve:
    """Train `weights` in place on the stream `tokens`.

    `batch_loss` maps windows (B, sequence + 1) to a scalar. `checkpoint` is written every few
    minutes; if it exists, training resumes from it. If it is of another run, training begins anew
    and says so: of another recipe, stream, or one of the `models` by name that this run begins with
    or learns from. At the end the weights are those with the lowest `held_out_loss` (early stopping
    by selection).

    Returns the loss curve: tokens, loss and held-out loss, in about forty points.
    """
    device = next(iter(weights.values())).device
    optimisers = make_optimisers(weights, recipe)
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    peaks = [group["lr"] for group in groups]
    first, curve, best = 0, [], (math.inf, None)
    run = made_of(recipe, tokens, models or {})
    if checkpoint.exists():
        first, curve, best = resumed(checkpoint, weights, optimisers, run)
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    started = saved_at = time.monotonic()
    for step, batch in enumerate(batches(recipe, tokens, first), first):
        factor = learning_rate_factor(step / recipe.steps, recipe.warmup)
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * factor
        loss = batch_loss(batch.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        done = step + 1
        if done % max(1, recipe.steps // 40) == 0 or done == recipe.steps:
            reached = held_out_loss()
            if reached < best[0]:
                best = (reached, copied(weights))
            point = {
                "tokens": done * recipe.batch_tokens,
                "loss": round(loss.item(), 4),
                "held_out_loss": round(reached, 4),
            }
            curve.append(point)
            speed = (done - first) * recipe.batch_tokens / (time.monotonic() - started)
            print(f"{name} {point} {speed:.0f} tokens/s", flush=True)
        if time.monotonic() - saved_at > CHECKPOINT_EVERY_S:
            saved_at = time.monotonic()
            save_run(checkpoint, weights, optimisers, run, done, curve, best)
    save_run(checkpoint, weights, optimisers, run, recipe.steps, curve, best)
    set_to(weights, best[1])
    return curve


def make_optimisers(
    weights: Mapping[str, nn.Parameter], recipe: Recipe
) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices of the layers; AdamW for embedding, head and vectors."""
    matrices = [
        weight
        for name, weight in weights.items()
        if weight.ndim == 2 and not name.startswith(("embedding.", "head."))
    ]
    chosen = set(matrices)
    return [
        torch.optim.Muon(
            matrices,
            lr=recipe.matrix_learning_rate, weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            [weight for weight in weights.values() if weight not in chosen],
            lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0,
        ),
    ]  # fmt: skip


def batches(recipe: Recipe, tokens: Tensor, first: int) -> Iterator[Tensor]:
    """Random windows (B, sequence + 1) of the stream. A resumed run gets the same batches."""
    rows = recipe.batch_tokens // recipe.sequence
    window = torch.arange(recipe.sequence + 1)
    for step in range(first, recipe.steps):
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        starts = torch.randint(len(tokens) - recipe.sequence - 1, (rows, 1), generator=generator)
        yield tokens[starts + window].long()


def even_windows(tokens: Tensor, sequence: int, rows: int) -> Tensor:
    """`rows` windows (rows, sequence + 1), spread evenly over the stream."""
    starts = torch.linspace(0, len(tokens) - sequence - 2, rows).long()[:, None]
    return tokens[starts + torch.arange(sequence + 1)].long()


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Linear warm-up, then linear decay to zero at the end of the budget."""
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)


def copied(weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """A copy of the weights."""
    return {name: weight.detach().clone() for name, weight in weights.items()}


@torch.no_grad()
def set_to(weights: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copy `values` into the weights, by name."""
    for name, weight in weights.items():
        weight.copy_(values[name])


def made_of(recipe: Recipe, tokens: Tensor, models: Mapping[str, nn.Module]) -> dict[str, str]:
    """What tells a run from others: the recipe with its budget, and sha256 sums of the corpus and
    of each model's weights."""
    run = {"recipe": repr(recipe), "corpus": hashlib.sha256(as_bytes(tokens)).hexdigest()}
    for name, model in models.items():
        digest = hashlib.sha256()
        for weight in model.state_dict().values():
            digest.update(as_bytes(weight))
        run[name] = digest.hexdigest()
    return run


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor of any shape and dtype, on the host."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


def resumed(path: Path, weights, optimisers, run: dict[str, str]) -> tuple[int, Curve, tuple]:
    """Put what `save_run` wrote into weights and optimisers; returns the steps done, the curve, and
    the best loss with its weights. If it was not of this `run` (see `made_of`), a sentence says so
    and nothing is done. Raises SpecsimError if the file is broken."""
    device = next(iter(weights.values())).device
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        found = state.get("run", {})
        other = [what for what, value in run.items() if found.get(what) != value]
        if other:
            print(f"{path} is not of this {' and '.join(other)}: training begins anew", flush=True)
            return 0, [], (math.inf, None)
        set_to(weights, state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        return state["step"], state["curve"], tuple(state["best"])
    except Exception as error:  # torch.load raises a dozen types
        reason = " ".join(str(error).split())[:200]
        raise SpecsimError(
            f"cannot resume from {path} ({type(error).__name__}: {reason}); delete it to train "
            "from the start"
        ) from None


def save_run(
    path: Path, weights, optimisers, run: dict[str, str], step: int, curve: Curve, best: tuple
) -> None:
    """Replace the checkpoint in one step, so that an interrupted run leaves a complete file."""
    state = {
        "model": copied(weights), "optimisers": [o.state_dict() for o in optimisers],
        "run": run, "step": step, "curve": curve, "best": best,
    }  # fmt: skip
    with writing(path) as new:
        torch.save(state, new)
