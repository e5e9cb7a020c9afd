"""Small random hybrids, of recurrent layers and attention in turn, and prompts to decode."""

import copy

import torch

from reference.families import details_of
from reference.layers import VariedTransformer
from specsim.architecture import from_config

PROMPTS = [[17], [3, 41], [9, 9, 30, 2, 55], [8, 7, 6, 5, 4, 3, 2, 1, 0], [60, 0] * 10]
CONFIG = {
    "model_type": "qwen3_5_text", "hidden_size": 32, "intermediate_size": 48, "head_dim": 8,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 61,
    "max_position_embeddings": 128, "full_attention_interval": 2, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4,
}  # fmt: skip
SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "head_dim": 4, "linear_key_head_dim": 4,
    "linear_value_head_dim": 4, "intermediate_size": 16, "linear_num_value_heads": 2,
}  # fmt: skip


def hybrid(seed: int = 0, *, dtype: torch.dtype = torch.float64, **changes) -> VariedTransformer:
    """A random hybrid: layers in turn recurrent and attention."""
    config = CONFIG | changes
    shape = from_config(config, "hybrid")
    model = VariedTransformer(shape, details_of(config, shape))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "embedding.weight":
                parameter.copy_(noise)
            elif name == "head.weight":
                parameter.copy_(3 * noise / parameter.shape[1] ** 0.5)
            elif name.endswith("kernel"):
                parameter.copy_(noise / 2)
            elif name.endswith("log_decay"):  # a memory of some tens of tokens
                parameter.copy_(0.7 * noise - 2.5)
            elif parameter.ndim >= 2:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.copy_(1 + 0.2 * noise)
    return model.to(dtype).eval().requires_grad_(False)


def noisy(model, noise: float = 0.12, seed: int = 1):
    """A copy with noise in its matrices: a draft that is right sometimes."""
    made, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter += (
                    noise * parameter.std() * torch.randn(parameter.shape, generator=generator)
                )
    return made
