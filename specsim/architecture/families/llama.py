"""Llama and those of its shape: Mistral, Mixtral, Phi-3 and many more, each with a twist at most.

They differ in biases, windows, norms of the heads and the form of the MLP.
"""

from dataclasses import replace

from specsim.architecture.families.common import (
    Reader,
    alternating,
    attention_with,
    biased_everywhere,
    both,
    head_size,
    llama_biases,
    mlp_with,
    turned_layers,
    window,
    windows_everywhere,
)
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Experts, Layer
from specsim.checks import SpecsimError

DEFAULTS: dict[str, Fields] = {"exaone4": {"sliding_window_pattern": 4}}


def _mixtral(c: Config) -> Fields:
    experts = Experts(
        count=c.size("num_local_experts"),
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=c.size("intermediate_size"),
    )
    return windows_everywhere(c) | {"experts": experts}


def _attention_bias(c: Config) -> Fields:
    """One flag for all four projections."""
    bias = c.flag("attention_bias")
    return {"qkv_bias": bias, "output_bias": bias}


def _seed_oss(c: Config) -> Fields:
    return llama_biases(c) | {"output_bias": c.flag("attention_out_bias")}


def _arcee(c: Config) -> Fields:
    return llama_biases(c) | {"gated_mlp": False}


def _apertus(c: Config) -> Fields:
    """Norms of the heads, and an activation with two learned numbers (xIELU)."""
    learned = {"each_layer": mlp_with(small_parameters=2)}
    return _attention_bias(c) | {"qk_norm": True, "gated_mlp": False} | learned


def _hyperclovax(c: Config) -> Fields:
    return llama_biases(c) | {"norms_per_layer": 4 if c.flag("use_post_norm") else 2}


def _smollm3(c: Config) -> Fields:
    """Some layers without RoPE, which have a window where windows are in use."""
    turned = turned_layers(c)
    slides = c.flag("use_sliding_window")
    windows = window(c, lambda index: not turned[index]) if slides else {}
    return llama_biases(c) | windows


def _exaone4(c: Config) -> Fields:
    return alternating(c) | {"qk_norm": True}


def _cwm(c: Config) -> Fields:
    return window(c, lambda index: index % 4 > 0) | {"mlp_bias": c.flag("mlp_bias")}


def _bitnet(c: Config) -> Fields:
    """Two more norms, in front of the output projection and of the down projection."""
    query_size = c.size("num_attention_heads") * head_size(c)
    before_output = attention_with(small_parameters=query_size)
    before_down = mlp_with(small_parameters=c.size("intermediate_size"))
    return _attention_bias(c) | {"each_layer": both(before_output, before_down)}


def _diffllama(c: Config) -> Fields:
    """The difference of two attentions (arXiv:2410.05258), weighed by four vectors per layer."""
    lambdas = attention_with(small_parameters=4 * head_size(c))
    return _attention_bias(c) | {"each_layer": lambdas}


def _doge(c: Config) -> Fields:
    """Learned scales of the residuals, and a matrix of the values that makes an attention mask."""
    c.refuse("is_moe", False)
    kv_heads = c.size("num_key_value_heads", default=c.size("num_attention_heads"))
    mask = ((kv_heads * head_size(c), kv_heads),)
    scales, small = 2 * c.size("hidden_size"), kv_heads * (2 if c.flag("attention_bias") else 1)

    def change(layer: Layer, index: int) -> Layer:
        masked = attention_with(small_parameters=small)(layer, index)
        return replace(masked, small_parameters=scales, matrices=mask)

    return llama_biases(c) | {"qk_norm": True, "each_layer": change}


def _nanochat(c: Config) -> Fields:
    cap = {"logit_softcap": c.get("final_logit_softcapping")}
    return _attention_bias(c) | {"norm": "none", "gated_mlp": False} | cap


def _jais2(c: Config) -> Fields:
    return llama_biases(c) | {"norm": "layer", "gated_mlp": False}


def _internlm3(c: Config) -> Fields:
    return llama_biases(c) | {
        key: c.flag(old)
        for key, old in (("qkv_bias", "qkv_bias"), ("output_bias", "bias"), ("mlp_bias", "bias"))
        if c.get(old) is not None
    }


def from_params(c: Config) -> Fields:
    """Mistral's own `params.json` in the spelling of Hugging Face."""
    for key in ("q_lora_rank", "kv_lora_rank", "ssm", "llama_4_scaling"):
        if c.get(key):
            raise SpecsimError(
                f"{c.name}: params.json with {key!r} is not supported; pass the config.json of "
                "the same model"
            )
    moe = c.inner("moe")
    return {
        "model_type": "mixtral" if moe.values else "mistral",
        "hidden_size": c.size("dim"),
        "num_hidden_layers": c.size("n_layers"),
        "num_attention_heads": c.size("n_heads"),
        "num_key_value_heads": c.get("n_kv_heads"),
        "head_dim": c.get("head_dim"),
        "intermediate_size": c.size("hidden_dim"),
        "vocab_size": c.size("vocab_size"),
        "num_local_experts": moe.get("num_experts"),
        "num_experts_per_tok": moe.get("num_experts_per_tok"),
        "tie_word_embeddings": c.flag("tied_embeddings"),
        "rope_theta": c.get("rope_theta"),
        "rms_norm_eps": c.get("norm_eps"),
        "sliding_window": c.get("sliding_window"),
        "max_position_embeddings": c.get("max_seq_len", "max_position_embeddings"),
    }


FAMILIES: dict[str, Reader] = {
    "llama": llama_biases,
    "mistral": windows_everywhere,
    "mixtral": _mixtral,
    "phi3": windows_everywhere,
    "phi4mm": windows_everywhere,
    "phi4_multimodal": windows_everywhere,
    "ministral": windows_everywhere,
    "ministral3": windows_everywhere,
    "seed_oss": _seed_oss,
    "arcee": _arcee,
    "helium": lambda c: {"qkv_bias": c.flag("attention_bias"), "mlp_bias": c.flag("mlp_bias")},
    "apertus": _apertus,
    "hyperclovax": _hyperclovax,
    "smollm3": _smollm3,
    "exaone": lambda c: {},
    "exaone4": _exaone4,
    "cwm": _cwm,
    "bitnet": _bitnet,
    "diffllama": _diffllama,
    "doge": _doge,
    "nanochat": _nanochat,
    "jais2": _jais2,
    "internlm2": lambda c: biased_everywhere(c.flag("bias")) | {"mlp_bias": False},
    "internlm3": _internlm3,
    "iquestcoder": llama_biases,
    "emu3_text_model": llama_biases,
    "minicpm": llama_biases,
    "ernie4_5": lambda c: biased_everywhere(c.flag("use_bias")),
    "hunyuan_v1_dense": lambda c: _attention_bias(c) | {"qk_norm": True},
}
