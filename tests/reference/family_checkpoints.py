"""Tiny checkpoints of the families that the decoder runs, as transformers writes them."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 64}  # fmt: skip
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.1, 1.3, 1.6],
            "long_factor": [1.2, 2.5, 4.0, 9.0]}  # fmt: skip
BIASES = {"attention_bias": True, "mlp_bias": True}
DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 12, "linear_conv_kernel_dim": 4, "num_hidden_layers": 4,
    "head_dim": 16,
}  # fmt: skip
EXPERTS = {
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40, "norm_topk_prob": True,
}  # fmt: skip
GEMMA = {"head_dim": 16, "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0}
# name -> transformers' class, fields of its config
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, biased": ("Llama", BIASES),
    "llama, linear": ("Llama", {"rope_parameters": LINEAR}),
    "llama, yarn": ("Llama", {"rope_parameters": YARN}),
    "qwen2, yarn": ("Qwen2", {"rope_parameters": YARN | {"attention_factor": 0.7}}),
    "qwen3, biased": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
    "mistral, window": ("Mistral", {"sliding_window": 40}),
    "phi3": ("Phi3", {"sliding_window": None, "pad_token_id": 0}),
    "phi3, window": ("Phi3", {"sliding_window": 40, "pad_token_id": 0}),
    "phi4-mini": ("Phi3", {"pad_token_id": 0, "tie_word_embeddings": True, "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}}),
    "phi3, longrope": ("Phi3", {"pad_token_id": 0, "original_max_position_embeddings": 64,
                               "rope_parameters": LONGROPE}),
    "phi4-mini, longrope": ("Phi3", {
        "pad_token_id": 0, "original_max_position_embeddings": 64, "tie_word_embeddings": True,
        "rope_parameters": LONGROPE | {"partial_rotary_factor": 0.75, "short_factor": [1.0] * 3,
                                       "long_factor": [1.2, 3.0, 7.0]}}),
    "llama, longrope": ("Llama", {"rope_parameters": LONGROPE | {
        "original_max_position_embeddings": 64, "factor": 3.0}}),
    "granite": ("Granite", BIASES | {"embedding_multiplier": 12.0, "attention_multiplier": 0.2,
                "residual_multiplier": 0.22, "logits_scaling": 4.0, "tie_word_embeddings": True}),
    "arcee": ("Arcee", {"rope_parameters": YARN}),
    "arcee, biased": ("Arcee", BIASES),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 0, 1], "num_hidden_layers": 3,
                "pad_token_id": 0, "bos_token_id": 1, "use_sliding_window": False}),
    "smollm3, window": ("SmolLM3", {"no_rope_layers": [1, 0, 1], "num_hidden_layers": 3,
                        "pad_token_id": 0, "bos_token_id": 1, "use_sliding_window": True,
                        "sliding_window": 40}),
    "ministral3": ("Ministral3", {"head_dim": 16, "rope_parameters": YARN | {
        "llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0}}),
    "olmo2": ("Olmo2", {}),
    "olmo3": ("Olmo3", {"sliding_window": 40, "num_hidden_layers": 4}),
    "glm4": ("Glm4", {"head_dim": 16, "attention_bias": True, "pad_token_id": 0}),
    "seed_oss": ("SeedOss", {"head_dim": 16, "attention_bias": True, "attention_out_bias": True,
                             "mlp_bias": True}),
    "helium": ("Helium", {"head_dim": 8, "attention_bias": True, "pad_token_id": 0}),
    "gemma": ("Gemma", GEMMA | {"hidden_act": "gelu_pytorch_tanh"}),
    "gemma2": ("Gemma2", GEMMA | {"sliding_window": 40, "query_pre_attn_scalar": 24,
               "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3Text", GEMMA | {"sliding_window": 40, "query_pre_attn_scalar": 24,
               "num_hidden_layers": 3, "layer_types": ["sliding_attention", "full_attention",
                                                       "sliding_attention"],
               "rope_parameters": {"full_attention": LINEAR | {"rope_theta": 1e6},
               "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
    "qwen3.5": ("Qwen3_5Text", DELTA),
    "qwen3.5, tied": ("Qwen3_5Text", DELTA | {"tie_word_embeddings": True}),
    "qwen3-next": ("Qwen3Next", DELTA | EXPERTS),
    "qwen3-next, dense": ("Qwen3Next", DELTA | EXPERTS | {"mlp_only_layers": [0, 1, 2, 3]}),
    "qwen3.5-moe": ("Qwen3_5MoeText", DELTA | EXPERTS),
}  # fmt: skip
HYBRIDS = [name for name, (family, _) in FAMILIES.items() if family.startswith("Qwen3_5")
           or family == "Qwen3Next"]  # fmt: skip
SIZES = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "eos_token_id": 7,
}  # fmt: skip
TOKENS = torch.randint(97, (2, 150), generator=torch.Generator().manual_seed(0))


def made(transformers, name: str, seed: int = 0):
    """One of transformers' models, random all over: every norm, bias and gate takes part."""
    family, changes = FAMILIES[name]
    config = getattr(transformers, f"{family}Config")(**(SIZES | changes))
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config)
    model = model.float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if key.endswith("conv1d.weight"):
                parameter.copy_(noise / 2)
            elif key.endswith("A_log"):  # states that remember some tens of tokens
                parameter.copy_(0.7 * noise - 2.5)
            elif parameter.ndim >= 2:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
                if "embed" in key or "lm_head" in key:
                    parameter.mul_(1.5)
            elif key.endswith("bias"):
                parameter.copy_(0.3 * noise)
            else:  # around what the norm's weight is at the start, 1 or 0
                parameter.add_(0.2 * noise)
    return model


def saved(model, folder: Path) -> Tensor:
    """Write `model` as a checkpoint; its logits of TOKENS."""
    with torch.no_grad():
        logits = model(TOKENS).logits
    model.save_pretrained(folder)
    return logits


def edit_config(folder: Path, **changes) -> None:
    """Change the fields of a config.json; None takes a field away."""
    config = json.loads((folder / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
