"""GLM: biases on q, k and v alone; from GLM-4 on norms after each block, or experts."""

from specsim.architecture.families.common import Reader, experts
from specsim.architecture.fields import Config, Fields

DEFAULTS: dict[str, Fields] = {
    "chatglm": {"add_qkv_bias": True},
}


def _glm(c: Config) -> Fields:
    return {"qkv_bias": c.flag("attention_bias")}


def _glm4_experts(c: Config) -> Fields:
    return _glm(c) | {
        "qk_norm": c.flag("use_qk_norm"),
        "experts": experts(c),
        "mtp_layers": c.count("num_nextn_predict_layers"),
    }


def _spelled_chatglm(c: Config) -> Fields:
    """The names of THUDM's own code (GLM-4-9B)."""
    groups = c.get("multi_query_group_num") if c.flag("multi_query_attention") else None
    return {
        "num_key_value_heads": groups or c.size("num_attention_heads"),
        "attention_bias": c.flag("add_qkv_bias") or c.flag("add_bias_linear"),
        "vocab_size": c.size("padded_vocab_size", "vocab_size"),
    }


SPELLINGS: dict[str, Reader] = {"chatglm": _spelled_chatglm}
FAMILIES: dict[str, Reader] = {
    "chatglm": _glm,
    "glm": _glm,
    "glm4": lambda c: _glm(c) | {"norms_per_layer": 4},
    "glm4_moe": _glm4_experts,
    "glm4v_text": lambda c: {"qkv_bias": True, "norms_per_layer": 4},
    "glm4v_moe_text": _glm4_experts,
}
