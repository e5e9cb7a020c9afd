"""Dialled pairs: random weights of any shape, whose draft is the target's first layers, with the
acceptance asked for.

Where no trained pair of a size is at hand, this one moves the same bytes and accepts drafts for
real. Scaling what the later layers add to the residual stream (`output` and `down` of layers >= k,
by epsilon) dials how far the whole model departs from its first k layers: epsilon 0 makes the draft
perfect, 1 makes it useless, and alpha falls smoothly between.

It is not text: acceptance is nearly independent from position to position (per-position spread .03
to .12 and no memory, where real text has .2 and .3), so the i.i.d. model fits it better than it
fits language.
"""

import math

import torch
from torch import nn

from reference.packing import pack
from reference.transformer import Transformer, rotary_tables
from specsim.architecture import Architecture
from specsim.catalog import SpecsimError

ENTROPY_SCALE = 3.7  # logit standard deviation: about 3.8 nats of entropy over 8192 tokens


def dialled_pair(
    architecture: Architecture,
    draft_layers: int,
    alpha: float,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> tuple[Transformer, Transformer, float]:
    """Target, draft (its first `draft_layers` layers, weights shared) and the alpha that was
    reached at temperature 1.

    Epsilon is found by bisection on the mean overlap of the two laws over random contexts; the last
    value of that mean is returned. Raises SpecsimError for an alpha outside (0, 1) or more draft
    layers than the target has.
    """
    if not 0 < alpha < 1:
        raise SpecsimError(f"alpha must be inside (0, 1) for a dialled pair, not {alpha}")
    draft_shape = architecture.first_layers(draft_layers)
    if draft_layers == architecture.num_layers:
        raise SpecsimError(f"a draft of all {draft_layers} layers is the target itself")
    target = random_model(architecture, dtype, device, seed)
    with torch.device("meta"):
        draft = Transformer(draft_shape)
    draft.embedding, draft.norm, draft.head = target.embedding, target.norm, target.head
    draft.layers = nn.ModuleList(target.layers[:draft_layers])
    draft.cos, draft.sin = target.cos, target.sin
    later = [
        (weight, weight.clone())
        for layer in target.layers[draft_layers:]
        for weight in (layer.output.weight, layer.down.weight)
    ]
    generator = torch.Generator().manual_seed(seed)
    contexts = torch.randint(architecture.vocab_size, (2, 48), generator=generator).to(device)
    low, high = 0.0, 2.0
    reached = math.nan
    with torch.inference_mode():
        draft_probs = draft(contexts).float().softmax(-1)
        for _ in range(9):
            epsilon = (low + high) / 2
            for weight, original in later:
                weight.copy_(original * epsilon)
            target_probs = target(contexts).float().softmax(-1)
            reached = torch.minimum(target_probs, draft_probs).sum(-1).mean().item()
            if abs(reached - alpha) < 0.003:
                break
            low, high = (epsilon, high) if reached > alpha else (low, epsilon)
    draft.eval()
    shared = pack(target)
    draft.layers, draft.head = nn.ModuleList(shared.layers[:draft_layers]), shared.head
    return shared, draft, reached


@torch.inference_mode()
def random_model(
    architecture: Architecture, dtype: torch.dtype, device: torch.device | str, seed: int
) -> Transformer:
    """Random weights under which signals neither grow nor fade: embeddings of unit size, products
    of unit gain."""
    torch.manual_seed(seed)
    with torch.device("meta"):  # nothing is allocated or initialised twice
        model = Transformer(architecture).to(dtype)
    model.to_empty(device=device)
    model.cos, model.sin = (table.to(device, dtype) for table in rotary_tables(architecture))
    if architecture.tied_head:
        model.head.weight = model.embedding.weight
    for name, parameter in model.named_parameters():
        if name == "embedding.weight":
            parameter.normal_(std=1.0)
        elif name == "head.weight":
            parameter.normal_(std=ENTROPY_SCALE / math.sqrt(architecture.hidden_size))
        elif parameter.ndim == 2:
            parameter.normal_(std=1 / math.sqrt(parameter.shape[1]))
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model.eval().requires_grad_(False)
