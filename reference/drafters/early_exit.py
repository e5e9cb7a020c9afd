"""The target's own first layers draft for it (LayerSkip, arXiv:2404.16710).

No second model is loaded. How often such drafts are accepted depends on training: a model that was
never trained to exit early predicts badly after half its layers.
"""

import torch
from torch import nn

from reference.cache import KVCache
from reference.drafters.draft_model import DraftModel
from reference.layers import model_of
from reference.sequences import Sequences
from reference.transformer import Transformer


class EarlyExit(DraftModel):
    """Drafts `gamma` tokens with the target's first `layers` layers and the target's own norm and
    head.

    Weights, keys and values are the target's. Drafting reads what the verify pass wrote of the
    first layers, so there is no second cache, no prefill, and nothing to catch up. Raises
    SpecsimError at the start if the target has fewer layers.
    """

    rows = 1

    def __init__(self, layers: int, gamma: int, stop_below: float = 0.0):
        self.layers, self.gamma, self.stop_below = layers, gamma, stop_below

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        self.model, self.cache = first_layers(target, self.layers), cache

    def release(self) -> None:
        self.cache = None  # the target's


def first_layers(model: Transformer, layers: int) -> Transformer:
    """`model` without the layers after its first `layers`; every weight is shared."""
    shape = model.architecture.first_layers(layers)
    with torch.device("meta"):  # nothing is allocated, everything is replaced
        cut = model_of(shape, model.details)
    cut.embedding, cut.norm, cut.head = model.embedding, model.norm, model.head
    cut.layers = nn.ModuleList(model.layers[:layers])
    cut.rotary, cut.precision = model.rotary, model.precision
    return cut.eval()
