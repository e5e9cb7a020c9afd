"""How the bundled pair was made: the Python standard library in, two small Llama checkpoints out.

    python -m reference train                the tokenizer, the target and the draft, as shipped
    python -m reference train --preset gpu   a larger pair, for a machine with a GPU

The corpus is the source of the standard library of the Python that runs this, so that nothing has
to be downloaded; another Python has another library and gives another corpus hash, which is
reported. Files are split by the hash of their path into those trained on and those held out.
Budgets are in tokens, not minutes: a slower machine takes longer to reach the same weights. A run
writes a checkpoint as it goes and resumes from it.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from reference.checkpoints import save_checkpoint, write_text
from reference.corpus import (
    END_OF_TEXT,
    VOCAB_SIZE,
    choose_prompts,
    standard_library,
    token_stream,
    train_tokenizer,
)
from reference.transformer import Transformer
from specsim.architecture import Architecture

CHECKPOINT_EVERY_S = 120.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is trained, on how much, and how fast. `budget_tokens` and `batch_tokens` count
    tokens."""

    architecture: Architecture
    budget_tokens: int
    batch_tokens: int = 8192
    sequence: int = 512
    matrix_learning_rate: float = 4e-3  # Muon, on the weight matrices of the layers
    learning_rate: float = 3e-3  # AdamW, on the embedding and the norms
    weight_decay: float = 0.1
    warmup: float = 0.02  # share of the budget
    seed: int = 0

    @property
    def steps(self) -> int:
        return max(1, self.budget_tokens // self.batch_tokens)


def bundled_shape(
    name: str, hidden: int, layers: int, heads: int, kv_heads: int, mlp: int
) -> Architecture:
    return Architecture(
        name=name, hidden_size=hidden, num_layers=layers, num_heads=heads, num_kv_heads=kv_heads,
        head_dim=hidden // heads, intermediate_size=mlp, vocab_size=VOCAB_SIZE, tied_head=True,
        max_context=512,
    )  # fmt: skip


RECIPES = {
    "bundled": {
        "target": Recipe(
            bundled_shape("bundled-target", 256, 8, 4, 2, 768), budget_tokens=9_000_000
        ),
        "draft": Recipe(
            bundled_shape("bundled-draft", 192, 1, 3, 1, 512),
            budget_tokens=8_000_000,
            batch_tokens=4096,
        ),
    },
    "gpu": {
        "target": Recipe(
            bundled_shape("gpu-target", 512, 12, 8, 4, 1536),
            budget_tokens=200_000_000,
            batch_tokens=65_536,
        ),
        "draft": Recipe(
            bundled_shape("gpu-draft", 384, 1, 6, 2, 1024),
            budget_tokens=200_000_000,
            batch_tokens=65_536,
        ),
    },
}


# The training run


def train(
    recipe: Recipe,
    tokens: Tensor,
    held_out: Tensor,
    checkpoint: Path,
    device: torch.device | str = "cpu",
    compiled: bool = True,
) -> tuple[Transformer, list[dict[str, float]]]:
    """Train `recipe` on the stream `tokens`; returns the model and its loss curve (nats per token).

    Writes `checkpoint` every few minutes and starts from it if it exists. The weights returned are
    those with the lowest held-out loss seen (early stopping by selection). `compiled` fuses the
    element-wise work with torch.compile, which needs a C++ compiler on a CPU and is 1.3 times
    faster there.
    """
    torch.manual_seed(recipe.seed)
    model = initialise(Transformer(recipe.architecture)).to(device)
    optimisers = [
        torch.optim.Muon(
            [p for p in model.layers.parameters() if p.ndim == 2],
            lr=recipe.matrix_learning_rate, weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            [p for n, p in model.named_parameters() if p.ndim == 1 or not n.startswith("layers")],
            lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0,
        ),
    ]  # fmt: skip
    peaks = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    first, curve, best = 0, [], (math.inf, None)
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        first, curve, best = state["step"], state["curve"], tuple(state["best"])
    precision = torch.autocast(torch.device(device).type, torch.bfloat16)

    def batch_loss(batch: Tensor) -> Tensor:
        with precision:
            logits = model(batch[:, :-1])
            return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())

    if compiled:
        batch_loss = torch.compile(batch_loss)
    started = saved_at = time.monotonic()
    for step, batch in enumerate(batches(recipe, tokens, first), first):
        factor = learning_rate_factor(step / recipe.steps, recipe.warmup)
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * factor
        loss = batch_loss(batch.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        done = step + 1
        if done % max(1, recipe.steps // 40) == 0 or done == recipe.steps:
            with precision:
                held_out_loss = evaluate(model, held_out, recipe.sequence)
            if held_out_loss < best[0]:
                best = (
                    held_out_loss,
                    {k: v.detach().clone() for k, v in model.state_dict().items()},
                )
            point = {
                "tokens": done * recipe.batch_tokens,
                "loss": round(loss.item(), 4),
                "held_out_loss": round(held_out_loss, 4),
            }
            curve.append(point)
            speed = (done - first) * recipe.batch_tokens / (time.monotonic() - started)
            print(f"{recipe.architecture.name} {point} {speed:.0f} tokens/s", flush=True)
        if time.monotonic() - saved_at > CHECKPOINT_EVERY_S:
            saved_at = time.monotonic()
            save_run(checkpoint, model, optimisers, done, curve, best)
    save_run(checkpoint, model, optimisers, recipe.steps, curve, best)
    model.load_state_dict(best[1])
    return model.eval(), curve


def batches(recipe: Recipe, tokens: Tensor, first: int) -> Iterator[Tensor]:
    """Random windows (B, sequence + 1) of the stream; batch number n is the same in a resumed
    run."""
    rows = recipe.batch_tokens // recipe.sequence
    window = torch.arange(recipe.sequence + 1)
    for step in range(first, recipe.steps):
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        starts = torch.randint(len(tokens) - recipe.sequence - 1, (rows, 1), generator=generator)
        yield tokens[starts + window].long()


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Linear warm-up, then linear decay to zero at the end of the budget."""
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)


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
    starts = torch.linspace(0, len(tokens) - sequence - 2, rows).long()[:, None]
    windows = tokens[starts + torch.arange(sequence + 1)].long().to(model.device)
    total = 0.0
    for batch in windows.split(16):
        logits = model(batch[:, :-1]).float()
        total += F.cross_entropy(
            logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
        ).item()
    return total / (rows * sequence)


def save_run(path: Path, model, optimisers, step: int, curve: list, best: tuple) -> None:
    """Replace the checkpoint in one move, so that an interrupted run leaves a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(), "optimisers": [o.state_dict() for o in optimisers],
        "step": step, "curve": curve, "best": best,
    }  # fmt: skip
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


# A pair, from nothing to a folder of checkpoints


def make_pair(
    preset: str,
    out: Path,
    device: torch.device | str = "cpu",
    compiled: bool = True,
    budget: int | None = None,
) -> dict:
    """Train the tokenizer, the target and the draft of `preset`, and write them with their card
    into `out`.

    Checkpoints of the runs lie in `out`/training and an interrupted run goes on from them. `budget`
    replaces the recipes' tokens (for a trial). Returns what the card says.
    """
    corpus = standard_library()
    runs = out / "training"
    runs.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(corpus.train)
    tokens = token_stream(tokenizer, corpus.train)
    held_out = token_stream(tokenizer, [text for _, text in corpus.held_out])
    print(
        f"corpus: {len(corpus.train)} files, {len(tokens) / 1e6:.1f}M tokens, "
        f"sha256 {corpus.sha256[:16]}",
        flush=True,
    )
    write_text(out / "prompts.json", json.dumps(choose_prompts(corpus), indent=1) + "\n")
    card = {
        "corpus": {
            "what": f"the source of Python {corpus.python}'s standard library (PSF licence)",
            "sha256": corpus.sha256,
            "files": len(corpus.train),
            "held_out_files": len(corpus.held_out),
            "tokens": len(tokens),
            "bytes_per_token": round(
                sum(len(text.encode()) for text in corpus.train) / len(tokens), 3
            ),
        },
        "models": {},
    }
    models = {}
    for role, recipe in RECIPES[preset].items():
        if budget is not None:
            recipe = replace(recipe, budget_tokens=budget)
        started = time.monotonic()
        model, curve = train(recipe, tokens, held_out, runs / f"{role}.pt", device, compiled)
        end = tokenizer.token_to_id(END_OF_TEXT)
        model.stop_ids = frozenset([end])
        models[role] = model
        save_checkpoint(model, out / role, tokenizer=tokenizer)
        card["models"][role] = {
            "parameters": recipe.architecture.parameters,
            "recipe": {
                key: value for key, value in asdict(recipe).items() if key != "architecture"
            },
            "held_out_loss": min(point["held_out_loss"] for point in curve),
            "curve": curve,
            "minutes": round((time.monotonic() - started) / 60, 1),
        }
    card["alpha"] = round(mean_overlap(models["target"], models["draft"], held_out), 4)
    write_text(out / "card.json", json.dumps(card, indent=1) + "\n")
    write_text(out / "README.md", model_card(card))
    return card


@torch.inference_mode()
def mean_overlap(
    target: Transformer, draft: Transformer, tokens: Tensor, rows: int = 32, sequence: int = 256
) -> float:
    """alpha of the pair on held-out text at temperature 1: the mean over positions of sum min(p,
    q)."""
    starts = torch.linspace(0, len(tokens) - sequence - 1, rows).long()[:, None]
    windows = tokens[starts + torch.arange(sequence)].long().to(target.device)
    p, q = (model(windows).float().softmax(-1) for model in (target, draft))
    return torch.minimum(p, q).sum(-1).mean().item()


def model_card(card: dict) -> str:
    """The card as Markdown, beside the weights."""
    corpus = card["corpus"]
    lines = [
        "# The bundled pair",
        "",
        "Two small Llama checkpoints that write Python, made by `python -m reference train` from",
        "nothing but the Python on the machine. They exist so that speculative decoding can be",
        "measured without a download; they are no use as programmers.",
        "",
        f"Corpus: {corpus['what']}, split by file:",
        f"{corpus['files']} files trained on and {corpus['held_out_files']} held out,",
        f"{corpus['tokens'] / 1e6:.2f}M tokens of {corpus['bytes_per_token']} bytes,",
        f"sha256 `{corpus['sha256']}`.",
        "The prompts in `prompts.json` are pieces of held-out files, under the same licence.",
        "",
        "| model | parameters | tokens trained on | held-out loss (nats per token) |",
        "|---|---|---|---|",
    ]
    for role, model in card["models"].items():
        budget = model["recipe"]["budget_tokens"]
        lines.append(
            f"| {role} | {model['parameters']:,} | {budget / 1e6:.1f}M "
            f"| {model['held_out_loss']:.3f} |"
        )
    lines += [
        "",
        "Mean overlap of the two laws on held-out text at temperature 1 (alpha): "
        f"**{card['alpha']:.3f}**.",
        "",
        "Recipes, seeds and loss curves: `card.json`. Another Python has another standard library",
        "and gives another corpus hash.",
    ]
    return "\n".join(lines) + "\n"
