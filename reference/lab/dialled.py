"""Dialled pairs: random weights of any shape, whose draft is the target's first layers, with the
acceptance asked for.

Where no trained pair of a size is at hand, this one moves the same bytes and accepts drafts for
real. Scaling what the later layers add to the residual stream (`output` and `down` of layers >= k,
by epsilon) dials how far the whole model departs from its first k layers: epsilon 0 makes the draft
perfect, 1 makes it useless, and alpha falls smoothly between.

It is not text. Its acceptance is closer to independent from position to position than real text's:
the spread of alpha between positions is .03 to .12 and has no memory, where real text's is .2 to .3
and has one. So the i.i.d. model fits it better than it fits language.
"""

import copy
import math

import torch

from reference.drafters.early_exit import first_layers
from reference.memory import memory_for
from reference.packing import pack
from reference.transformer import Layer, Transformer, rotary_table
from specsim.architecture import Architecture, model
from specsim.checks import SpecsimError

ENTROPY_SCALE = 3.7  # logit standard deviation: about 3.8 nats of entropy over 8192 tokens
# sizes by a short name: a preset, and how many of its layers
SIZES = {"1b": ("llama-3.2-1b", 16), "8b": ("llama-3.1-8b", 32), "70b-slice": ("llama-3.1-70b", 8)}


def shape_named(name: str) -> Architecture:
    """The shape called 1b, 8b or 70b-slice (the first 8 of its 80 layers), or that of a preset or a
    config.json; SpecsimError with what is near if there is none such."""
    if name not in SIZES:
        return model(name)
    preset, layers = SIZES[name]
    return model(preset).first_layers(layers)


def dialled_pair(
    architecture: Architecture,
    draft_layers: int,
    alpha: float,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    seed: int = 0,
    shared: bool = True,
) -> tuple[Transformer, Transformer, float]:
    """Target, draft (its first `draft_layers` layers) and the alpha that was reached at
    temperature 1.

    Epsilon is found by bisection on the mean overlap of the two laws over random contexts; the last
    value of that mean is returned. The weights of the draft, its embedding and head among them, are
    the target's own tensors where `shared`, else copies, whose bytes are moved from elsewhere. To
    share keys and values too, draft with `EarlyExit(draft_layers, gamma)`: the same law from the
    target's cache. Raises SpecsimError for an alpha outside (0, 1) or more draft layers than the
    target has.
    """
    if not 0 < alpha < 1:
        raise SpecsimError(f"alpha must be inside (0, 1) for a dialled pair, not {alpha}")
    architecture.first_layers(draft_layers)
    if draft_layers == architecture.num_layers:
        raise SpecsimError(f"a draft of all {draft_layers} layers is the target itself")
    target = random_model(architecture, dtype, device, seed)
    draft = first_layers(target, draft_layers)
    later = [
        (weight, weight.clone())
        for layer in target.layers[draft_layers:]
        for weight in into_the_stream(layer)
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
    if not shared:
        draft = copy.deepcopy(draft)  # before the target's layers are packed
        return pack(target), pack(draft), reached
    target = pack(target)
    return target, first_layers(target, draft_layers), reached


def random_prompts(
    architecture: Architecture, count: int, length: int, seed: int = 0
) -> list[list[int]]:
    """Prompts of token ids without meaning, which is all that random weights can read."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(architecture.vocab_size, (count, length), generator=generator).tolist()


def into_the_stream(layer: Layer) -> list[torch.Tensor]:
    """The matrices of a layer whose products are added to the residual stream."""
    if layer.experts is None:
        return [layer.output.weight, layer.down.weight]
    shared = [layer.experts.shared_down.weight] if layer.experts.experts.shared_size else []
    return [layer.output.weight, layer.experts.down.weight, *shared]


@torch.inference_mode()
def random_model(
    architecture: Architecture, dtype: torch.dtype, device: torch.device | str, seed: int
) -> Transformer:
    """Random weights under which signals neither grow nor fade: embeddings of unit size, products
    of unit gain."""
    torch.manual_seed(seed)
    with torch.device("meta"):  # nothing is allocated or initialised twice
        model = Transformer(architecture).to(dtype)
    with memory_for(
        f"the weights of {architecture.name}",
        architecture.parameters * dtype.itemsize,
        torch.device(device),
    ):
        model.to_empty(device=device)
    model.rotary = rotary_table(architecture).to(device, dtype)
    if architecture.tied_head:
        model.head.weight = model.embedding.weight
    for name, parameter in model.named_parameters():
        if name == "embedding.weight":
            parameter.normal_(std=1.0)
        elif name == "head.weight":
            parameter.normal_(std=ENTROPY_SCALE / math.sqrt(architecture.hidden_size))
        elif parameter.ndim >= 2:
            parameter.normal_(std=1 / math.sqrt(parameter.shape[-1]))
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model.eval().requires_grad_(False)
