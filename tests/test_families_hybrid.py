"""Families with a constant state or sparse attention: parameters against transformers' own models
on the meta device, states against transformers' own caches, published sizes."""

from dataclasses import replace
from typing import Any

import pytest

from specsim.architecture import from_config

SMALL = {"vocab_size": 120, "hidden_size": 64, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
MLP = {"intermediate_size": 96}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SHARED = {"shared_expert_intermediate_size": 40}
ROUTED = {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
         "linear_value_head_dim": 12, "linear_conv_kernel_dim": 3}  # fmt: skip
FOUR = {"num_hidden_layers": 4, "layer_types": ["linear_attention"] * 3 + ["full_attention"]}
QWEN = SMALL | HEADS | DELTA | FOUR | {"head_dim": 20}
LATENT = {"kv_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 16}
KIMI = SMALL | MLP | EXPERTS | LATENT | {"num_attention_heads": 4, "num_key_value_heads": 4,
        "num_shared_experts": 1, "linear_head_dim": 16, "linear_num_heads": 4,
        "num_hidden_layers": 4, "first_k_dense_replace": 1}  # fmt: skip
KIMI |= {"num_experts_per_token": 2, "layer_types": FOUR["layer_types"],
         "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}  # fmt: skip
SSM = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 24,
       "mamba_d_conv": 3, "mamba_expand": 2}  # fmt: skip
BAMBA = SMALL | HEADS | MLP | SSM | {"num_hidden_layers": 3, "attn_layer_indices": [1]}
NEMOTRON = SMALL | HEADS | MLP | ROUTED | {"head_dim": 24, "mamba_num_heads": 4, "n_groups": 2,
            "mamba_head_dim": 12, "ssm_state_size": 20, "n_shared_experts": 1, "conv_kernel": 3,
            "moe_shared_expert_intermediate_size": 40,
            "layers_block_type": ["mamba", "moe", "attention", "mlp", "mamba"]}  # fmt: skip
FALCON = SMALL | HEADS | MLP | SSM | {"mamba_d_ssm": 48, "mamba_n_heads": 4, "mamba_d_head": 12,
          "num_hidden_layers": 2, "head_dim": 24}  # fmt: skip
GRANITE = SMALL | HEADS | MLP | SSM | {"num_local_experts": 6, "num_experts_per_tok": 2,
           "shared_intermediate_size": 40, "num_hidden_layers": 3,
           "layer_types": ["mamba", "attention", "mamba"]}  # fmt: skip
JAMBA = SMALL | HEADS | MLP | {"num_experts": 4, "num_hidden_layers": 8, "mamba_d_state": 6,
         "mamba_dt_rank": 10, "mamba_d_conv": 3}  # fmt: skip
ZAMBA = SMALL | {"num_attention_heads": 4, "num_key_value_heads": 4, "attention_head_dim": 32,
         "intermediate_size": 96, "num_hidden_layers": 8, "mamba_d_state": 6, "mamba_d_conv": 3,
         "attention_hidden_size": 128, "attn_layer_period": 2, "attn_layer_offset": 1,
         "mamba_dt_rank": 10}  # fmt: skip
ZAMBA2 = SMALL | {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 96,
          "num_hidden_layers": 6, "n_mamba_heads": 4, "mamba_d_state": 6, "adapter_rank": 5,
          "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba", "hybrid"]}  # fmt: skip
MAMBA = SMALL | {"num_hidden_layers": 2, "state_size": 6, "conv_kernel": 3, "expand": 2}
LFM = SMALL | HEADS | MLP | {"num_hidden_layers": 3, "block_multiple_of": 16,
       "layer_types": ["conv", "full_attention", "conv"]}  # fmt: skip
INDEX = {"index_n_heads": 3, "index_head_dim": 16, "index_topk": 32}
DSA = SMALL | MLP | ROUTED | LATENT | INDEX | {"num_attention_heads": 4, "q_lora_rank": 20,
       "num_key_value_heads": 4, "num_hidden_layers": 4, "first_k_dense_replace": 1,
       "mlp_layer_types": ["dense"] + ["sparse"] * 3}  # fmt: skip
V4 = SMALL | ROUTED | INDEX | {"num_attention_heads": 4, "head_dim": 32, "q_lora_rank": 20,
      "o_groups": 2, "o_lora_rank": 12, "sliding_window": 16, "num_hidden_layers": 5,
      "compress_ratios": [0, 0, 4, 128, 4, 0], "num_hash_layers": 1}  # fmt: skip
M3 = SMALL | HEADS | {"head_dim": 24, "dense_intermediate_size": 96, "intermediate_size": 24,
      "shared_intermediate_size": 40, "num_local_experts": 6, "num_experts_per_tok": 2,
      "num_hidden_layers": 4, "index_n_heads": 2, "index_head_dim": 16,
      "layer_types": ["full_attention"] + ["minimax_m3_sparse"] * 3,
      "mlp_layer_types": ["dense"] + ["sparse"] * 3}  # fmt: skip
LFM3_KINDS = {"layer_types": ["conv", "full_attention", "sliding_attention"]}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_next": ("qwen3_next", QWEN | MLP | EXPERTS | SHARED | {"mlp_only_layers": [1]}),
    "qwen3_5": ("qwen3_5_text", QWEN | MLP),
    "qwen3_5 tied": ("qwen3_5_text", QWEN | MLP | {"tie_word_embeddings": True}),
    "qwen3_5_moe": ("qwen3_5_moe_text", QWEN | EXPERTS | SHARED),
    "olmo_hybrid": ("olmo_hybrid", SMALL | HEADS | MLP | DELTA | FOUR),
    "kimi_linear": ("kimi_linear", KIMI),
    "kimi_linear low-rank queries": ("kimi_linear", KIMI | {"q_lora_rank": 20}),
    "bailing_hybrid": ("bailing_hybrid", KIMI),
    "minimax": ("minimax", SMALL | HEADS | MLP | {"num_hidden_layers": 4, "head_dim": 24,
                "num_local_experts": 4, "num_experts_per_tok": 2}),
    "granite": ("granitemoehybrid", GRANITE),
    "granite dense": ("granitemoehybrid", GRANITE | {"num_local_experts": 0}),
    "granite biased": ("granitemoehybrid", GRANITE | {"mamba_proj_bias": True,
                       "mamba_conv_bias": False, "attention_bias": True}),
    "bamba": ("bamba", BAMBA),
    "bamba biased": ("bamba", BAMBA | {"mamba_proj_bias": True, "attention_bias": True,
                     "mlp_bias": True}),
    "jamba": ("jamba", JAMBA),
    "jamba auto": ("jamba", JAMBA | {"mamba_dt_rank": "auto", "mamba_proj_bias": True}),
    "falcon_h1": ("falcon_h1", FALCON),
    "falcon_h1 biased": ("falcon_h1", FALCON | {"mamba_rms_norm": True, "projectors_bias": True}),
    "falcon_h1 other biases": ("falcon_h1", FALCON | {"mamba_proj_bias": True, "mlp_bias": True,
                               "attention_bias": True, "mamba_d_ssm": None, "mamba_d_head": 32}),
    "nemotron_h": ("nemotron_h", NEMOTRON),
    "nemotron_h latent": ("nemotron_h", NEMOTRON | {"moe_latent_size": 20}),
    "nemotron_h biased": ("nemotron_h", NEMOTRON | {"moe_latent_size": 20, "mlp_bias": True,
                          "use_bias": True, "use_conv_bias": False}),
    "zamba": ("zamba", ZAMBA),
    "zamba2": ("zamba2", ZAMBA2),
    "zamba2 two blocks": ("zamba2", ZAMBA2 | {"num_mem_blocks": 2,
                          "use_shared_attention_adapter": True}),
    "mamba": ("mamba", MAMBA),
    "mamba biased": ("mamba", MAMBA | {"use_bias": True, "use_conv_bias": False,
                     "tie_word_embeddings": False}),
    "falcon_mamba": ("falcon_mamba", MAMBA),
    "mamba2": ("mamba2", MAMBA | {"num_heads": 8, "head_dim": 16, "n_groups": 2}),
    "recurrent_gemma": ("recurrent_gemma", SMALL | HEADS | MLP | {"num_hidden_layers": 4,
                        "lru_width": 32, "conv1d_width": 3}),
    "lfm2": ("lfm2", LFM),
    "lfm2 biased": ("lfm2", LFM | {"conv_bias": True, "block_auto_adjust_ff_dim": False}),
    "lfm2_moe": ("lfm2_moe", LFM | EXPERTS | {"num_dense_layers": 1}),
    "lfm3": ("lfm3", SMALL | HEADS | MLP | LFM3_KINDS | {"num_hidden_layers": 3, "head_dim": 24}),
    "rwkv": ("rwkv", SMALL | {"num_hidden_layers": 2, "attention_hidden_size": 64,
             "intermediate_size": 96}),
    "xlstm": ("xlstm", SMALL | {"num_hidden_layers": 2, "num_heads": 4, "num_blocks": 2,
              "embedding_dim": 64}),
    "deepseek_v32": ("deepseek_v32", DSA),
    "glm_moe_dsa": ("glm_moe_dsa", DSA),
    "glm_moe_dsa shared": ("glm_moe_dsa", DSA | {"index_topk_freq": 2}),
    "hy_v4": ("hy_v4", DSA | {"indexer_types": ["full", "shared", "shared", "full"]}),
    "deepseek_v4": ("deepseek_v4", V4),
    "minimax_m3": ("minimax_m3_vl_text", M3),
}  # fmt: skip
CORRECTIONS = ("e_score_correction_bias", "expert_bias")


def of_transformers(model_type, given):
    """transformers' configuration and model on the meta device; skips what it lacks."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    transformers.logging.set_verbosity_error()
    try:
        config = transformers.AutoConfig.for_model(model_type, **given)
    except ValueError:
        pytest.skip(f"this version of transformers has no {model_type}")
    with torch.device("meta"):
        return config, transformers.AutoModelForCausalLM.from_config(config)


def stored(model):
    """What a checkpoint holds: parameters, and the corrections of a router's scores, which
    transformers keeps as buffers."""
    buffers = [b for name, b in model.named_buffers() if name.endswith(CORRECTIONS)]
    return sum(each.numel() for each in (*model.parameters(), *buffers))


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_those_of_transformers(case):
    model_type, given = CASES[case]
    config, theirs = of_transformers(model_type, given)
    as_saved = config.to_dict() | {"model_type": model_type}
    assert from_config(as_saved, case).parameters == stored(theirs)
    # and as older files spell it
    assert from_config(given | {"model_type": model_type}, case).parameters == stored(theirs)
