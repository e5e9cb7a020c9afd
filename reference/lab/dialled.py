"""Dialled pairs: synthetic pairs with a target acceptance rate.

The weights are random, and the draft is the target's first k layers. Such a pair can have any size.
It moves the same bytes as a trained pair of that size, and its drafts are really accepted or
rejected. Epsilon scales what the later layers add to the residual stream (`output` and `down` of
layers >= k), and so "dials" how much the whole model differs from its first k layers: epsilon 0
makes the draft perfect, epsilon 1 makes it useless, and alpha falls smoothly between them.

Its text is not language. Acceptance at one position is nearly independent of the next: alpha varies
between positions by .03 to .12, without memory. In real text it varies by .2 to .3, with memory. So
the i.i.d. acceptance model fits a dialled pair better than it fits language.
"""

import math
from collections.abc import Callable

import torch

from reference.drafters.early_exit import first_layers
from reference.memory import memory_for
from reference.packing import pack
from reference.transformer import Layer, Transformer, rotary_table
from specsim.architecture import Architecture, model
from specsim.checks import SpecsimError

ENTROPY_SCALE = 3.7  # logit standard deviation: about 3.8 nats of entropy over 8192 tokens
LARGEST = 2.0  # epsilon that is tried
DRAWN = 4_194_301  # of a model's random numbers, at most; see `NormalNumbers`
# A token that ends a text, and that no vocabulary has. Every checkpoint has some, and looking for
# them takes time; a random model is given this one where its times stand for theirs.
UNHEARD = frozenset([1 << 31])
# short names: a model of the catalog, and how many of its layers
SIZES = {"1b": ("llama-3.2-1b", 16), "8b": ("llama-3.1-8b", 32), "70b-slice": ("llama-3.1-70b", 8)}


def architecture_named(name: str) -> Architecture:
    """The model called 1b, 8b or 70b-slice (the first 8 of its 80 layers), or a model of the
    catalog or of a config.json.

    Raises SpecsimError, with similar names, if there is no such model.
    """
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
    packed: bool = True,
) -> tuple[Transformer, Transformer, float]:
    """A synthetic pair with the acceptance rate `alpha` at temperature 1.

    `dialled_to` finds the epsilon at which the mean overlap of the two distributions, over random
    contexts, is `alpha`. The draft is the target's first `draft_layers` layers. Its weights,
    including embedding and head, are the target's own tensors. `EarlyExit(draft_layers, gamma)`
    drafts from the same distribution and also shares the target's keys and values. `packed`: as in
    `load_checkpoint`.

    Returns target, draft and the alpha that was reached. Raises SpecsimError for an alpha outside
    (0, 1), or if the draft has as many layers as the target, or more.
    """
    if not 0 < alpha < 1:
        raise SpecsimError(f"alpha must be inside (0, 1) for a synthetic pair, not {alpha}")
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
    with torch.inference_mode():
        draft_probs = draft(contexts).float().softmax(-1)

        def overlap(epsilon: float) -> float:
            for weight, original in later:
                weight.copy_(original * epsilon)
            target_probs = target(contexts).float().softmax(-1)
            return torch.minimum(target_probs, draft_probs).sum(-1).mean().item()

        reached = dialled_to(alpha, overlap)
    target = pack(target) if packed else target
    return target, first_layers(target, draft_layers), reached


def dialled_to(alpha: float, overlap: Callable[[float], float]) -> float:
    """Call `overlap` with one epsilon after the other, the last of them the one at which it is
    nearly `alpha`, and return what it was there.

    It is 1 at epsilon 0, and falls; nearly nothing of it is taken to be left at LARGEST. Between
    them regula falsi finds the place (Illinois: an end that stays twice counts half).
    """
    low, above, high, below = 0.0, 1 - alpha, LARGEST, -alpha  # epsilons, and overlap - alpha there
    reached, side = math.nan, 0
    for _ in range(9):
        epsilon = (low * below - high * above) / (below - above)
        reached = overlap(epsilon)
        left = reached - alpha
        if abs(left) < 0.003:
            break
        if left > 0:
            low, above, below = epsilon, left, below / 2 if side > 0 else below
        else:
            high, below, above = epsilon, left, above / 2 if side < 0 else above
        side = 1 if left > 0 else -1
    return reached


def random_prompts(
    architecture: Architecture, count: int, length: int, seed: int = 0
) -> list[list[int]]:
    """Prompts of random token ids, for models with random weights."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(architecture.vocab_size, (count, length), generator=generator).tolist()


def into_the_stream(layer: Layer) -> list[torch.Tensor]:
    """The matrices of a layer whose results are added to the residual stream."""
    if layer.experts is None:
        return [layer.output.weight, layer.down.weight]
    shared = [layer.experts.shared_down.weight] if layer.experts.experts.shared_size else []
    return [layer.output.weight, layer.experts.down.weight, *shared]


@torch.inference_mode()
def random_model(
    architecture: Architecture, dtype: torch.dtype, device: torch.device | str, seed: int
) -> Transformer:
    """A model with random weights, scaled so that signals keep their size from layer to layer."""
    torch.manual_seed(seed)
    with torch.device("meta"):  # so that weights are allocated and initialised only once
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
    numbers = NormalNumbers(device, sum(p.numel() for p in model.parameters() if p.ndim >= 2))
    for name, parameter in model.named_parameters():
        if name == "embedding.weight":
            numbers.fill(parameter)
        elif name == "head.weight":
            numbers.fill(parameter, ENTROPY_SCALE / math.sqrt(architecture.hidden_size))
        elif parameter.ndim >= 2:
            numbers.fill(parameter, 1 / math.sqrt(parameter.shape[-1]))
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model.eval().requires_grad_(False)


class NormalNumbers:
    """Normal numbers that fill tensors one after the other. The first DRAWN are drawn, those after
    them repeat them.

    Drawing a billion numbers takes a quarter of a minute, copying them half a second. DRAWN is a
    prime, so that a row repeats another one moved by some places, and their products with any
    vector are as unlike as those of drawn rows.
    """

    def __init__(self, device: torch.device | str, most: int):
        self.drawn, self.place = torch.randn(min(DRAWN, most), device=device), 0

    def fill(self, tensor: torch.Tensor, std: float = 1.0) -> None:
        """Fill a contiguous tensor with the next numbers, times `std`."""
        whole, done = tensor.view(-1), 0
        scaled = self.drawn if std == 1 else self.drawn * std
        while done < len(whole):
            part = scaled[self.place :][: len(whole) - done]
            whole[done : done + len(part)] = part
            done += len(part)
            self.place = (self.place + len(part)) % len(scaled)
