"""How the bundled pair was made: the Python standard library in, small Llama checkpoints out.

    python -m reference train                the tokenizer, target, draft and head
    python -m reference train --part head    a head alone, for the target that is there
    python -m reference train --preset gpu   a larger pair, for a machine with a GPU

The corpus is the source of the standard library of the Python that runs this, so nothing is
downloaded. Another version of Python has another library, and the printed hash of the corpus
differs. The hash of a file's path decides whether the file is held out. Budgets are in tokens, not
minutes: a slower machine takes longer to reach the same weights. A run writes checkpoints and
resumes from the last one.

| module | content |
|---|---|
| `recipe` | what is trained, on how many tokens, at which learning rates |
| `loop` | the training loop of every part: batches, optimisers, checkpoints, the best weights |
| `models` | a model learns the text |
| `distillation`, `head` | a draft, and a draft head, learn from the target |
| `pair`, `card` | all parts into a folder, and the folder's README |
"""

from reference.lab.training.distillation import distil
from reference.lab.training.head import acceptance_by_depth, train_head
from reference.lab.training.models import train_model
from reference.lab.training.pair import PARTS, make_pair
from reference.lab.training.recipe import (
    RECIPES,
    DraftRecipe,
    HeadRecipe,
    Recipe,
    bundled_architecture,
)

__all__ = [
    "PARTS",
    "RECIPES",
    "DraftRecipe",
    "HeadRecipe",
    "Recipe",
    "acceptance_by_depth",
    "bundled_architecture",
    "distil",
    "make_pair",
    "train_head",
    "train_model",
]
