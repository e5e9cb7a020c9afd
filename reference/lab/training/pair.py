"""The whole pair and its draft head: from the corpus to a folder of checkpoints."""

import json
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from reference.checkpoints import load_checkpoint, one_line_for, save_checkpoint
from reference.heads import save_head
from reference.lab.corpus import (
    END_OF_TEXT,
    Corpus,
    choose_prompts,
    standard_library,
    token_stream,
    train_tokenizer,
)
from reference.lab.training.card import model_card
from reference.lab.training.distillation import distil, overlap
from reference.lab.training.head import acceptance_by_depth, train_head
from reference.lab.training.loop import even_windows
from reference.lab.training.models import evaluate, train_model
from reference.lab.training.recipe import RECIPES, DraftRecipe, HeadRecipe, Recipe
from reference.transformer import Transformer
from specsim.checks import SpecsimError, require_positive
from specsim.checks.files import read_json, require_writable, write_text

PARTS = ("target", "draft", "head")  # in the order in which they are trained


def make_pair(
    preset: str,
    out: Path,
    device: torch.device | str = "cpu",
    compiled: bool = True,
    budget: int | None = None,
    parts: Collection[str] = PARTS,
) -> dict:
    """Train the `parts` of `preset`, and write them with their card into `out`.

    If all three parts are trained, the tokenizer and the prompts are made too. If not, `out` must
    hold a pair, whose other parts are kept. A head and a distilled draft learn from one target, so
    train them again after a new target.

    Checkpoints of the runs are in `out`/training; an interrupted run resumes from them, and begins
    anew where they are of another recipe, budget, corpus or target. `budget` replaces the recipes'
    tokens, for a trial. Returns the content of card.json. Raises SpecsimError if `out` cannot be
    written or does not hold a pair that fits, and for a budget that is not above 0.
    """
    if budget is not None:
        require_positive("--tokens", budget)
    require_writable(out)
    corpus = standard_library()
    if set(parts) == set(PARTS):
        tokenizer, card = train_tokenizer(corpus.train), {"models": {}}
        write_text(out / "prompts.json", json.dumps(choose_prompts(corpus), indent=1) + "\n")
    else:
        tokenizer, card = existing(out, corpus)
    tokens = token_stream(tokenizer, corpus.train)
    held_out = token_stream(tokenizer, [text for _, text in corpus.held_out])
    print(
        f"corpus: {len(corpus.train)} files, {len(tokens) / 1e6:.1f}M tokens, "
        f"sha256 {corpus.sha256[:16]}",
        flush=True,
    )
    card["corpus"] = corpus_facts(corpus, len(tokens))
    models = {}
    for part in PARTS:
        recipe, checkpoint = RECIPES[preset][part], out / "training" / f"{part}.pt"
        if budget is not None:
            recipe = replace(recipe, budget_tokens=budget)
            if isinstance(recipe, DraftRecipe):
                recipe = replace(recipe, distilled_tokens=budget)
        started = time.monotonic()
        if part not in parts:
            if part != "head":
                models[part] = load_part(out / part, recipe, device)
            continue
        if isinstance(recipe, HeadRecipe):
            target = models["target"]
            head, curve = train_head(recipe, target, tokens, held_out, checkpoint, compiled)
            save_head(head, target, out / part)
            entry = {
                "parameters": sum(weight.numel() for weight in head.own.values()),
                "held_out_loss": min(point["held_out_loss"] for point in curve),
                "acceptance_by_depth": acceptance_by_depth(head, target, held_out),
            }
        else:
            second = checkpoint.with_stem(f"{part}-distilled")
            model, curve = train_model(recipe, tokens, held_out, checkpoint, device, compiled)
            entry = {"parameters": recipe.architecture.parameters}
            if isinstance(recipe, DraftRecipe) and recipe.distilled_tokens:
                entry["distillation"] = distil(
                    recipe, model, models["target"], tokens, held_out, second, compiled
                )
            model.stop_ids = frozenset([tokenizer.token_to_id(END_OF_TEXT)])
            save_checkpoint(model, out / part, tokenizer=tokenizer)
            # read back in bfloat16 as written, so that the head trains on what it will decode with
            models[part] = load_part(out / part, recipe, device)
            entry["held_out_loss"] = round(evaluate(models[part], held_out, recipe.sequence), 4)
        card["models"][part] = entry | {
            "recipe": {
                key: value for key, value in asdict(recipe).items() if key != "architecture"
            },
            "curve": curve,
            "minutes": round((time.monotonic() - started) / 60, 1),
        }
    card["alpha"] = round(mean_overlap(models["target"], models["draft"], held_out), 4)
    write_text(out / "card.json", json.dumps(card, indent=1) + "\n")
    write_text(out / "README.md", model_card(card))
    return card


def existing(out: Path, corpus: Corpus) -> tuple[Tokenizer, dict]:
    """The tokenizer and the card of the pair in `out`, which must come from this corpus."""
    tokenizer, card = out / "target" / "tokenizer.json", out / "card.json"
    for file in (tokenizer, card):
        if not file.is_file():
            raise SpecsimError(
                f"no such file: {file}; a single part needs an existing pair: train all parts first"
            )
    content = read_json(card)
    made_from = content.get("corpus")
    if not isinstance(made_from, dict) or not isinstance(content.get("models"), dict):
        raise SpecsimError(f"{card} must hold tables called corpus and models")
    if made_from.get("sha256") != corpus.sha256:
        raise SpecsimError(
            f"{out} was made from another corpus ({made_from.get('what')}) than that of Python "
            f"{corpus.python}, so its held-out files differ; train all parts, or use that Python"
        )
    with one_line_for(f"cannot read the tokenizer {tokenizer}"):
        return Tokenizer.from_file(str(tokenizer)), content


def load_part(folder: Path, recipe: Recipe, device: torch.device | str) -> Transformer:
    """The model in `folder`, in float32 and not packed. It must be the model of the recipe."""
    model, wanted = load_checkpoint(folder, device=device, packed=False), recipe.architecture
    model.architecture = replace(model.architecture, name=wanted.name)
    if model.architecture != wanted:
        raise SpecsimError(
            f"{folder} is not the model {wanted.name}; give the preset that it was made with"
        )
    return model


def corpus_facts(corpus: Corpus, tokens: int) -> dict:
    """What card.json says about the corpus."""
    size = sum(len(text.encode()) for text in corpus.train)
    return {
        "what": f"the source of Python {corpus.python}'s standard library (PSF licence)",
        "sha256": corpus.sha256,
        "files": len(corpus.train),
        "held_out_files": len(corpus.held_out),
        "tokens": tokens,
        "bytes_per_token": round(size / tokens, 3),
    }


@torch.inference_mode()
def mean_overlap(
    target: Transformer, draft: Transformer, tokens: Tensor, rows: int = 32, sequence: int = 256
) -> float:
    """Alpha of the pair on held-out text at temperature 1: the mean of sum min(p, q)."""
    windows = even_windows(tokens, sequence, rows)[:, :-1].to(target.device)
    return overlap(target, draft, windows).item()
