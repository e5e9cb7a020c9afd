"""How the bundled pair was made: the Python standard library in, small Llama checkpoints out.

    python -m reference train                the tokenizer, target, draft and head
    python -m reference train --part head    a head alone, for the target that is there
    python -m reference train --preset gpu   a larger pair, for a machine with a GPU

The corpus is the source of the standard library of the Python that runs this, so that nothing has
to be downloaded; another Python has another library and gives another corpus hash, which is
reported. Files are split by the hash of their path into those trained on and those held out.
Budgets are in tokens, not minutes: a slower machine takes longer to reach the same weights. A run
writes a checkpoint as it goes and resumes from it.

| file | what it says |
|---|---|
| `recipe` | what is trained, on how much, how fast; the recipes of the presets |
| `run` | the run of any part: batches, optimisers, checkpoints, the best weights |
| `models` | what a model learns from the text |
| `distillation`, `head` | what a draft and a head learn from the target |
| `pair`, `card` | all of it, into a folder; what the folder says of itself |
"""

from reference.lab.training.distillation import distil
from reference.lab.training.head import acceptance_by_depth, train_head
from reference.lab.training.models import train_model
from reference.lab.training.pair import PARTS, make_pair
from reference.lab.training.recipe import RECIPES, DraftRecipe, HeadRecipe, Recipe, bundled_shape

__all__ = [
    "PARTS",
    "RECIPES",
    "DraftRecipe",
    "HeadRecipe",
    "Recipe",
    "acceptance_by_depth",
    "bundled_shape",
    "distil",
    "make_pair",
    "train_head",
    "train_model",
]
