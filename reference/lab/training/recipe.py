"""What is trained, on how many tokens, and at which learning rates."""

from dataclasses import dataclass

from reference.lab.corpus import VOCAB_SIZE
from specsim.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained. `sequence` is the length of a window, in tokens."""

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
        """The number of optimiser steps."""
        return max(1, self.budget_tokens // self.batch_tokens)


@dataclass(frozen=True, slots=True)
class DraftRecipe(Recipe):
    """A draft learns the text first. Then it learns from the target, on `distilled_tokens`, at
    `distilled_rate` times the learning rates."""

    distilled_tokens: int = 0
    distilled_rate: float = 0.5


@dataclass(frozen=True, slots=True)
class HeadRecipe(Recipe):
    """A draft head for the model `architecture`, which learns to draft `depth` tokens in a row."""

    depth: int = 3


def bundled_architecture(
    name: str, hidden: int, layers: int, heads: int, kv_heads: int, mlp: int
) -> Architecture:
    """A small Llama model for the corpus; `mlp` is the size of its MLP."""
    return Architecture(
        name=name, hidden_size=hidden, num_layers=layers, num_heads=heads, num_kv_heads=kv_heads,
        head_dim=hidden // heads, intermediate_size=mlp, vocab_size=VOCAB_SIZE, tied_head=True,
        max_context=512,
    )  # fmt: skip


BUNDLED_TARGET = bundled_architecture("bundled-target", 256, 8, 4, 2, 768)
GPU_TARGET = bundled_architecture("gpu-target", 512, 12, 8, 4, 1536)

# in the order in which they are trained
RECIPES: dict[str, dict[str, Recipe]] = {
    "bundled": {
        "target": Recipe(BUNDLED_TARGET, budget_tokens=9_000_000),
        "draft": DraftRecipe(
            bundled_architecture("bundled-draft", 192, 1, 3, 1, 512),
            budget_tokens=8_000_000,
            batch_tokens=4096,
            distilled_tokens=10_000_000,
        ),
        # three times the models' learning rates: with 150,000 tokens, a head learned a quarter more
        "head": HeadRecipe(
            BUNDLED_TARGET,
            budget_tokens=800_000,
            batch_tokens=4096,
            matrix_learning_rate=1.2e-2,
            learning_rate=6e-3,
        ),
    },
    "gpu": {
        "target": Recipe(GPU_TARGET, budget_tokens=160_000_000, batch_tokens=65_536),
        "draft": DraftRecipe(
            bundled_architecture("gpu-draft", 384, 1, 6, 2, 1024),
            budget_tokens=100_000_000,
            batch_tokens=65_536,
            distilled_tokens=40_000_000,
        ),
        "head": HeadRecipe(GPU_TARGET, budget_tokens=60_000_000, batch_tokens=65_536),
    },
}
