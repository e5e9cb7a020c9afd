"""Gemma: windows in most layers, four norms, soft caps."""

from specsim.architecture.families.common import Reader, alternating
from specsim.architecture.fields import Config, Fields

DEFAULTS: dict[str, Fields] = {
    "gemma": {"tie_word_embeddings": True, "head_dim": 256, "hidden_act": "gelu"},
    "gemma2": {"tie_word_embeddings": True, "head_dim": 256, "sliding_window": 4096}
    | {"hidden_activation": "gelu_pytorch_tanh", "sliding_window_pattern": 2},
    "gemma3_text": {"tie_word_embeddings": True, "head_dim": 256, "sliding_window": 4096}
    | {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262_208}
    | {"hidden_activation": "gelu_pytorch_tanh", "sliding_window_pattern": 6}
    | {"max_position_embeddings": 131_072, "rope_theta": 1e6, "rms_norm_eps": 1e-6},
}


def _gemma2(c: Config) -> Fields:
    caps = {
        "attention_softcap": c.get("attn_logit_softcapping"),
        "logit_softcap": c.get("final_logit_softcapping"),
    }
    return caps | {"norms_per_layer": 4} | alternating(c)


def _gemma3(c: Config) -> Fields:
    return _gemma2(c) | {"qk_norm": True}


FAMILIES: dict[str, Reader] = {
    "gemma": lambda c: {},
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
}
