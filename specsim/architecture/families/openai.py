"""GPT-2, OPT and Phi-2, which came before the Llama shape, and gpt-oss."""

from specsim.architecture.families.common import (
    Reader,
    all_biased,
    alternating,
    attention_with,
    four_times_hidden,
    head_size,
    llama_biases,
)
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Experts

DEFAULTS: dict[str, Fields] = {
    "gpt_oss": {"attention_bias": True, "sliding_window_pattern": 2},
    "opt": {"tie_word_embeddings": True, "activation_function": "relu"},
    "gpt2": {"tie_word_embeddings": True, "activation_function": "gelu_new"},
    "phi": {"hidden_act": "gelu_new"},
}


def _phi(c: Config) -> Fields:
    """Attention and MLP side by side from one LayerNorm; a bias on everything, the head too."""
    normed = attention_with(norm_elements=4 * head_size(c) if c.flag("qk_layernorm") else 0)
    return (
        all_biased()
        | {"head_bias": True, "norms_per_layer": 1}
        | ({"each_layer": normed} if c.flag("qk_layernorm") else {})
    )


def _gpt_oss(c: Config) -> Fields:
    experts = Experts(
        count=c.size("num_local_experts"),
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=c.size("intermediate_size"),
        router_bias=True,
        biases=True,
    )
    return llama_biases(c) | alternating(c) | {"experts": experts, "attention_sinks": True}


def _opt(c: Config) -> Fields:
    c.refuse("do_layer_norm_before", True)
    c.refuse("word_embed_proj_dim", c.size("hidden_size"))
    c.refuse("enable_bias", True)
    return all_biased() | {"learned_positions": c.size("max_position_embeddings") + 2}


def _gpt2(c: Config) -> Fields:
    return all_biased() | {"learned_positions": c.size("n_positions")}


SPELLINGS: dict[str, Reader] = {"gpt2": four_times_hidden}
FAMILIES: dict[str, Reader] = {
    "phi": _phi,
    "gpt_oss": _gpt_oss,
    "opt": _opt,
    "gpt2": _gpt2,
}
